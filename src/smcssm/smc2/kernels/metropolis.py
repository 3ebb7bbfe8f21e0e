"""Particle Metropolis-Hastings over the hyperparameters, the likelihood replayed from the journal.

    z' ~ q(. | z);  log_lik', belief' by one pass of the filter over y_1:t at z'
    accept with probability  min(1, prior(z') L'(z') q(z | z') / prior(z) L(z) q(z' | z)),
    L(z) = exp(log_lik + phi pending)

The current likelihood is the one that the particle carries, never recomputed: with a random inner filter this is the
pseudo-marginal move of Andrieu & Roberts (2009).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.core import AbstractKernel, AbstractProposal, Observation, Status
from smcssm.history import Chunk, History
from smcssm.smc2.adapt import carried, compiled, move_key
from smcssm.smc2.proposals import RandomWalk, StudentT
from smcssm.smc2.step import SMC2, Population, at_particles, fold_in, log_prior, particles, select, times


class Challengers(eqx.Module):
    """Proposed particles on their way through history."""

    z: Float[Array, "z s n"]
    params: PyTree[Array]
    belief: PyTree[Array]
    log_lik: Float[Array, "s n"]
    pending: Float[Array, "s n"]


class Metropolis(AbstractKernel):
    """Sweeps of the given proposals in turn; ``"auto"`` is two independent sweeps for each random-walk sweep."""

    proposals: tuple[AbstractProposal, ...]

    def __init__(self, proposal: str | AbstractProposal = "auto") -> None:
        named = {
            "auto": (StudentT(), StudentT(), RandomWalk()),
            "independent": (StudentT(),),
            "random_walk": (RandomWalk(),),
        }
        if isinstance(proposal, str) and proposal not in named:
            raise ValueError(f"proposal={proposal!r}: expected one of {', '.join(map(repr, named))} or a proposal")
        self.proposals = named[proposal] if isinstance(proposal, str) else (proposal,)

    @property
    def cycle(self) -> int:
        """One program per proposal."""
        return len(self.proposals)

    def sweep(
        self,
        smc: SMC2,
        population: Population,
        history: History,
        pool: Int[Any, "s k"],
        due: Bool[Any, " s"],
        rung: int,
        sweep: int,
    ) -> tuple[Population, Float[Array, " s"], Int[Array, " s"]]:
        """One proposal per particle, replayed and judged."""
        which = sweep % self.cycle
        first = jax.tree.map(lambda leaf: leaf[0], history.rows(0, 1))
        counters = np.int64(rung), np.int64(sweep)
        challengers, log_ratio = compiled(propose, smc, self.proposals[which])(population, first, *counters)
        challengers = replay(smc, population, challengers, history, pool, *counters)
        return compiled(accept, smc)(population, challengers, log_ratio, due, *counters)


def propose(
    smc: SMC2,
    proposal: AbstractProposal,
    population: Population,
    first: Observation,
    rung: Int[Array, ""],
    sweep: Int[Array, ""],
) -> tuple[Challengers, Float[Array, "s n"]]:
    """Fit a proposal to each series, draw from it, and start the filters at the draws."""
    key = move_key(population, rung, sweep)
    z = jnp.moveaxis(population.z, 1, 0)
    tuning = jax.vmap(proposal.fit)(z, population.log_weight, population.scale[..., 0].T)
    z_new = jax.vmap(proposal.propose)(fold_in(key, 1), tuning, z)
    log_ratio = jax.vmap(proposal.log_ratio)(tuning, z, z_new)
    z_new = jnp.moveaxis(z_new, 0, 1)
    params, belief = particles(smc, fold_in(key, 2), z_new, blank_like(first))
    zero = jnp.zeros_like(population.log_lik)
    return Challengers(z_new, params, belief, zero, zero), log_ratio


def replay(
    smc: SMC2,
    population: Population,
    challengers: Challengers,
    history: History,
    pool: Int[Any, "s k"],
    rung: Any,
    sweep: Any,
) -> Challengers:
    """Take challengers through all of history, a chunk at a time."""
    run = compiled(replay_chunk, smc)
    for chunk in history.chunks(pool):
        challengers = run(population, challengers, chunk, rung, sweep)
    return challengers


def replay_chunk(
    smc: SMC2,
    population: Population,
    challengers: Challengers,
    chunk: Chunk,
    rung: Int[Array, ""],
    sweep: Int[Array, ""],
) -> Challengers:
    """Filter one chunk, adding up likelihoods in the order in which the stream added them."""
    key = fold_in(move_key(population, rung, sweep), 3)

    def body(i: Int[Array, ""], c: Challengers) -> Challengers:
        obs, pooled = jax.tree.map(lambda leaf: leaf[i], (chunk.rows, chunk.pooled))
        belief, info = smc.filter.step(fold_in(key, obs.index), c.params, c.belief, at_particles(obs))
        increment = info.log_lik.astype(jnp.float64)
        settled = c.log_lik + jnp.where(pooled[:, None], 0.0, increment)
        pending = c.pending + jnp.where(pooled[:, None], increment, 0.0)
        new = eqx.tree_at(
            lambda c: (c.belief, c.log_lik, c.pending), c, (belief, settled, pending)
        )
        return new if obs.reported is None else select(obs.reported, new, c)

    return jax.lax.fori_loop(0, chunk.length, body, challengers)


def accept(
    smc: SMC2,
    population: Population,
    challengers: Challengers,
    log_ratio: Float[Array, "s n"],
    due: Bool[Array, " s"],
    rung: Int[Array, ""],
    sweep: Int[Array, ""],
) -> tuple[Population, Float[Array, " s"], Int[Array, " s"]]:
    """Metropolis-Hastings in the series that are due; returns acceptance rate and status of each.

    A challenger whose density is NaN or infinite is rejected, under a status of its own.
    """
    key = fold_in(move_key(population, rung, sweep), 4)
    n = population.log_lik.shape[-1]
    uniform = jax.vmap(lambda k: jax.random.uniform(k, (n,), jnp.float64))(key)
    new, old = (tempered_log_density(smc, population.phi, at) for at in (challengers, population))
    alive, broken = jnp.isfinite(new), jnp.any(jnp.isnan(new) | jnp.isposinf(new), axis=-1)
    accepted = alive & (jnp.log(uniform) < jnp.where(alive, new, 0.0) - old + log_ratio) & due[:, None]
    chosen = jax.tree.map(
        lambda a, b: jnp.where(accepted.reshape((1,) * (a.ndim - 2) + accepted.shape), a, b),
        (challengers.z, challengers.params, challengers.belief, challengers.log_lik, challengers.pending),
        carried(population),
    )
    status = jnp.where(broken, Status.NOT_FINITE, Status.OK)
    return eqx.tree_at(carried, population, chosen), jnp.mean(accepted, axis=-1), status


def tempered_log_density(
    smc: SMC2, phi: Float[Array, " s"], at: Population | Challengers
) -> Float[Array, "s n"]:
    """Log prior + log likelihood, the pooled observations at exponent phi; -inf where any of it is zero."""
    return log_prior(smc, at.z) + at.log_lik + times(phi[:, None], at.pending)


def blank_like(obs: Observation) -> Observation:
    """A record in which nothing was observed and no time has passed."""
    return jax.tree.map(jnp.zeros_like, obs)
