"""Joint paths of future states and observations: what a mean and a band at each step cannot tell.

    draw a particle (theta, belief) by its weight, and x_t from the belief
    for k = 1..h:   draw x_t+k given x_t+k-1, and y_t+k given x_t+k

One particle per path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from smcssm.core import Observation
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, Population, Stream, at_particles, stream
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

ROOM = 1 << 22  # numbers that the beliefs which paths start from may take up: 32 MiB in float64


def paths(snapshot: Snapshot, future: Observation, draws: int, seed: int | None = None) -> xr.Dataset:
    """``draws`` paths through the rows of ``future``, of observations and states; runs have equal shares."""
    import xarray as xr

    model = snapshot.smc.filter.model
    h, w = len(future.dt), snapshot.weights()
    with jax.enable_x64(True):
        of_now = stream(snapshot.population.key, Stream.FORECAST, snapshot.t)[0]
        key = of_now if seed is None else jax.random.key(seed)
        size = 1 << max(h - 1, 0).bit_length()  # few shapes, so few compilations
        padded = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], size - h, axis=0)]), future)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        chosen = rng.choice(w.size, draws, p=w.ravel() / w.sum())
        found, share = [], _share(snapshot, draws)
        for first in range(0, draws, share):
            part, of_part = np.resize(chosen[first : first + share], share), jax.random.fold_in(key, first)
            told = compiled(simulate, snapshot.smc)(of_part if first else key, snapshot.population, padded, part)
            found.append([np.moveaxis(np.asarray(a)[:h, :, 0], -1, 0) for a in told])
        x, y = (np.concatenate(parts)[:draws] for parts in zip(*found, strict=True))
    coords = {
        "draw": np.arange(draws),
        "step": np.arange(1, h + 1),
        "channel": list(model.channel_names),
        "state": list(model.state_names),
    }
    dims = ("draw", "step")
    return xr.Dataset({"draws": ((*dims, "channel"), y), "state_draws": ((*dims, "state"), x)}, coords)


def _share(snapshot: Snapshot, draws: int) -> int:
    """How many paths at a time: each starts from the belief of one particle, with all inner particles of it."""
    one = sum(leaf.size for leaf in jax.tree.leaves(snapshot.population.belief)) / snapshot.population.log_weight.size
    return min(draws, max(1, int(ROOM / one)))


def simulate(
    smc: SMC2, key: Array, population: Population, future: Observation, chosen: Int[Array, " n"]
) -> tuple[Float[Array, "h x s n"], Float[Array, "h y s n"]]:
    """States and observations that continue the chosen particles (numbered over all runs); one series, a path each."""
    now, later = jax.random.split(key)

    def of_chosen(a: Array) -> Array:
        return a.reshape(*a.shape[:-2], 1, -1)[..., chosen]

    params, belief = jax.tree.map(of_chosen, (population.params, population.belief))
    future = jax.tree.map(lambda leaf: leaf[..., :1], future)

    def step(state: PyTree, row: tuple[Array, Observation]) -> tuple[PyTree, tuple[Array, Array]]:
        state, x, y = smc.filter.simulate(row[0][None], params, state, at_particles(row[1]))
        return state, (x, y)

    start = smc.filter.draw(now[None], belief)
    return jax.lax.scan(step, start, (jax.random.split(later, len(future.dt)), future))[1]
