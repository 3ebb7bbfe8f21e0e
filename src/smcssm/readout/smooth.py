"""The smoothed state: every state given all observations, hyperparameters integrated out, in bounded memory.

    for a share of the particles at a time:
        forwards    filter all of history; keep the belief before every chunk of rows
        backwards   chunk by chunk, last first: filter it again, and step back over its rows (``kalman.smoother``)
                    mean and variance of every state over these particles, joined with those of the others

The mixture over particles is exact: its mean and sd are those of a mixture of Gaussians, one for each particle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from smcssm.core import Observation
from smcssm.errors import ModelError
from smcssm.filters import Kalman
from smcssm.gaussian import Gaussian
from smcssm.history import pad
from smcssm.kalman import smoother
from smcssm.readout.posterior import resampled
from smcssm.smc2.adapt import compiled, gather
from smcssm.smc2.population import SMC2, Population, Stream, at_particles, fold_in, stream
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

ROOM = 1 << 23  # numbers that a share of the particles may take up for a chunk of rows: 64 MiB in float64


class Moments(NamedTuple):
    """Weight, mean, and weighted sum of squares around it, of states ``[t, x]`` over some particles."""

    weight: Float[Any, ""]
    mean: Float[Any, "t x"]
    square: Float[Any, "t x"]

    def join(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        weight, gap = self.weight + other.weight, other.mean - self.mean
        square = self.square + other.square + gap**2 * (self.weight * other.weight / weight)
        return Moments(weight, self.mean + gap * (other.weight / weight), square)


class Share(NamedTuple):
    """Some particles, what is known of them before the first row, and the observations."""

    smc: SMC2
    params: PyTree
    start: Gaussian
    data: Observation

    def chunk(self, first: int, size: int) -> tuple[Observation, Int[np.ndarray, ""]]:
        """Rows from ``first`` on, always as many, and how many of them count."""
        rows = jax.tree.map(lambda leaf: leaf[first : first + size], self.data)
        return pad(rows, size), np.asarray(len(rows.dt))


def smooth(snapshot: Snapshot, lag: int | None = None, draws: int = 0, seed: int = 0) -> xr.Dataset:
    """Mean and sd of every x_t given y_1:T, or given y_1:t+lag; dims (time, state).

    Rows are in the order of their times, labelled by the order in which they arrived. Hyperparameters have their
    present posterior, with a lag as well. ``draws`` adds as many ``trajectory`` per run, drawn jointly with the
    hyperparameters and given all of y_1:T; dims (chain, draw, time, state).
    """
    import xarray as xr

    data = _data(snapshot)
    dims, times = ("time", "state"), data.index[:, 0] + 1
    with jax.enable_x64(True):
        mean, sd = _mixture(snapshot, data, None if lag is None or lag >= len(times) else lag)
        out: dict[str, Any] = {"mean": (dims, mean), "sd": (dims, sd)}
        if draws:
            out["trajectory"] = (("chain", "draw", *dims), _trajectories(snapshot, data, draws, seed))
    return xr.Dataset(out, {"time": times, "state": list(snapshot.smc.filter.model.state_names)}, {"t": snapshot.t})


def _data(snapshot: Snapshot) -> Observation:
    """All observations."""
    if not isinstance(snapshot.smc.filter, Kalman):
        raise ModelError(f"smooth: there is no smoother for {type(snapshot.smc.filter).__name__}, only for Kalman()")
    if snapshot.t == 0:
        raise ModelError("smooth: there is no observation yet")
    if snapshot.data is None:
        raise ModelError(
            f"smooth: {snapshot.smc.schedule!r} keeps no observations; give the engine a journal= for them"
        )
    return snapshot.data()


def _mixture(snapshot: Snapshot, data: Observation, lag: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd ``[t, x]`` over all particles of all runs."""
    weights = snapshot.weights() / len(snapshot.population.log_weight)
    alive, size, total = np.flatnonzero((weights > 0).any(axis=0)), _room(snapshot), None
    for first in range(0, len(alive), min(size, len(alive))):
        numbers = np.resize(alive[first : first + size], min(size, len(alive)))
        w = weights[:, numbers] * (np.arange(len(numbers)) < len(alive) - first)  # the last share repeats some
        if not w.any():
            continue
        share = _share(snapshot, data, np.broadcast_to(numbers, w.shape))
        of_share = _smoothed(share, w) if lag is None else _with_lag(share, w, lag)
        total = of_share if total is None else total.join(of_share)
    assert total is not None
    return total.mean, np.sqrt(total.square / total.weight)


