"""How observations to come go together: their joint covariance, hyperparameters and state integrated out.

    for each particle, row by row:   C_i = Cov(x_t, y_i) of every earlier row i;  C_i <- F C_i,  Cov(y_t, y_i) = H C_i
                                     C_t = P H',  Cov(y_t, y_t) = H P H' + chol_R chol_R'
    of the mixture:                  sum_n w_n (Cov_n + m_n m_n') - m m'

The sum of outer products is taken about zero, and in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from smcssm.core import Observation
from smcssm.errors import ModelError
from smcssm.filters import Kalman
from smcssm.gaussian import Gaussian
from smcssm.linalg import rows, stack
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, Population, at_particles
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr


def covariance(snapshot: Snapshot, future: Observation) -> xr.DataArray:
    """Of y_t+1 .. y_t+h, dims (step, channel, other_step, other_channel); ``future`` as for ``forecast``."""
    inner = snapshot.smc.filter
    if not isinstance(inner, Kalman):
        name = type(inner).__name__
        raise ModelError(f"covariance=True needs the Kalman filter, this engine has {name}: take draws=")
    w = snapshot.weights() / snapshot.population.log_weight.shape[0]
    with jax.enable_x64(True):
        return table(snapshot, *compiled(moments, snapshot.smc)(snapshot.population, jnp.asarray(w), future))


def table(snapshot: Snapshot, second: Any, mean: Any) -> xr.DataArray:
    """From means ``[h, y]``, and second moments ``[h, y, h, y]`` of each row with itself and those before it."""
    import xarray as xr

    second, mean = np.asarray(second), np.asarray(mean)
    (h, y), channels = mean.shape, list(snapshot.smc.filter.model.channel_names)
    low = second.reshape(h * y, -1)
    full = np.tril(low) + np.tril(low, -1).T - np.outer(mean.ravel(), mean.ravel())
    steps = np.arange(1, h + 1)
    coords = {"step": steps, "channel": channels, "other_step": steps, "other_channel": channels}
    return xr.DataArray(full.reshape(h, y, h, y), coords, ("step", "channel", "other_step", "other_channel"))


def moments(
    smc: SMC2, population: Population, w: Float[Array, "s n"], future: Observation
) -> tuple[Float[Array, "h y h y"], Float[Array, "h y"]]:
    """Second moments about zero of each row with itself and those before it, and means; averages over particles."""
    inner, params = smc.filter, population.params
    assert isinstance(inner, Kalman)
    h, y, x = len(future.dt), len(inner.model.channel_names), len(inner.model.state_names)
    zero = jnp.zeros_like(population.belief.mean[0])

    def step(
        carry: tuple[Gaussian, Array, Array], row: tuple[Int[Array, ""], Observation]
    ) -> tuple[tuple[Gaussian, Array, Array], tuple[Array, Array]]:
        belief, C, m = carry
        i, obs = row[0], at_particles(row[1])
        system = inner.model.matrices(params, obs)
        F, H, L = (stack(rows(a), zero) for a in (system.F, system.H, system.chol_R))
        belief, info = inner.step(population.key, params, belief, obs)
        C = jnp.where((obs.dt == 0)[None, None, None], C, jnp.einsum("xksn,khysn->xhysn", F, C))
        now = jnp.einsum("xksn,jksn,yjsn->xysn", belief.chol, belief.chol, H)
        own = jnp.einsum("zxsn,xysn->zysn", H, now) + jnp.einsum("zksn,yksn->zysn", L, L)
        C, m = C.at[:, i].set(now), m.at[i].set(info.mean)
        cross = jnp.einsum("zxsn,xhysn->zhysn", H, C).at[:, i].set(own)
        second = cross + info.mean[:, None, None] * m[None]
        return (belief, C, m), (average(w, second), average(w, info.mean))

    future = jax.tree.map(jnp.asarray, future)
    future = Observation(**{**vars(future), "mask": jnp.zeros_like(future.mask)})
    start = population.belief, jnp.zeros((x, h, y, *zero.shape), zero.dtype), jnp.zeros((h, y, *zero.shape), zero.dtype)
    return jax.lax.scan(step, start, (jnp.arange(h), future))[1]


def average(w: Float[Array, "s n"], a: Float[Array, "*k s n"]) -> Float[Array, "*k"]:
    """Over all particles; of weight zero a particle may be anything."""
    each = jnp.expand_dims(w, tuple(range(a.ndim - 2)))
    return jnp.sum(jnp.where(each > 0, each * a, 0.0), axis=(-2, -1))
