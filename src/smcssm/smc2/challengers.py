"""Challengers: particles proposed by a move, on their way through history, and judged at its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.core import Observation, Status
from smcssm.history import Chunk, History
from smcssm.smc2.adapt import carried, compiled, move_key
from smcssm.smc2.population import SMC2, Lag, Population, at_particles, fold_in, log_prior, select, times

AT_ONCE = 16  # rows whose likelihoods are added up in one go: on a GPU a row by itself is some kernels


class Challengers(eqx.Module):
    """Proposed particles on their way through history."""

    z: Float[Array, "z s n"]
    params: PyTree[Array]
    belief: PyTree[Array]
    log_lik: Float[Array, "s n"]
    pending: Float[Array, "s n"]
    lag: Lag | None = None


def replay(
    smc: SMC2,
    population: Population,
    challengers: Challengers,
    history: History,
    since: Int[np.ndarray, " s"],
    rung: Any,
    sweep: Any,
) -> Challengers:
    """Take challengers through all of history, a chunk at a time.

    While the newest row is late and partly pending, what is pending is all that it changes: the log-likelihood with it
    less that without, by a second pass.
    """
    run, end = compiled(replay_chunk, smc), len(history)

    def through(challengers: Challengers, since: Any, **which: Any) -> Challengers:
        for chunk in history.chunks(since, smc.chunk, **which):
            challengers = run(population, challengers, chunk, rung, sweep)
        return challengers

    if not smc.horizon:
        return through(challengers, since)

    def with_lag(since: Any, unseen: int | None = None) -> Challengers:
        before = through(with_lag_here(challengers), since, stop=max(end - smc.horizon, 0), unseen=unseen)
        return through(with_lag_here(before), since, start=max(end - smc.horizon, 0), unseen=unseen)

    if not (history.newest_is_late and (since < end).any()):
        return with_lag(since)
    nothing = np.full_like(since, end)
    return compiled(apart, smc)(with_lag(nothing), with_lag(nothing, end - 1), since < end)


def with_lag_here(challengers: Challengers) -> Challengers:
    """Remember where the challengers are."""
    return replace(challengers, lag=Lag(challengers.belief, challengers.log_lik + challengers.pending))


def apart(smc: SMC2, new: Challengers, old: Challengers, pooled: Bool[Array, " s"]) -> Challengers:
    """What a late row changes is pending, in series where it is pooled."""
    del smc
    change = jnp.where(jnp.isneginf(old.log_lik), 0.0, new.log_lik - old.log_lik)
    settled, pending = jnp.where(pooled[:, None], old.log_lik, new.log_lik), jnp.where(pooled[:, None], change, 0.0)
    return replace(new, log_lik=settled, pending=pending)


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
    c, rows = challengers, at_particles(chunk.rows)
    belief, increments = smc.filter.replay(key, c.params, c.belief, rows, chunk.length)

    def row(i: Array, totals: tuple[Array, Array]) -> tuple[Array, Array]:
        pooled, reported = chunk.pooled[i], chunk.rows.reported
        here = jnp.full_like(pooled, i < chunk.length)
        return select(
            here if reported is None else here & reported[i], add(smc, *totals, increments[i], pooled), totals
        )

    def some(k: Array, totals: tuple[Array, Array]) -> tuple[Array, Array]:
        for i in range(AT_ONCE):
            totals = row(AT_ONCE * k + i, totals)
        return totals

    settled, pending = jax.lax.fori_loop(0, -(-chunk.length // AT_ONCE), some, (c.log_lik, c.pending))
    return eqx.tree_at(lambda c: (c.belief, c.log_lik, c.pending), c, (belief, settled, pending))


def add(
    smc: SMC2,
    settled: Float[Array, "s n"],
    pending: Float[Array, "s n"],
    increment: Float[Array, "s n"],
    pooled: Bool[Array, " s"],
) -> tuple[Float[Array, "s n"], Float[Array, "s n"]]:
    """The log-likelihood after one more row; where the row is pooled its own is pending."""
    settled = smc.forgetting * settled + jnp.where(pooled[:, None], 0.0, increment)  # what forgets has no pool
    return settled, pending + jnp.where(pooled[:, None], increment, 0.0)


def take(
    smc: SMC2, key: Array, challengers: Challengers, obs: Observation, pooled: Bool[Array, " s"]
) -> Challengers:
    """Filter one row of history; where it is pooled its likelihood is pending."""
    key = fold_in(key, obs.index)
    belief, info = smc.filter.step(key, challengers.params, challengers.belief, at_particles(obs))
    changed = (belief, *add(smc, challengers.log_lik, challengers.pending, info.log_lik.astype(jnp.float64), pooled))
    new = eqx.tree_at(lambda c: (c.belief, c.log_lik, c.pending), challengers, changed)
    return new if obs.reported is None else select(obs.reported, new, challengers)


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
        carried(challengers),
        carried(population),
    )
    status = jnp.where(broken, Status.NOT_FINITE, Status.OK)
    return eqx.tree_at(carried, population, chosen), jnp.mean(accepted, axis=-1), status


def tempered_log_density(
    smc: SMC2, phi: Float[Array, " s"], at: Population | Challengers
) -> Float[Array, "s n"]:
    """Log prior + log likelihood, the pooled observations at exponent phi; -inf where any of it is zero."""
    return log_prior(smc, at.z) + at.log_lik + times(phi[:, None], at.pending)
