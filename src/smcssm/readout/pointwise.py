"""What each draw of the hyperparameters said of every observation before it came: log-likelihoods and replicates.

    for draws theta_i of the posterior, a share of them at a time, for t = 1..T:
        log p(y_t | y_1:t-1, theta_i)           the terms of the likelihood: ``log_likelihood``
        y'_t ~ p(y_t | y_1:t-1, theta_i)        what might have come instead: ``posterior_predictive``
        one step of the filter

Both condition on the past alone, so that they belong together: leave-one-out weights of the former apply to the latter.
With inner particles log-likelihoods are estimates, from random numbers of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from smcssm.core import Observation
from smcssm.history import pad
from smcssm.readout.posterior import some_of
from smcssm.smc2.adapt import compiled, gather
from smcssm.smc2.population import SMC2, Population, at_particles, fold_in
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

ROOM = 1 << 24  # numbers that are told without being asked for: 128 MiB


def is_small(snapshot: Snapshot, draws: int) -> bool:
    """Whether they take so little room and time that nobody need ask for them."""
    channels = len(snapshot.smc.filter.model.channel_names)
    size = snapshot.t * draws * len(snapshot.population.log_weight) * (channels + 1)
    return snapshot.smc.filter.exact and size <= ROOM


def pointwise(snapshot: Snapshot, chosen: Int[np.ndarray, "runs draws"], seed: int) -> dict[str, xr.Dataset]:
    """Groups ``log_likelihood`` and ``posterior_predictive`` of the chosen particles; none without history.

    Rows of which nothing was observed have no likelihood, and are left out of the former.
    """
    import xarray as xr

    if snapshot.data is None:
        return {}
    data, (runs, n) = snapshot.data(), snapshot.population.log_weight.shape
    size, draws = min(n, chosen.shape[1]), chosen.shape[1]
    found = []
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), runs)
        for first in range(0, draws, size):
            numbers = some_of(chosen, first, size)
            found.append(_through(snapshot, data, numbers, fold_in(keys, first)))
    log_lik, y = (np.concatenate(parts, axis=-1)[..., :draws] for parts in zip(*found, strict=True))
    seen, dims = data.mask[..., 0].any(axis=1), ("chain", "draw", "time")
    coords: dict[str, Any] = {"chain": np.arange(runs), "draw": np.arange(draws), "time": data.index[:, 0] + 1}
    of_seen = coords | {"time": coords["time"][seen]}
    terms, replicates = np.moveaxis(log_lik[seen], 0, -1), np.moveaxis(y, (0, 1), (2, 3))
    coords["channel"] = list(snapshot.smc.filter.model.channel_names)
    return {
        "log_likelihood": xr.Dataset({"y": (dims, terms)}, of_seen),
        "posterior_predictive": xr.Dataset({"y": ((*dims, "channel"), replicates)}, coords),
    }


def _through(
    snapshot: Snapshot, data: Observation, numbers: Int[np.ndarray, "runs n"], key: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods ``[t, runs, n]`` and replicates ``[t, channel, runs, n]`` of particles by number."""
    smc, told = snapshot.smc, []
    blank = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), data)
    params, belief = compiled(_before, smc)(fold_in(key, 0), snapshot.population, numbers, blank)
    for first in range(0, len(data.dt), smc.chunk):
        rows = jax.tree.map(lambda leaf, at=first: leaf[at : at + smc.chunk], data)
        run, length = compiled(_chunk, smc), len(rows.dt)
        belief, (log_lik, y) = run(fold_in(key, 1, first), params, belief, pad(rows, smc.chunk))
        told.append((np.asarray(log_lik)[:length], np.asarray(y)[:length]))
    log_lik, y = (np.concatenate(parts) for parts in zip(*told, strict=True))
    return log_lik, y


def _before(
    smc: SMC2, key: Array, population: Population, numbers: Array, blank: Observation
) -> tuple[PyTree, PyTree]:
    """Particles by number, and beliefs with as many inner particles as there are by now."""
    params, like = gather((population.params, population.belief), numbers)
    return params, smc.filter.init(key, params, at_particles(blank), like)


def _chunk(
    smc: SMC2, key: Array, params: PyTree, belief: PyTree, rows: Observation
) -> tuple[PyTree, tuple[Array, Array]]:
    """One chunk of rows; what pads the last one comes after all that counts."""

    def step(belief: PyTree, row: tuple[Array, Observation]) -> tuple[PyTree, tuple[Array, Array]]:
        number, obs = row[0], at_particles(row[1])
        now, ahead, inner = (fold_in(key, number, k) for k in range(3))
        _, _, y = smc.filter.simulate(ahead, params, smc.filter.draw(now, belief), obs)
        belief, info = smc.filter.step(inner, params, belief, obs)
        return belief, (info.log_lik.astype(jnp.float64), y.astype(jnp.float64))

    return jax.lax.scan(step, belief, (jnp.arange(len(rows.dt)), rows))