def _room(snapshot: Snapshot) -> int:
    """How many particles of each run at a time."""
    x, runs = len(snapshot.smc.filter.model.state_names), len(snapshot.population.log_weight)
    return max(1, ROOM // (6 * x * x * runs * snapshot.smc.chunk))


def _share(snapshot: Snapshot, data: Observation, numbers: Int[np.ndarray, "s n"]) -> Share:
    """Particles by number, series by series."""
    blank = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), data)
    params, start = compiled(_before, snapshot.smc)(snapshot.population, numbers, blank)
    return Share(snapshot.smc, params, start, data)


def _before(smc: SMC2, population: Population, numbers: Array, blank: Observation) -> tuple[PyTree, PyTree]:
    params = gather(population.params, numbers)
    return params, smc.filter.init(stream(population.key, Stream.INIT), params, at_particles(blank))


def _backwards[T](
    share: Share, begin: Callable[[Gaussian], T], step: Callable[[int, Gaussian, T], tuple[T, Any]]
) -> Iterator[Any]:
    """What ``step`` says of each chunk, from its first row, the belief before it and a state; the last chunk first."""
    smc, size, belief, starts = share.smc, share.smc.chunk, share.start, []
    key = stream(jnp.zeros((belief.mean.shape[-2], 2), jnp.uint32), Stream.FILTER)  # a Kalman filter draws nothing
    for first in range(0, len(share.data.dt), size):
        starts.append((first, belief))
        belief = compiled(_forwards, smc)(key, share.params, belief, *share.chunk(first, size))
    state = begin(belief)
    for first, start in reversed(starts):
        state, told = step(first, start, state)
        yield told


def _forwards(smc: SMC2, key: Array, params: PyTree, belief: Gaussian, rows: Observation, length: Array) -> Gaussian:
    return smc.filter.replay(key, params, belief, at_particles(rows), length)[0]


def _in_order(chunks: Iterator[Any], n_rows: int) -> Any:
    """Chunks that came last first, as one; without the padding."""
    found = list(chunks)[::-1]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n_rows], *found)


def _smoothed(share: Share, w: Float[np.ndarray, "s n"]) -> Moments:
    """Given all observations."""

    def step(first: int, start: Gaussian, law: Gaussian) -> tuple[Gaussian, tuple]:
        rows = share.chunk(first, share.smc.chunk)
        law, told = compiled(_smoothed_chunk, share.smc)(share.params, start, *rows, law, w)
        return law, jax.device_get(told)

    mean, square = _in_order(_backwards(share, _centred, step), len(share.data.dt))
    return Moments(w.sum(), mean, square)


def _with_lag(share: Share, w: Float[np.ndarray, "s n"], lag: int) -> Moments:
    """Given ``lag`` observations more."""

    def step(first: int, start: Gaussian, nothing: None) -> tuple[None, tuple]:
        rows = share.chunk(first, share.smc.chunk + lag)
        return nothing, jax.device_get(compiled(_lagged_chunk, share.smc, lag)(share.params, start, *rows, w))

    mean, square = _in_order(_backwards(share, lambda _: None, step), len(share.data.dt))
    return Moments(w.sum(), mean, square)


