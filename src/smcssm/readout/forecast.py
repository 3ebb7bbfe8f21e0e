"""Forecasts of future observations: an exact mixture over the particles where each one's is Gaussian, or draws."""

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
from smcssm.gaussian import normal_cdf
from smcssm.readout.paths import paths
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, Population, Stream, at_particles, stream
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr


DRAWS = 20_000


def forecast(snapshot: Snapshot, future: Observation, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> xr.Dataset:
    """Mean, sd and quantiles of y_t+1 .. y_t+h, hyperparameters and state integrated out.

    Where each particle's predictive is Gaussian, quantiles invert the mixture's distribution function (no moment
    matching); otherwise they are those of ``DRAWS`` paths. ``future`` is a block of h records whose values are all
    missing.
    """
    import xarray as xr

    h = len(future.dt)
    levels = np.asarray(quantiles, float)
    if not snapshot.smc.filter.gaussian:
        y = paths(snapshot, future, DRAWS)["draws"]
        q = y.quantile(levels, dim="draw").transpose("step", "channel", "quantile")
        return xr.Dataset({"mean": y.mean("draw"), "sd": y.std("draw"), "quantiles": q})
    with jax.enable_x64(True):
        size = 1 << max(h - 1, 0).bit_length()  # few shapes, so few compilations
        padded = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], size - h, axis=0)]), future)
        m, s = compiled(predictives, snapshot.smc)(snapshot.population, padded)
        return mixture(snapshot, m[:h], s[:h], levels)


def mixture(snapshot: Snapshot, m: Any, s: Any, levels: np.ndarray) -> xr.Dataset:
    """Mean, sd and quantiles of observations whose law is N(m, s^2) for each particle, both ``[h, y, s, n]``."""
    import xarray as xr

    h = len(m)
    w = jnp.asarray(snapshot.weights().reshape(1, 1, -1)) / snapshot.population.log_weight.shape[0]
    m, s = (jnp.where(w > 0, jnp.reshape(a, (h, a.shape[1], -1)), 0.0) for a in (m, s))
    mean, sd, q = told(w, m, s, jnp.asarray(levels))
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


def told(
    w: Float[Array, "1 #y n"], m: Float[Array, "h y n"], s: Float[Array, "h y n"], levels: Float[Array, " q"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, sd and quantiles of mixtures of Gaussians."""
    mean = jnp.sum(w * m, axis=-1)
    sd = jnp.sqrt(jnp.sum(w * (s**2 + (m - mean[..., None]) ** 2), axis=-1))
    return np.asarray(mean), np.asarray(sd), np.asarray(mixture_quantiles(w, m, s, levels))


@jax.jit
def mixture_quantiles(
    w: Float[Array, "1 #y n"], m: Float[Array, "h y n"], s: Float[Array, "h y n"], levels: Float[Array, " q"]
) -> Float[Array, "h y q"]:
    """Quantiles of Gaussian mixtures by bisection, from the least to the largest quantile of a component.

    It ends where the level is met to 1e-13 or no number lies between the bounds any more: the range of the components,
    which one of hardly any weight can stretch at will, does not limit the accuracy.
    """
    alive = w > 0

    def one(level: Array) -> Array:
        def inexact(bounds: tuple[Array, ...]) -> Array:
            a, b, below, above = bounds
            middle = 0.5 * (a + b)
            return jnp.any((above - below > 1e-13) & (a < middle) & (middle < b))

        def halve(bounds: tuple[Array, ...]) -> tuple[Array, ...]:
            a, b, below, above = bounds
            middle = 0.5 * (a + b)
            z = (middle[..., None] - m) / jnp.where(s > 0, s, 1e-300)
            p = jnp.sum(w * normal_cdf(z), axis=-1)
            low = p < level
            pairs = (middle, a), (b, middle), (p, below), (above, p)
            return tuple(jnp.where(low, new, old) for new, old in pairs)

        q = m + norm.ppf(level) * s
        a = jnp.min(jnp.where(alive, q, jnp.inf), axis=-1)
        b = jnp.max(jnp.where(alive, q, -jnp.inf), axis=-1)
        a, b, *_ = jax.lax.while_loop(inexact, halve, (a, b, jnp.zeros_like(a), jnp.ones_like(b)))
        return 0.5 * (a + b)

    return jnp.moveaxis(jax.lax.map(one, levels), 0, -1)
