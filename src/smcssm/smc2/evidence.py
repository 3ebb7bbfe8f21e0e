"""The evidence by importance sampling, at no cost: what it says of the running estimate, and how it corrects it.

Challengers are drawn from a known q, independently of the population, and their likelihoods are computed to judge them.
So they are an importance sample of the whole posterior as well,

    w_j = prior(theta_j) L(theta_j) / q(theta_j),    Z ~ mean of w,    error from ESS(w), trust from its Pareto k

The running evidence is a product over the stream, whose error grows with every resampling; that of importance sampling
does not. Both are without bias, and independent given q, so that their mean by variances is the better estimate:

    Z <- (1 - a) Z + a mean of w,    a = var Z / (var Z + var of the mean of w)

No particle changes, and none is needed: but groups of particles, whose shares of the weight are their evidences, get
theirs from challengers of their own q.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from smcssm.resampling import effective_sample_size, log_mean_weight, normalise, pareto_shape
from smcssm.smc2.adapt import group_variance
from smcssm.smc2.challengers import Challengers, tempered_log_density
from smcssm.smc2.population import SMC2, Population, at_full_exponent, select

SOUND = 0.5  # Pareto k up to which weights have a variance
CONSISTENT = 4  # standard deviations between the two estimates


def importance_weights(
    smc: SMC2, challengers: Challengers, log_q: Float[Array, "s kn"]
) -> Float[Array, "s kn"]:
    """Log importance weights of the challengers under the whole posterior; NaN made -inf."""
    log_weight = tempered_log_density(smc, jnp.ones(len(log_q)), challengers) - log_q
    return jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)


def compared(
    smc: SMC2, population: Population, log_weight: Float[Array, "s kn"]
) -> tuple[Float[Array, " s"], Float[Array, " s"], Float[Array, " s"]]:
    """Pareto k of importance weights, and their log evidence less the running one, with the sd of that gap.

    The running evidence's own error is the larger of what groups and resamplings show.
    """
    log_weight = jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
    estimate = log_mean_weight(log_weight) - population.log_mass
    sd = jnp.sqrt(_relative_variance(log_weight) + own_variance(smc, population))
    return jax.vmap(pareto_shape)(log_weight), estimate - population.log_evidence, sd


def own_variance(smc: SMC2, population: Population) -> Float[Array, " s"]:
    """Of the running log evidence."""
    between = population.evidence_variance + group_variance(smc, population.log_weight)
    return jnp.maximum(between, population.lost)


def missed(
    smc: SMC2, population: Population, own_log_q: Float[Array, "s n"], log_weight: Float[Array, "s kn"]
) -> Bool[Array, " s"]:
    """Whether there is a mode, with 5% of the population, that challengers know nothing of, since q has missed it."""
    return unseen(smc, population, own_log_q, log_weight) > 0.05


def unseen(
    smc: SMC2, population: Population, own_log_q: Float[Array, "s n"], log_weight: Float[Array, "s kn"]
) -> Float[Array, " s"]:
    """The share of the population that has a larger ratio of posterior to q than any challenger."""
    ratio = tempered_log_density(smc, jnp.ones_like(population.phi), population) - own_log_q
    beyond = ratio > jnp.max(log_weight, axis=-1, keepdims=True)
    return jnp.sum(jnp.where(beyond, normalise(at_full_exponent(population)), 0.0), axis=-1)


def enough(population: Population) -> float:
    """The effective sample size from which on a sample is a good one."""
    return max(0.1 * population.z.shape[-1], 10.0 * len(population.z))


def corrected(
    smc: SMC2,
    population: Population,
    own_log_q: Float[Array, "s n"],
    log_weight: Float[Array, "s kn"],
    due: Bool[Array, " s"],
) -> Population:
    """The evidence, and the shares of groups, with what a good importance sample says of them.

    Not while anything is pending; not under forgetting, where the evidence is a sum of predictives and no integral; not
    where resampling keeps lineages that tell the error of the running estimate; nor where the prior's mass is not known
    exactly, of which all importance samples would have the same error. The share of the population that lies beyond
    all challengers is, of a good q, of the order of the largest weight: what is more they have missed.
    """
    if smc.forgetting < 1 or smc.resampling == "multinomial" or not smc.prior.normalised:
        return population
    k, gap, sd = compared(smc, population, log_weight)
    good = (k <= SOUND) & (effective_sample_size(log_weight) >= enough(population)) & (jnp.abs(gap) <= CONSISTENT * sd)
    known = (population.phi == 1) & (jnp.abs(population.log_mass) < 1e-9)
    most = 0.01 + 3 * jnp.max(normalise(log_weight), axis=-1)
    good = good & known & (unseen(smc, population, own_log_q, log_weight) <= most)
    new, sane = _combined(smc, population, log_weight)
    return select(due & good & sane, new, population)


def _combined(
    smc: SMC2, population: Population, log_weight: Float[Array, "s kn"]
) -> tuple[Population, Bool[Array, " s"]]:
    """Both estimates by their variances, and where that can be done: in every group."""
    groups, own = smc.groups, population.log_weight
    grouped, own_grouped = (
        a.reshape(len(a), groups, -1) for a in (together(groups, log_weight, population.z), own)
    )
    theirs, running = _relative_variance(log_weight), own_variance(smc, population)
    share = running / (running + theirs)
    ours = population.log_evidence[:, None] + log_mean_weight(own_grouped) - log_mean_weight(own)[:, None]
    sampled = log_mean_weight(grouped) - population.log_mass[:, None]
    both = jnp.logaddexp(jnp.log1p(-share)[:, None] + ours, jnp.log(share)[:, None] + sampled)
    total = log_mean_weight(both)
    change = (both - total[:, None]) - (ours - population.log_evidence[:, None])
    new = replace(
        population,
        log_weight=own + jnp.repeat(change, own.shape[-1] // groups, axis=-1),
        log_evidence=total,
        evidence_variance=(1 - share) ** 2 * population.evidence_variance,
        lost=(1 - share) ** 2 * population.lost + share**2 * theirs,
    )
    return new, jnp.all(jnp.isfinite(change), axis=-1)


def _relative_variance(log_weight: Float[Array, "s kn"]) -> Float[Array, " s"]:
    """Of the mean weight."""
    return 1 / jnp.maximum(effective_sample_size(log_weight), 1.0) - 1 / log_weight.shape[-1]


def together(parts: int, a: Shaped[Array, "*z s kn"], z: Float[Array, "z s n"]) -> Shaped[Array, "*z s kn"]:
    """Challengers of all sets with those of the same group or fold together, as ``adapt`` wants them."""
    shape = a.shape[:-1]
    a = a.reshape(*shape, a.shape[-1] // z.shape[-1], parts, -1)
    return jnp.swapaxes(a, -3, -2).reshape(*shape, -1)