def _trajectories(snapshot: Snapshot, data: Observation, draws: int, seed: int) -> np.ndarray:
    """Joint draws ``[runs, draws, t, x]``."""
    chosen = resampled(snapshot.weights(), draws, np.random.default_rng(seed))
    size = min(_room(snapshot), draws)
    keys = jax.random.split(jax.random.key(seed), len(chosen))
    out = []
    for first in range(0, draws, size):
        share = _share(snapshot, data, np.resize(chosen[:, first : first + size], (len(chosen), size)))
        out.append(np.moveaxis(_drawn(share, fold_in(keys, first)), (-2, -1), (0, 1)))
    return np.concatenate(out, axis=1)[:, :draws]


def _drawn(share: Share, key: Array) -> np.ndarray:
    """One trajectory of each particle, ``[t, x, s, n]``."""

    def begin(end: Gaussian) -> Array:
        return compiled(_last_draw, share.smc)(fold_in(key, 0), end)

    def step(first: int, start: Gaussian, draw: Array) -> tuple[Array, np.ndarray]:
        rows = share.chunk(first, share.smc.chunk)
        draw, path = compiled(_drawn_chunk, share.smc)(fold_in(key, 1, first), share.params, start, *rows, draw)
        return draw, np.asarray(path)

    return _in_order(_backwards(share, begin, step), len(share.data.dt))


def _centred(belief: Gaussian) -> Gaussian:
    return Gaussian(jnp.zeros_like(belief.mean), belief.chol)


def _smoothed_chunk(
    smc: SMC2, params: PyTree, start: Gaussian, rows: Observation, length: Array, law: Gaussian, w: Array
) -> tuple[Gaussian, tuple[Array, Array]]:
    beliefs, steps = _back(smc, params, start, rows, length)
    before, laws = smoother.smooth(steps, law, _kalman(smc).blocks)
    return before, _moments(beliefs.mean + laws.mean, laws.chol, w)


def _lagged_chunk(
    smc: SMC2, lag: int, params: PyTree, start: Gaussian, rows: Observation, length: Array, w: Array
) -> tuple[Array, Array]:
    beliefs, steps = _back(smc, params, start, rows, length)
    laws = smoother.lagged(steps, beliefs, lag)
    return _moments(beliefs.mean[: len(laws.mean)] + laws.mean, laws.chol, w)


def _drawn_chunk(
    smc: SMC2, key: Array, params: PyTree, start: Gaussian, rows: Observation, length: Array, draw: Array
) -> tuple[Array, Array]:
    beliefs, steps = _back(smc, params, start, rows, length)
    before, draws = smoother.sample(steps, draw, _normal(key, beliefs.mean), _kalman(smc).blocks)
    return before, beliefs.mean + draws


def _last_draw(smc: SMC2, key: Array, end: Gaussian) -> Array:
    del smc
    return jnp.sum(end.chol * _normal(key, end.mean)[None], axis=1)


def _normal(key: Array, like: Float[Array, "*t x s n"]) -> Float[Array, "*t x s n"]:
    """Standard normal numbers, of each series by its own key."""
    shape = (*like.shape[:-2], like.shape[-1])
    return jnp.moveaxis(jax.vmap(lambda k: jax.random.normal(k, shape, like.dtype))(key), 0, -2)


def _back(smc: SMC2, params: PyTree, start: Gaussian, rows: Observation, length: Array) -> tuple:
    return _kalman(smc).back(params, start, at_particles(rows), length)


def _kalman(smc: SMC2) -> Kalman:
    assert isinstance(smc.filter, Kalman)
    return smc.filter


def _moments(
    mean: Float[Array, "t x s n"], chol: Float[Array, "t x x s n"], w: Float[Array, "s n"]
) -> tuple[Float[Array, "t x"], Float[Array, "t x"]]:
    """Mean, and weighted sum of squares around it, of a mixture; of weight zero a particle may be anything."""
    w = w[None, None]
    alive = w > 0
    m, v = (jnp.where(alive, a.astype(jnp.float64), 0.0) for a in (mean, jnp.sum(chol**2, axis=2)))
    middle = jnp.sum(w * m, axis=(-2, -1)) / jnp.sum(w)
    return middle, jnp.sum(w * (v + (m - middle[..., None, None]) ** 2), axis=(-2, -1))
