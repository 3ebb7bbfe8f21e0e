"""The way back for a population that is astray: challengers know more than to be judged.

They are an importance sample of the whole posterior (see `evidence`). Where the posterior runs away from the
population faster than cycles can follow (a break in the data, say), weights and then evidence are of a few particles.
Such a population is astray: it lags, is still bridging, consists of copies, is unsure of its evidence or contradicts
importance sampling.

    if the challengers are a good sample, and have seen every mode of the population:  they replace it, Z included
    else if they know more of the whole posterior than the population does:            the next q is fitted to them

by weights w^a with an ESS of a fifth of them: adaptive importance sampling (Cappe, Guillin, Marin & Robert 2004,
doi:10.1198/106186004X12803) along the path q^(1-a) pi^a, so slow that a mode is not forgotten on the way. Draws from it
are independent of the population all the same.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from smcssm.core import AbstractProposal
from smcssm.resampling import (
    distinct_sample_size,
    effective_sample_size,
    log_mean_weight,
    normalise,
    pareto_shape,
    systematic,
)
from smcssm.smc2.adapt import carried, from_folds, gather, in_folds
from smcssm.smc2.challengers import Challengers
from smcssm.smc2.evidence import enough, importance_weights, missed, together
from smcssm.smc2.kernels.metropolis import fit
from smcssm.smc2.population import SMC2, Population, Stream, at_full_exponent, select, stream
from smcssm.smc2.proposals.points import flattened

UNSURE = 0.25  # variance of the log evidence from which on importance sampling may well know better


def rescue(
    smc: SMC2,
    proposal: AbstractProposal,
    tuning: PyTree[Array],
    challengers: Challengers,
    log_q: Float[Array, "s kn"],
    population: Population,
    ready: Bool[Array, " s"],
    doubtful: Bool[Array, " s"],
) -> tuple[Bool[Array, " s"], Bool[Array, " s"], Population]:
    """Let good importance samples replace a doubtful population.

    Returns where the challengers are no good yet but know more than the population, where they have replaced it, and
    the population. Where q has missed a mode the population is the better one.
    """
    whole, z = importance_weights(smc, challengers, log_q), in_folds(smc, population.z)
    own_log_q = from_folds(jax.vmap(proposal.log_density)(tuning, z, z), len(ready))
    own = jax.vmap(distinct_sample_size)(population.z[0], normalise(at_full_exponent(population)))
    known, few = effective_sample_size(whole), enough(population)
    astray = ready & ~missed(smc, population, own_log_q, whole) & (doubtful | (own < few))
    good = astray & (known >= few) & (jax.vmap(pareto_shape)(whole) <= 0.7)
    return astray & ~good & (known > own), good, select(good, adopt(smc, challengers, whole, population), population)


def adopt(
    smc: SMC2, challengers: Challengers, log_weight: Float[Array, "s kn"], population: Population
) -> Population:
    """The challengers, resampled by their importance weights, as the population; its evidence is then theirs.

    Each group is drawn from the challengers of its own proposal and keeps what they say of the evidence, so that the
    spread between groups goes on telling the error.
    """
    n, groups = population.z.shape[-1], smc.groups
    log_weight, *chosen = jax.tree.map(
        lambda a: together(groups, a, population.z), (log_weight, *carried(challengers))
    )
    grouped = log_weight.reshape(len(log_weight), groups, -1)
    keys = jax.vmap(lambda k: jax.random.split(k, groups))(stream(population.key, Stream.CHALLENGERS, population.t, 3))
    ancestors = jax.vmap(jax.vmap(partial(systematic, count=n // groups)))(keys, grouped)
    ancestors = ancestors + (jnp.arange(groups) * grouped.shape[-1])[None, :, None]
    mass, total = log_mean_weight(grouped), log_mean_weight(log_weight)
    zero = jnp.zeros_like(population.log_lik)
    new = eqx.tree_at(carried, population, tuple(gather(chosen, ancestors.reshape(-1, n))))
    return replace(
        new,
        log_weight=jnp.repeat(mass - total[:, None], n // groups, axis=-1),
        log_lik=new.log_lik + new.pending,
        pending=zero,
        phi=jnp.ones_like(new.phi),
        log_evidence=total - population.log_mass,
        evidence_variance=jnp.zeros_like(new.phi),
        lost=1 / effective_sample_size(log_weight) - 1 / log_weight.shape[-1],
        eve=jnp.broadcast_to(jnp.arange(n), zero.shape),
        resamplings=jnp.zeros_like(new.resamplings),
    )


def refit(
    smc: SMC2,
    proposal: AbstractProposal,
    challengers: Challengers,
    log_q: Float[Array, "s kn"],
    population: Population,
) -> PyTree[Array]:
    """A proposal fitted to the challengers, by flattened importance weights, instead of to the population."""
    goal = max(0.2 * log_q.shape[-1], 30.0 * len(population.z))
    told = jnp.log(jax.vmap(partial(flattened, goal=goal))(importance_weights(smc, challengers, log_q)))
    z, log_weight = (together(smc.folds, a, population.z) for a in (challengers.z, told))
    return fit(smc, proposal, replace(population, z=z, log_weight=log_weight))
