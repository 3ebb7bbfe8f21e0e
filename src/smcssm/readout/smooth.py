"""The smoothed state: every state given all observations, hyperparameters integrated out, in bounded memory.

    for a share of the particles at a time:
        forwards    go through history; keep the belief before every chunk of rows
        backwards   chunk by chunk, last first: through it again, then step back over its rows (``backwards_gaussian``,
                    ``backwards_chain``)
                    mean and variance of every state over these particles, joined with those of the others

The mixture over particles is exact: its mean and sd are those of a mixture with a law for each particle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from smcssm.core import AbstractRandomFilter, Observation
from smcssm.errors import ModelError
from smcssm.filters import Discrete, Kalman
from smcssm.history import pad
from smcssm.readout import jointly, traced
from smcssm.readout.backwards import Backwards, Moments, doubled
from smcssm.readout.backwards_chain import CHAIN
from smcssm.readout.backwards_gaussian import GAUSSIAN
from smcssm.readout.jointly import Joint
from smcssm.readout.posterior import resampled, some_of
from smcssm.smc2.adapt import compiled, gather
from smcssm.smc2.population import SMC2, Population, Stream, at_particles, fold_in, stream
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

ROOM = 1 << 23  # numbers that a share of the particles may take up for a chunk of rows: 64 MiB in float64
WAYS: dict[type, Backwards] = {Kalman: GAUSSIAN, Discrete: CHAIN}


class Share(NamedTuple):
    """Some particles, what is known of them before the first row, and the observations."""

    smc: SMC2
    params: PyTree
    start: PyTree
    data: Observation

    def chunk(self, first: int, size: int) -> tuple[Observation, Int[np.ndarray, ""]]:
        """Rows from ``first`` on, always as many, and how many of them count."""
        rows = jax.tree.map(lambda leaf: leaf[first : first + size], self.data)
        return pad(rows, size), np.asarray(len(rows.dt))


def smooth(
    snapshot: Snapshot, lag: int | None = None, draws: int = 0, seed: int = 0, covariance: bool = False
) -> xr.Dataset:
    """Mean and sd of every x_t given y_1:T, or given y_1:t+lag; dims (time, state).

    Rows are in the order of their times, labelled by the order in which they arrived; ``when`` is the time stamp, where
    there is one. Hyperparameters have their present posterior, with a lag as well. ``draws`` adds as many
    ``trajectory`` per run, drawn jointly with the hyperparameters and given all of y_1:T; dims (chain, draw, time,
    state). Of a hidden Markov model states are the indicators of regimes, whose ``probability`` has dims (time,
    regime). With inner particles: see ``traced``. ``covariance`` adds those of x_t, and ``lag_one`` those of x_t with
    the state at the row before (``other_state``), NaN at the first; dims (time, state, other_state).
    """
    if covariance:
        _check_joint(snapshot, lag)
    data, exact = all_observations(snapshot), not isinstance(snapshot.smc.filter, AbstractRandomFilter)
    if exact:
        told = _exactly(snapshot, data, lag, draws, seed, covariance)
    else:
        told = traced.smooth(snapshot, data, lag, draws, seed)
    stamps = snapshot.when()
    return told if stamps is None else told.assign_coords(when=("time", stamps[told["time"].values - 1]))


def _check_joint(snapshot: Snapshot, lag: int | None) -> None:
    if lag is not None:
        raise ModelError(f"covariance=True is given all observations: lag={lag} goes without")
    if not isinstance(snapshot.smc.filter, Kalman):
        name = type(snapshot.smc.filter).__name__
        raise ModelError(f"covariance=True needs the Kalman filter, this engine has {name}")


def _exactly(
    snapshot: Snapshot, data: Observation, lag: int | None, draws: int, seed: int, covariance: bool
) -> xr.Dataset:
    """By the way back of an exact filter."""
    import xarray as xr

    inner = snapshot.smc.filter
    dims, times = ("time", "state"), data.index[:, 0] + 1
    way = _smoothed if lag is None or lag >= len(times) else partial(_with_lag, lag=lag)
    with jax.enable_x64(True):
        found = _mixture(snapshot, data, _jointly if covariance else way)
        square = np.einsum("tii->ti", found.own) if isinstance(found, Joint) else found.square
        out: dict[str, Any] = {"mean": (dims, found.mean), "sd": (dims, np.sqrt(square / found.weight))}
        if isinstance(found, Joint):
            found.lag_one[0] = np.nan
            pairs = {"covariance": found.own, "lag_one": found.lag_one}
            out |= {name: ((*dims, "other_state"), a / found.weight) for name, a in pairs.items()}
        if draws:
            out["trajectory"] = (("chain", "draw", *dims), _trajectories(snapshot, data, draws, seed))
    names = list(inner.model.state_names)
    told = xr.Dataset(out, {"time": times, "state": names}, {"t": snapshot.t})
    if covariance:
        return told.assign_coords(other_state=names)
    if not isinstance(inner, Discrete):
        return told
    regimes = list(inner.model.regime_names)
    return told.assign(probability=(("time", "regime"), found.mean)).assign_coords(regime=regimes)


def all_observations(snapshot: Snapshot) -> Observation:
    """All observations."""
    if snapshot.t == 0:
        raise ModelError("there is no observation yet")
    if snapshot.data is None:
        raise ModelError(
            f"{snapshot.smc.schedule!r} keeps no observations to smooth; give the engine a journal= for them"
        )
    return snapshot.data()


def _mixture(snapshot: Snapshot, data: Observation, way: Callable[[Share, np.ndarray], Any]) -> Any:
    """Moments over all particles of all runs, a share of them at a time."""
    weights = snapshot.weights() / len(snapshot.population.log_weight)
    alive, size, total = np.flatnonzero((weights > 0).any(axis=0)), room(snapshot), None
    for first in range(0, len(alive), min(size, len(alive))):
        numbers = np.resize(alive[first : first + size], min(size, len(alive)))
        w = weights[:, numbers] * (np.arange(len(numbers)) < len(alive) - first)  # the last share repeats some
        if not w.any():
            continue
        share = share_of(snapshot, data, np.broadcast_to(numbers, w.shape))
        of_share = way(share, w)
        total = of_share if total is None else total.join(of_share)
    assert total is not None
    return total


def _way(smc: SMC2) -> Backwards:
    """The way back of its filter."""
    return WAYS[type(smc.filter)]


def room(snapshot: Snapshot) -> int:
    """How many particles of each run at a time."""
    x, runs = len(snapshot.smc.filter.model.state_names), len(snapshot.population.log_weight)
    return max(1, ROOM // (6 * x * x * runs * snapshot.smc.chunk))


def share_of(snapshot: Snapshot, data: Observation, numbers: Int[np.ndarray, "s n"]) -> Share:
    """Particles by number, series by series; in float64, as a vague start takes all digits of float32."""
    data = doubled(data)
    blank = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), data)
    population = replace(snapshot.population, params=doubled(snapshot.population.params))
    params, start = compiled(_before, snapshot.smc)(population, numbers, blank)
    return Share(snapshot.smc, params, start, data)


def _before(smc: SMC2, population: Population, numbers: Array, blank: Observation) -> tuple[PyTree, PyTree]:
    params = gather(population.params, numbers)
    return params, smc.filter.init(stream(population.key, Stream.INIT), params, at_particles(blank))


def going_back[T](
    share: Share, ahead: Callable, begin: Callable[[Any], T], step: Callable[[int, Any, T], tuple[T, Any]]
) -> Iterator[Any]:
    """What ``step`` says of each chunk, from its first row, what ``ahead`` kept of it and a state; last chunk first."""
    size, run = share.smc.chunk, compiled(ahead, share.smc)
    starts, kept = [share.start], None
    for first in range(0, len(share.data.dt), size):
        kept = None  # memory for one chunk
        belief, kept = run(share.params, starts[-1], *share.chunk(first, size))
        starts.append(belief)
    state = begin(starts.pop())
    for k, start in reversed(list(enumerate(starts))):
        kept = run(share.params, start, *share.chunk(k * size, size))[1] if kept is None else kept
        state, told = step(k * size, kept, state)
        yield told
        kept = None


def in_order(chunks: Iterator[Any], n_rows: int) -> Any:
    """Chunks that came last first, as one; without the padding."""
    found = list(chunks)[::-1]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n_rows], *found)


def _smoothed(share: Share, w: Float[np.ndarray, "s n"]) -> Moments:
    """Given all observations."""
    way = _way(share.smc)

    def step(first: int, kept: Any, law: Any) -> tuple[Any, tuple]:
        del first
        law, told = compiled(way.smoothed, share.smc)(kept, law, w)
        return law, jax.device_get(told)

    mean, square = in_order(going_back(share, way.ahead, way.end, step), len(share.data.dt))
    return Moments(w.sum(), mean, square)


def _jointly(share: Share, w: Float[np.ndarray, "s n"]) -> Joint:
    """The same, with covariances."""

    def step(first: int, kept: Any, law: Any) -> tuple[Any, tuple]:
        del first
        law, told = compiled(jointly.smoothed, share.smc)(kept, law, w)
        return law, jax.device_get(told)

    back = going_back(share, jointly.ahead, GAUSSIAN.end, step)
    return Joint(w.sum(), *in_order(back, len(share.data.dt)))


def _with_lag(share: Share, w: Float[np.ndarray, "s n"], lag: int) -> Moments:
    """Given ``lag`` observations more: all that is kept of them says as well where the next chunk begins."""
    way, belief, size, found = _way(share.smc), share.start, share.smc.chunk, []
    for first in range(0, len(share.data.dt), size):
        kept = compiled(way.ahead, share.smc)(share.params, belief, *share.chunk(first, size + lag))[1]
        belief = jax.tree.map(lambda leaf: leaf[size - 1], kept[0])
        found.append(jax.device_get(compiled(way.lagged, share.smc, lag)(kept, w)))
    return Moments(w.sum(), *in_order(iter(found[::-1]), len(share.data.dt)))


def _trajectories(snapshot: Snapshot, data: Observation, draws: int, seed: int) -> np.ndarray:
    """Joint draws ``[runs, draws, t, x]``."""
    chosen = resampled(snapshot.weights(), draws, np.random.default_rng(seed))
    size = min(room(snapshot), draws)
    keys = jax.random.split(jax.random.key(seed), len(chosen))
    out = []
    for first in range(0, draws, size):
        share = share_of(snapshot, data, some_of(chosen, first, size))
        out.append(np.moveaxis(_drawn(share, fold_in(keys, first)), (-2, -1), (0, 1)))
    return np.concatenate(out, axis=1)[:, :draws]


def _drawn(share: Share, key: Array) -> np.ndarray:
    """One trajectory of each particle, ``[t, x, s, n]``."""
    way = _way(share.smc)

    def begin(end: Any) -> Array:
        return compiled(way.last, share.smc)(fold_in(key, 0), end)

    def step(first: int, kept: Any, draw: Array) -> tuple[Array, np.ndarray]:
        draw, path = compiled(way.drawn, share.smc)(fold_in(key, 1, first), kept, draw)
        return draw, np.asarray(path)

    return in_order(going_back(share, way.ahead, begin, step), len(share.data.dt))
