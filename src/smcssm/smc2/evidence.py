"""The evidence by bridge sampling, at no cost: how it corrects the running estimate; and what importance sampling says.

Challengers are drawn from a known q, fitted to other particles than those they challenge (where N is even), and their
likelihoods are computed to judge them. So they are an importance sample of the whole posterior, and together with the
population a bridge between q and it:

    w = prior(theta) L(theta) / q(theta),    r = w / Z0
    Z  ~  mean of w over challengers
    Z  ~  Z0  mean of r / (1 + r) over challengers  /  mean of 1 / (1 + r) over the population       (Meng & Wong 1996)

for any Z0, best at Z0 = Z: the running estimate is close. That one is a product over the stream, whose error grows with
every resampling; that of the bridge is as good as the population is. The mean by variances is the better estimate:

    Z <- (1 - a) Z + a bridge,    a = var Z / (var Z + var of the bridge)

The mean of w itself will not do. Where q is bad, w is seldom large and then very: a sample with such a weight looks
uncertain and counts for less, one without counts for more, and Z comes out too low however many particles there are
(AR(1) + noise, 300 observations: by 0.007 with 1,000 particles and with 4,000, where the error of a run is 0.011). The
bridge averages numbers between 0 and 1, and `a` depends on none of these challengers; its bias is of order 1 / N.

No particle changes, and none is needed: but groups of particles, whose shares of the weight are their evidences, get
theirs from challengers of their own q.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from smcssm.resampling import (
    distinct_sample_size,
    effective_sample_size,
    log_mean_weight,
    normalise,
    pareto_shape,
)
from smcssm.smc2.adapt import group_variance
from smcssm.smc2.challengers import Challengers, tempered_log_density
from smcssm.smc2.population import SMC2, Population, at_full_exponent, select

CONSISTENT = 4  # standard deviations between the two estimates


def importance_weights(
    smc: SMC2, challengers: Challengers, log_q: Float[Array, "s kn"]
) -> Float[Array, "s kn"]:
    """Log importance weights of the challengers under the whole posterior; -inf where that has no finite density."""
    log_weight = tempered_log_density(smc, jnp.ones(len(log_q)), challengers) - log_q
    return jnp.where(jnp.isnan(log_weight) | (log_weight == jnp.inf), -jnp.inf, log_weight)


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
    ratio = tempered_log_density(smc, jnp.ones_like(population.phi), population) - own_log_q
    beyond = ratio > jnp.max(log_weight, axis=-1, keepdims=True)
    return jnp.sum(jnp.where(beyond, normalise(at_full_exponent(population)), 0.0), axis=-1) > 0.05


def enough(population: Population) -> float:
    """The effective sample size from which on a sample is a good one."""
    return max(0.1 * population.z.shape[-1], 10.0 * len(population.z))


def bridge(
    smc: SMC2, population: Population, own_log_q: Float[Array, "s n"], log_weight: Float[Array, "s kn"]
) -> tuple[Float[Array, "s g"], Float[Array, " s"]]:
    """Log evidence of each group, between its challengers and its particles, and the relative variance of all.

    The variance is what the population says, of challengers as well, by E_q[(r / (1 + r))²] = E_pi[r / (1 + r)²] if Z0
    is Z: it does not depend on which challengers there are. Copies of a particle count as one.
    """
    level = (population.log_evidence + population.log_mass)[:, None]
    ratio = tempered_log_density(smc, jnp.ones_like(population.phi), population) - own_log_q - level
    challenger = together(smc.groups, log_weight, population.z) - level
    weight = at_full_exponent(population)
    w, up, down = normalise(weight), jax.nn.sigmoid(ratio), jax.nn.sigmoid(-ratio)

    def by_group(a: Float[Array, "s kn"]) -> Float[Array, "s g"]:
        return log_mean_weight(a.reshape(len(a), smc.groups, -1))

    estimate = by_group(-jax.nn.softplus(-challenger)) - by_group(weight - jax.nn.softplus(ratio)) + by_group(weight)
    mean = jnp.sum(w * down, axis=-1, keepdims=True)
    copies = 1 / jnp.sum(w**2, axis=-1) / jax.vmap(distinct_sample_size)(population.z[0], w)
    of_particles = copies * jnp.sum((w * (down / mean - 1)) ** 2, axis=-1)
    of_challengers = (jnp.sum(w * up * down / mean**2, axis=-1) - 1) / log_weight.shape[-1]
    return population.log_evidence[:, None] + estimate, of_particles + jnp.maximum(of_challengers, 0.0)


def corrected(
    smc: SMC2,
    population: Population,
    estimate: Float[Array, "s g"],
    variance: Float[Array, " s"],
    due: Bool[Array, " s"],
) -> Population:
    """The evidence, and the shares of groups, with what a bridge says of them.

    Not while anything is pending; not under forgetting, where the evidence is a sum of predictives and no integral; not
    where resampling keeps lineages that tell the error of the running estimate; nor where the prior's mass is not known
    exactly, of which all such estimates would have the same error.
    """
    if smc.forgetting < 1 or smc.resampling == "multinomial" or not smc.prior.normalised:
        return population
    known = (population.phi == 1) & (jnp.abs(population.log_mass) < 1e-9)
    gap = log_mean_weight(estimate) - population.log_evidence
    consistent = jnp.abs(gap) <= CONSISTENT * jnp.sqrt(variance + own_variance(smc, population))
    new, sane = _combined(smc, population, estimate, variance)
    return select(due & known & consistent & sane & (variance * enough(population) <= 1), new, population)


def _combined(
    smc: SMC2, population: Population, estimate: Float[Array, "s g"], variance: Float[Array, " s"]
) -> tuple[Population, Bool[Array, " s"]]:
    """Both estimates by their variances, and where that can be done: in every group.

    The running estimate's variance is that of its resamplings: what groups show depends on the estimate. ``lost`` is
    the least that there can be afterwards, since sweeps share the particles that stay where they are.
    """
    own = population.log_weight
    running = population.lost + _relative_variance(own)
    share = running / (running + variance)
    mass = log_mean_weight(own.reshape(*estimate.shape, -1)) - log_mean_weight(own)[:, None]
    ours = population.log_evidence[:, None] + mass
    both = jnp.logaddexp(jnp.log1p(-share)[:, None] + ours, jnp.log(share)[:, None] + estimate)
    total = log_mean_weight(both)
    change = (both - total[:, None]) - (ours - population.log_evidence[:, None])
    new = replace(
        population,
        log_weight=own + jnp.repeat(change, own.shape[-1] // smc.groups, axis=-1),
        log_evidence=total,
        evidence_variance=(1 - share) ** 2 * population.evidence_variance,
        lost=(1 - share) ** 2 * population.lost + share**2 * variance,
    )
    return new, jnp.all(jnp.isfinite(change), axis=-1)


def _relative_variance(log_weight: Float[Array, "s kn"]) -> Float[Array, " s"]:
    """Of the mean weight."""
    return jnp.maximum(1 / jnp.maximum(effective_sample_size(log_weight), 1.0) - 1 / log_weight.shape[-1], 0.0)


def together(parts: int, a: Shaped[Array, "*z s kn"], z: Float[Array, "z s n"]) -> Shaped[Array, "*z s kn"]:
    """Challengers of all sets with those of the same group or fold together, as ``adapt`` wants them."""
    shape = a.shape[:-1]
    a = a.reshape(*shape, a.shape[-1] // z.shape[-1], parts, -1)
    return jnp.swapaxes(a, -3, -2).reshape(*shape, -1)
