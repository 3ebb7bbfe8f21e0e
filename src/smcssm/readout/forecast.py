"""Forecasts of future observations: an exact mixture over the particles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from smcssm.core import Observation
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, Population, Stream, at_particles, stream
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr


def forecast(snapshot: Snapshot, future: Observation, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> xr.Dataset:
    """Mean, sd and quantiles of y_t+1 .. y_t+h, hyperparameters and state integrated out.

    Each particle's predictive is Gaussian; quantiles invert the mixture's distribution function (no moment matching).
    ``future`` is a block of h records whose values are all missing.
    """
    import xarray as xr

    h = len(future.dt)
    levels = np.asarray(quantiles, float)
    with jax.enable_x64(True):
        size = 1 << max(h - 1, 0).bit_length()  # few shapes, so few compilations
        padded = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], size - h, axis=0)]), future)
        m, s = compiled(predictives, snapshot.smc)(snapshot.population, padded)
        w = jnp.asarray(snapshot.weights().reshape(1, 1, -1)) / snapshot.population.log_weight.shape[0]
        m, s = (jnp.where(w > 0, a[:h].reshape(h, a.shape[1], -1), 0.0) for a in (m, s))
        mean = jnp.sum(w * m, axis=-1)
        sd = jnp.sqrt(jnp.sum(w * (s**2 + (m - mean[..., None]) ** 2), axis=-1))
        q = mixture_quantiles(w, m, s, jnp.asarray(levels))
        mean, sd, q = (np.asarray(a) for a in (mean, sd, q))
    dims = ("step", "channel")
    coords = {"step": np.arange(1, h + 1), "channel": list(snapshot.smc.filter.model.channel_names), "quantile": levels}
    return xr.Dataset({"mean": (dims, mean), "sd": (dims, sd), "quantiles": ((*dims, "quantile"), q)}, coords)


def predictives(smc: SMC2, population: Population, future: Observation) -> Any:
    """Predictive mean and sd of each channel at each future record, for each particle: ``[h, y, s, n]``."""
    future = eqx.tree_at(lambda o: o.mask, future, jnp.zeros_like(future.mask))

    def step(belief: Any, obs: Observation) -> Any:
        key = stream(population.key, Stream.FORECAST, obs.index)
        belief, info = smc.filter.step(key, population.params, belief, at_particles(obs))
        return belief, (info.mean, info.sd)

    return jax.lax.scan(step, population.belief, future)[1]


@jax.jit
def mixture_quantiles(
    w: Float[Array, "1 1 n"], m: Float[Array, "h y n"], s: Float[Array, "h y n"], levels: Float[Array, " q"]
) -> Float[Array, "h y q"]:
    """Quantiles of Gaussian mixtures by bisection, to 1e-12 of their range."""
    alive = w > 0
    low = jnp.min(jnp.where(alive, m - 10 * s, jnp.inf), axis=-1)
    high = jnp.max(jnp.where(alive, m + 10 * s, -jnp.inf), axis=-1)

    def one(level: Array) -> Array:
        def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            a, b = bounds
            middle = 0.5 * (a + b)
            z = (middle[..., None] - m) / jnp.where(s > 0, s, 1e-300)
            below = jnp.sum(jnp.where(alive, w * norm.cdf(z), 0.0), axis=-1) < level
            return jnp.where(below, middle, a), jnp.where(below, b, middle)

        a, b = jax.lax.fori_loop(0, 45, halve, (low, high))
        return 0.5 * (a + b)

    return jnp.moveaxis(jax.lax.map(one, levels), 0, -1)
