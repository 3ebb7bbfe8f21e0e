"""Joint paths of future states and observations: what a mean and a band at each step cannot tell.

    draw a particle (theta, belief) by its weight, and x_t from the belief
    for k = 1..h:
        x_t+k = F x_t+k-1 + c + chol_Q e        over dt > 0; the identity over dt = 0
        y_t+k = H x_t+k + d + chol_R n

The same equations that `core` states, for one particle per path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from smcssm.core import AbstractLinearGaussian, Observation
from smcssm.errors import ModelError
from smcssm.linalg import rows, stack, vector
from smcssm.linalg.entries import matvec
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, Population, Stream, at_particles, stream
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr


def paths(snapshot: Snapshot, future: Observation, draws: int, seed: int | None = None) -> xr.Dataset:
    """``draws`` paths through the rows of ``future``, of observations and states; runs have equal shares."""
    import xarray as xr

    model = snapshot.smc.filter.model
    if not isinstance(model, AbstractLinearGaussian):
        raise ModelError(f"draws={draws}: paths are drawn from linear Gaussian models; leave draws out")
    h, w = len(future.dt), snapshot.weights()
    with jax.enable_x64(True):
        of_now = stream(snapshot.population.key, Stream.FORECAST, snapshot.t)[0]
        key = of_now if seed is None else jax.random.key(seed)
        size = 1 << max(h - 1, 0).bit_length()  # few shapes, so few compilations
        padded = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], size - h, axis=0)]), future)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        chosen = rng.choice(w.size, draws, p=w.ravel() / w.sum())
        x, y = compiled(simulate, snapshot.smc)(key, snapshot.population, padded, chosen)
        x, y = (np.moveaxis(np.asarray(a)[:h, :, 0], -1, 0) for a in (x, y))
    coords = {
        "draw": np.arange(draws),
        "step": np.arange(1, h + 1),
        "channel": list(model.channel_names),
        "state": list(model.state_names),
    }
    dims = ("draw", "step")
    return xr.Dataset({"draws": ((*dims, "channel"), y), "state_draws": ((*dims, "state"), x)}, coords)


def simulate(
    smc: SMC2, key: Array, population: Population, future: Observation, chosen: Int[Array, " n"]
) -> tuple[Float[Array, "h x s n"], Float[Array, "h y s n"]]:
    """States and observations that continue the chosen particles (numbered over all runs); one series, a path each."""
    model: Any = smc.filter.model
    now, later = jax.random.split(key)

    def of_chosen(a: Array) -> Array:
        return a.reshape(*a.shape[:-2], 1, -1)[..., chosen]

    params, belief = jax.tree.map(of_chosen, (population.params, population.belief))
    like = belief.mean[0]
    future = jax.tree.map(lambda leaf: leaf[..., :1], future)

    def noisy(key: Array, A: Any, x: Array, b: Any, root: Any) -> Array:
        """A x + b + root e."""
        root = rows(root)
        e = jax.random.normal(key, (len(root[0]), *like.shape), like.dtype)
        return stack(matvec(rows(A), list(x)), like) + stack(vector(b), like) + stack(matvec(root, list(e)), like)

    def step(x: Array, row: tuple[Array, Observation]) -> tuple[Array, tuple[Array, Array]]:
        key_x, key_y = jax.random.split(row[0])
        obs = at_particles(row[1])
        system = model.matrices(params, obs)
        x = jnp.where((obs.dt == 0)[None], x, noisy(key_x, system.F, x, system.c, system.chol_Q))
        y = noisy(key_y, system.H, x, system.d, system.chol_R)
        return x, (x, y)

    e = jax.random.normal(now, belief.mean.shape, like.dtype)
    start = belief.mean + jnp.sum(belief.chol * e[None], axis=1)
    return jax.lax.scan(step, start, (jax.random.split(later, len(future.dt)), future))[1]
