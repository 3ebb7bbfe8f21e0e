"""A late observation: put among the rows that a population has taken, for every particle at the theta it has now.

    lag_i         belief and log-likelihood of particle i before the last h rows; follows the stream h rows behind
    late row y, its place among those h rows:
        from lag_i filter the h rows and y, in the order of their times:   belief_i', l_i'
        w_i   <- w_i exp(l_i' - l_i),    Z <- Z * (weighted mean of exp(l' - l))
        (belief_i, l_i) <- (belief_i', l_i')

l_i' - l_i = log p(y | all other observations, theta_i), so that weights and evidence are those of the rows in order,
with the same particles. It is treated like any other increment: where it would collapse the effective sample size it
enters with an exponent below one, target prior exp(l + phi (l' - l)), and a move at each rung replays history twice,
with and without y. The lag is a particle's own: it is resampled with it, and challengers bring theirs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.core import FilterInfo, Observation, Status
from smcssm.smc2.population import SMC2, Lag, Population, Stream, at_particles, stream
from smcssm.smc2.report import Row, pack, recorded_quantiles
from smcssm.smc2.step import checked, refused, reweight, stepped, whole_evidence


def revise(
    smc: SMC2,
    population: Population,
    pending: PyTree,
    rows: Observation,
    count: Int[Array, ""],
    follows: Bool[Array, ""],
    feed: PyTree,
) -> tuple[tuple, PyTree, Float[Array, "t1 c"]]:
    """Take the first ``count`` rows anew, of which one is late; the lag takes the first of them if it ``follows``.

    Returns what ``step.advance`` returns. Nothing was forecast of a late row: mean, sd and PIT are NaN.
    """
    belief, lag, info = _anew(smc, population, rows, count, follows)
    increment, worst = checked(population.log_weight, info)
    impossible, unknown = refused(smc, population.log_weight, increment, worst)
    new, (_, part, whole, pooled) = reweight(smc, population, increment, jnp.ones_like(impossible))
    new = replace(new, belief=belief, lag=lag, t=population.t + 1)
    status = jnp.maximum(jnp.max(worst, axis=-1), jnp.where(new.phi < 1, Status.BRIDGING, Status.OK))
    status = jnp.where(impossible, Status.IMPOSSIBLE, status)
    nan = jnp.full(rows.y.shape[1:], jnp.nan)
    log_evidence = jnp.where(unknown, jnp.nan, whole_evidence(new, part, whole))
    ess, least, quantiles = whole.effective_sample_size, part.effective_sample_size, recorded_quantiles(new, whole)
    row = Row(log_evidence, nan, nan, nan, nan, ess, least, status, pooled, quantiles)
    pending = smc.schedule.advance(smc, pending, new, row, jax.tree.map(lambda leaf: leaf[0], feed))
    table = jax.tree.map(lambda leaf: leaf[None], row)
    return stepped(new), pending, pack(table, jnp.ones_like(count), smc.schedule.due(smc, pending, new))


def _anew(
    smc: SMC2, population: Population, rows: Observation, count: Int[Array, ""], follows: Bool[Array, ""]
) -> tuple[PyTree, Lag, FilterInfo]:
    """Belief and lag after the rows, and how the log-likelihood changes, as if by one observation."""
    lag = population.lag
    assert lag is not None

    def step(j: Int[Array, ""], carry: tuple) -> tuple:
        belief, log_lik, status, lag = carry
        obs = jax.tree.map(lambda leaf: leaf[j], rows)
        key = stream(population.key, Stream.FILTER, obs.index)
        belief, info = smc.filter.step(key, population.params, belief, at_particles(obs))
        log_lik = log_lik + info.log_lik.astype(jnp.float64)
        here: Any = Lag(belief, log_lik)
        moves = follows & (j == 0)
        lag = jax.tree.map(lambda new, old: jnp.where(moves, new, old), here, lag)
        return belief, log_lik, jnp.maximum(status, info.status.astype(jnp.int32)), lag

    fine = jnp.zeros(lag.log_lik.shape, jnp.int32)
    belief, log_lik, status, new_lag = jax.lax.fori_loop(0, count, step, (*lag, fine, lag))
    nothing = jnp.full((*rows.y.shape[1:], 1), jnp.nan)
    return belief, new_lag, FilterInfo(log_lik - population.log_lik, nothing, nothing, nothing, status)
