"""Smoothing by the ancestors of inner particles, a number of rows back, hyperparameters integrated out.

    draw outer particles (theta) by their weights; equal weights from here on
    for a share of them at a time, for t = 1..T:
        one step of the inner filter, which carries the last L values of each inner particle's ancestors
        if t > L:   moments of x_t-L from the ancestors of today's particles           given y_1:t
    the last L rows from the ancestors at T                                            given y_1:T

Of a Rao-Blackwellised filter regimes are traced, and along each path the linear state is smoothed exactly: see
``traced_gaussian``.

Kitagawa & Sato (2001, doi:10.1007/978-1-4757-3437-9_9). The filter runs anew from random numbers of its own. Errors: of
the draws of theta, as of any Monte Carlo mean of that many; of M inner particles, O(1 / M) in the mean; and where rows
later than t + L tell something of x_t.

Ancestors become fewer as one goes back: of M particles about 2 M / L are distinct L resamplings ago (Kingman 1982,
doi:10.2307/3213548). What is known beyond L rows fades as fast as the state forgets. ``LAG`` = 50 leaves some ten
ancestors of 256 and 1% of what is remembered at a rate of 0.91 per row; give a longer one with more inner particles.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from smcssm.core import Observation
from smcssm.errors import ModelError
from smcssm.filters import Particle, RaoBlackwell, particle
from smcssm.history import pad
from smcssm.readout import traced_gaussian
from smcssm.readout.backwards import Moments, doubled, moments
from smcssm.readout.posterior import resampled, some_of
from smcssm.readout.traced_gaussian import Way
from smcssm.smc2.adapt import compiled, gather
from smcssm.smc2.population import SMC2, Population, at_particles, fold_in
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

LAG = 50
DRAWN = 256  # outer particles of all runs together
ROOM = 1 << 22  # numbers that the ancestors of a share may take up: 32 MiB in float64


def smooth(snapshot: Snapshot, data: Observation, lag: int | None, draws: int, seed: int) -> xr.Dataset:
    """``mean`` and ``sd`` of x_t given y_1:t+lag, and ``probability`` of regimes, with the lag as an attribute.

    Raises:
        ModelError: for trajectories.
    """
    import xarray as xr

    inner: Any = snapshot.smc.filter
    if draws:
        raise ModelError(
            f"smooth(draws={draws}): all of a trajectory would descend from a few ancestors; {type(inner).__name__} "
            "tells moments with a lag alone"
        )
    way = Way(lag, 1) if lag is not None else Way(LAG, LAG)
    way = Way(min(way.lag, len(data.dt) - 1), min(way.stride, len(data.dt)))
    with jax.enable_x64(True):
        mean, sd = _traced(snapshot, data, way, seed)
    x, coords = len(inner.model.state_names), {"time": data.index[:, 0] + 1, "state": list(inner.model.state_names)}
    told = {"mean": (("time", "state"), mean[:, :x]), "sd": (("time", "state"), sd[:, :x])}
    if mean.shape[1] > x:  # and of the indicators of regimes
        told["probability"] = (("time", "regime"), mean[:, x:])
        coords["regime"] = list(inner.model.regime_names)
    return xr.Dataset(told, coords, {"t": snapshot.t, "lag": way.lag})


def _traced(snapshot: Snapshot, data: Observation, way: Way, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd ``[t, x]`` over outer particles drawn by weight."""
    of_share = traced_gaussian.of_share if isinstance(snapshot.smc.filter, RaoBlackwell) else _of_share
    data = doubled(data)
    snapshot = snapshot._replace(population=replace(snapshot.population, params=doubled(snapshot.population.params)))
    weights = snapshot.weights()
    chosen = resampled(weights, -(-DRAWN // len(weights)), np.random.default_rng(seed))
    keys, size, total = jax.random.split(jax.random.key(seed), len(weights)), _room(snapshot, way), None
    draws = chosen.shape[1]
    for first in range(0, draws, min(size, draws)):
        numbers = some_of(chosen, first, min(size, draws))
        w = np.broadcast_to(np.arange(numbers.shape[1]) < draws - first, numbers.shape).astype(float)
        found = of_share(snapshot, data, numbers, w, way, fold_in(keys, first))
        total = found if total is None else total.join(found)
    assert total is not None
    return total.mean, np.sqrt(total.square / total.weight)


def _room(snapshot: Snapshot, way: Way) -> int:
    """How many outer particles of each run at a time."""
    belief = snapshot.population.belief
    one = sum(leaf.size for leaf in jax.tree.leaves(belief)) // snapshot.population.log_weight.size
    return max(1, ROOM // (one * (way.lag + way.stride) * len(snapshot.population.log_weight)))


def _of_share(
    snapshot: Snapshot, data: Observation, numbers: Int[np.ndarray, "s n"], w: np.ndarray, way: Way, key: Array
) -> Moments:
    """Rows in order: those with a lag, then those that are told by all there are."""
    smc, lag = snapshot.smc, way.lag
    blank = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), data)
    params, belief = compiled(_before, smc, lag)(fold_in(key, 0), snapshot.population, numbers, blank)
    told, T = [], len(data.dt)
    for first in range(0, T, smc.chunk):
        rows = jax.tree.map(lambda leaf, at=first: leaf[at : at + smc.chunk], data)
        n, run = len(rows.dt), compiled(_chunk, smc, lag)
        belief, found = run(fold_in(key, 1), params, belief, pad(rows, smc.chunk), np.asarray(n), w)
        told.append(jax.tree.map(lambda a, n=n: np.asarray(a)[:n], found))
    rest = jax.tree.map(lambda a: np.asarray(a)[:lag][::-1], compiled(_ancestors, smc, lag, 0)(belief, w))
    mean, square = jax.tree.map(lambda *parts: np.concatenate([*parts[:-1], parts[-1]])[lag:], *told, rest)
    return Moments(w.sum(), mean, square)


def _before(
    smc: SMC2, lag: int, key: Array, population: Population, numbers: Array, blank: Observation
) -> tuple[PyTree, PyTree]:
    """Particles by number, and beliefs with as many inner particles as there are by now."""
    params, like = gather((population.params, population.belief), numbers)
    return params, _keeping(smc, lag).init(key, params, at_particles(blank), like)


def _chunk(
    smc: SMC2, lag: int, key: Array, params: PyTree, belief: PyTree, rows: Observation, length: Array, w: Array
) -> tuple[PyTree, tuple[Array, Array]]:
    """The belief after the first ``length`` rows, and with each the moments of the state ``lag`` rows before."""
    inner, rows = _keeping(smc, lag), at_particles(rows)

    def row(i: Array, carry: tuple) -> tuple:
        belief, told = carry
        obs = jax.tree.map(lambda leaf: leaf[i], rows)
        belief, _ = inner.step(fold_in(key, obs.index[:, 0]), params, belief, obs)
        found = _ancestors(smc, lag, lag, belief, w)
        return belief, jax.tree.map(lambda buffer, value: buffer.at[i].set(value[0]), told, found)

    shape = jax.eval_shape(lambda b: _ancestors(smc, lag, lag, b, w), belief)
    told = jax.tree.map(lambda a: jnp.zeros((len(rows.dt), *a.shape[1:]), a.dtype), shape)
    return jax.lax.fori_loop(0, length, row, (belief, told))


def _ancestors(smc: SMC2, lag: int, first: int, belief: Any, w: Array) -> tuple[Array, Array]:
    """Moments over outer particles of the states ``first`` rows ago and before."""
    del smc, lag
    mean, sd = particle.lagged(belief, first)
    return moments(mean, sd**2, w)


def _keeping(smc: SMC2, lag: int) -> Particle:
    """The filter, with ancestors."""
    assert isinstance(smc.filter, Particle)
    return replace(smc.filter, lag=max(lag, 1))
