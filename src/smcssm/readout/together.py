"""How observations that were never made go together, between those that were and after them: their joint covariance.

    put rows of missing values at these times among and after the observations; filter them all
    backwards, for each particle, with u of a row as in ``kalman.whitened`` and C_j = Cov(u, y_j | all), j later:
        Cov(y, y_j) = H L C_j,   C_j <- B C_j
    of the mixture:   sum_n w_n (Cov_n + m_n m_n') - m m'

All of it goes back with the smoother, chunk by chunk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from smcssm.core import Observation
from smcssm.filters import Kalman
from smcssm.gaussian import Gaussian
from smcssm.kalman import smoother, whitened
from smcssm.linalg import matvec, rows, stack, vector
from smcssm.readout.backwards_gaussian import Kept, ahead
from smcssm.readout.between import Place, check, merged
from smcssm.readout.covariance import average, table
from smcssm.readout.smooth import ROOM, all_observations, going_back, in_order, room, share_of
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, at_particles
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

Later = tuple[Gaussian, Array, Array]
"""The law of u, and of rows by number Cov(u, y) ``[x, k, y, s, n]`` and means ``[k, y, s, n]``, if they are later."""


def together(snapshot: Snapshot, asked: Observation, place: Place, inside: int) -> xr.DataArray:
    """Dims (step, channel, other_step, other_channel); the arguments are those of ``between``."""
    check(snapshot)
    model, data, w = snapshot.smc.filter.model, all_observations(snapshot), snapshot.weights()
    (runs, n), k, y, x = w.shape, len(asked.dt), len(model.channel_names), len(model.state_names)
    after, dt = place(data.dt[:, 0])
    within = merged(data, jax.tree.map(lambda leaf: leaf[:inside], asked), after, dt)
    everything = jax.tree.map(lambda a, b: np.concatenate([a, b[inside:]]), within, asked)
    number = np.full(len(everything.dt), -1)
    number[np.r_[after + np.arange(inside), len(within.dt) : len(everything.dt)]] = np.arange(k)
    size = max(1, min(n, room(snapshot), ROOM // (x * k * y * runs)))
    second, mean = np.zeros((k, y, k, y)), np.zeros((k, y))
    with jax.enable_x64(True):
        for first in range(0, n, size):
            some = np.resize(np.arange(first, min(first + size, n)), size)
            weight = w[:, some] * (np.arange(size) < n - first) / runs  # the last share repeats some
            share = share_of(snapshot, everything, np.broadcast_to(some, weight.shape))

            def begin(last: Gaussian) -> Later:
                like = jnp.zeros_like(last.mean[0])
                nothing = jnp.zeros((k, y, *like.shape), like.dtype)
                return whitened.end(last), jnp.zeros((x, *nothing.shape), like.dtype), nothing

            def step(first: int, kept: Any, later: Later, share: Any = share, weight: Any = weight) -> tuple:
                chunk, here = share.chunk(first, share.smc.chunk)[0], number[first : first + share.smc.chunk]
                here = np.pad(here, (0, len(chunk.dt) - len(here)), constant_values=-1)
                later, told = compiled(_chunk, share.smc)(share.params, kept, chunk, here, weight, later)
                return later, jax.device_get(told)

            told = in_order(going_back(share, ahead, begin, step), len(number))
            second, mean = second + told[0][number >= 0], mean + told[1][number >= 0]
    return table(snapshot, np.moveaxis(second, (0, 1), (2, 3)), mean)


def _chunk(
    smc: SMC2, params: PyTree, kept: Kept, chunk: Observation, number: Array, w: Array, later: Later
) -> tuple[Later, tuple[Array, Array]]:
    """Second moments of each row ``[t, y, k, y]`` with itself and later ones, and means; averages over particles."""
    inner, (law, C, m) = smc.filter, later
    assert isinstance(inner, Kalman)
    before, laws = smoother.smooth(kept[1], law, inner.blocks)

    def row(carry: tuple[Array, Array], at: tuple) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (C, m), (belief, law, step, obs, k) = carry, at
        zero = jnp.zeros_like(belief.mean[0])
        system = inner.model.matrices(params, replace(obs, mask=jnp.zeros_like(obs.mask), dt=jnp.zeros_like(obs.dt)))
        H, R = stack(rows(system.H), zero), stack(rows(system.chol_R), zero)
        x = whitened.states(*jax.tree.map(lambda leaf: leaf[None], (belief, law.mean)))[0]
        mean = stack(matvec(rows(system.H), list(x)), zero) + stack(vector(system.d), zero)
        here = (jnp.arange(len(m)) == k)[:, None, None, None]
        C, told = whitened.told_of(C, belief, law, H, k)
        told = told + jnp.where(here, jnp.einsum("yksn,zksn->yzsn", R, R)[:, None], 0)
        m = jnp.where(here, mean, m)
        second = told + mean[:, None, None] * m[None]
        return (jnp.einsum("ijsn,jkysn->ikysn", step.G, C), m), (average(w, second), average(w, mean))

    (C, m), told = jax.lax.scan(row, (C, m), (kept[0], laws, kept[1], at_particles(chunk), number), reverse=True)
    return (before, C, m), told
