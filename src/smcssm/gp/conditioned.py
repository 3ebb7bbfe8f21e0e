"""A Gaussian process given data: mean, variance and draws at any times, without filtering again.

At a time between two data its law comes from one step forward from the datum before and one step back from the datum
after it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcssm import kalman
from smcssm.core import Observation
from smcssm.gaussian import Gaussian
from smcssm.gp import grid, state
from smcssm.gp.events import Events, events
from smcssm.gp.filtering import prepared, slots_of, stationary, system
from smcssm.gp.kernel import Kernel
from smcssm.kalman import smoother, whitened
from smcssm.linalg import matvec, stack


class Prediction(NamedTuple):
    """Mean and variance of the process at some times."""

    mean: Any
    variance: Any

    @property
    def sd(self) -> Any:
        """Standard deviations."""
        return self.variance**0.5


class Data(NamedTuple):
    """What was given, in its order, minus the mean function; ``ends`` are the times when exposures end."""

    y: Any
    noise_sd: Any
    labels: np.ndarray
    ends: np.ndarray
    exposure: np.ndarray


class Conditioned(eqx.Module):
    """A Gaussian process given data, to be asked at any times, as often as wanted, without filtering again.

    ``beliefs`` are filtered; ``laws`` are of the state minus the filtered mean, given everything. The process is asked
    at times, whatever exposures the data had.
    """

    kernel: Kernel
    rows: Observation
    beliefs: Gaussian
    laws: Gaussian
    times: np.ndarray
    events: Events
    data: Data
    total: Float[Array, ""]
    mean_function: Any
    blocks: int = eqx.field(static=True)

    @property
    def log_probability(self) -> Any:
        """log p(y)."""
        return grid.out(self.total)

    @property
    def mean(self) -> Any:
        """Posterior mean of the process at the data, in their order."""
        return self.predict(self.times, outputs=self._labels).mean

    @property
    def variance(self) -> Any:
        """Posterior variance of the process at the data, in their order."""
        return self.predict(self.times, outputs=self._labels).variance

    def predict(self, at: Any, *, outputs: Any = None, part: int | None = None) -> Prediction:
        """Mean and variance of the process, without noise, at any times: before, between and after the data.

        Args:
            at: times in any order.
            outputs: for kernels with several outputs, which one is wanted, for all or for each.
            part: the number of a summand of a sum, which alone is wanted; the mean function is then left out.
        """
        with grid.precision(self.total):
            t = grid.host_times(at, "at")
            label = jnp.asarray(self._wanted(outputs, len(t)), self.total.dtype)
            mean, variance = _predict(self.kernel, self.rows, self.beliefs, self.laws, self._between(t), label, part)
            offset = grid.mean_at(self.mean_function, t) if part is None else 0.0
            return Prediction(grid.out(offset + mean), grid.out(variance))

    def covariance(self, at: Any = None, *, outputs: Any = None) -> Any:
        """Posterior covariance of the process between all pairs of times, without noise: ``[at, at]``.

        At the data, in their order, unless ``at`` is given. A time of the order of (data + at) at.
        """
        at, outputs = (self.times, self._labels) if at is None else (at, outputs)
        with grid.precision(self.total):
            all_rows, place = self._with(grid.host_times(at, "at"), outputs)
            number = np.full(len(all_rows.dt), -1)
            number[place] = np.arange(len(place))
            upper = _covariance_given(self.kernel, all_rows, self.blocks, jnp.asarray(number), len(place))[place]
            later = place[None] >= place[:, None]
            return grid.out(jnp.where(later, upper, upper.T))

    def sample(self, key: Array, at: Any, n: int = 1, *, outputs: Any = None) -> Any:
        """n joint draws of the process at ``at`` given the data: ``[n, at]``. Goes through data and times once."""
        with grid.precision(self.total):
            t = grid.host_times(at, "at")
            all_rows, place = self._with(t, outputs)
            draws = _sample_given(self.kernel, all_rows, self.blocks, key, n)
            return grid.out(grid.mean_at(self.mean_function, t)[None] + draws[place].T)

    def _with(self, t: np.ndarray, outputs: Any) -> tuple[Observation, np.ndarray]:
        """Rows of the data and of times at which nothing was seen, and the places of these."""
        data = self.data
        labels = np.concatenate([data.labels, self._wanted(outputs, len(t))])
        ends = np.concatenate([data.ends, t])
        when = events(ends, np.concatenate([data.exposure, np.zeros(len(t))]), labels)
        values = jnp.concatenate([jnp.asarray(data.y), jnp.full(len(t), jnp.nan)])
        noise = jnp.concatenate([jnp.asarray(data.noise_sd), jnp.ones(len(t))])
        return grid.rows(when, values, noise, labels, self.blocks), when.place[len(data.ends) :]

    @property
    def _labels(self) -> Any:
        return self.data.labels if self.kernel.n_outputs > 1 else None

    def _wanted(self, outputs: Any, n: int) -> np.ndarray:
        wanted = 0 if outputs is None and self.kernel.n_outputs == 1 else outputs
        return grid.labels(wanted, n, self.kernel.n_outputs)

    def _between(self, at: np.ndarray) -> tuple[Array, Array, Array]:
        """The number of the last row not after each time, the time since it and until the next; 0 without one."""
        ordered = self.events.times
        last = np.searchsorted(ordered, at, side="right") - 1
        since = np.where(last >= 0, at - ordered[np.maximum(last, 0)], 0)
        until = np.where(last + 1 < len(ordered), ordered[np.minimum(last + 1, len(ordered) - 1)] - at, 0)
        dtype = self.total.dtype
        return jnp.asarray(last), jnp.asarray(since, dtype), jnp.asarray(until, dtype)


@functools.partial(jax.jit, static_argnames="part")
def _predict(
    kernel: Kernel,
    given: Observation,
    beliefs: Gaussian,
    laws: Gaussian,
    between: tuple[Array, Array, Array],
    label: Array,
    part: int | None,
) -> tuple[Array, Array]:
    """All times side by side, on the series axis: forward from the datum before, back from the one after."""
    last, since, until = between

    def take(tree: Any, k: Array) -> Any:
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf[jnp.maximum(k, 0), ..., 0, 0], 0, -1)[..., None], tree)

    following = jnp.minimum(last + 1, len(given.dt) - 1)
    first = (last < 0)[:, None]
    start = stationary(kernel, given, jnp.zeros_like(since)[:, None])
    before = jax.tree.map(lambda a, b: jnp.where(first, a, b), start, take(beliefs, last))
    forth, after = _divided(take(given, following), since[:, None], until[:, None])
    now = system(kernel, forth)
    here = kalman.predict(before, now.F, now.c, now.chol_Q, forth.dt)
    law = smoother.apply(smoother.reverse(here, system(kernel, after), after), take(laws, following))
    law = jax.tree.map(lambda a, b: jnp.where(until[:, None] > 0, a, b), law, Gaussian(0 * here.mean, here.chol))
    like = here.mean[0]
    h = stack(_row(kernel, label[:, None], given, part), like)
    mean = jnp.sum(h * (here.mean + law.mean), axis=0)
    return mean[:, 0], jnp.sum(jnp.sum(h[:, None] * law.chol, axis=0) ** 2, axis=0)[:, 0]


def _divided(row: Observation, since: Array, until: Array) -> tuple[Observation, Observation]:
    """The steps before and after a time between two rows; what is open there is open in both, but after the last."""

    def step(dt: Array, goes_on: Array) -> Observation:
        assert row.inputs is not None
        inputs = row.inputs
        for first in range(2, len(inputs), 4):
            rate = jnp.where(until > 0, inputs[first], 0)
            inputs = inputs.at[first].set(rate)
            inputs = inputs.at[first + 1].set(jnp.where(goes_on & (rate > 0), 1, inputs[first + 1]))
        return eqx.tree_at(lambda o: (o.dt, o.inputs), row, (dt, inputs))

    return step(since, jnp.zeros_like(since, bool)), step(until, since > 0)


def _row(kernel: Kernel, label: Array, given: Observation, part: int | None = None) -> list[Any]:
    """h of the process itself."""
    h = state.row(kernel, label if kernel.n_outputs > 1 else None, part)
    return h + [0.0] * len(slots_of(given)[2])


@functools.partial(jax.jit, static_argnames=("blocks", "n"))
def _sample_given(kernel: Kernel, given: Observation, blocks: int, key: Array, n: int) -> Array:
    """Backwards in time: ``[t, n]``."""
    last, beliefs, steps = _back(kernel, given, blocks)
    noise = jax.random.normal(key, (n, len(given.dt) + 1, *last.mean.shape), given.y.dtype)

    def one(e: Array) -> Array:
        return whitened.states(beliefs, smoother.sample(steps, e[-1], e[:-1], blocks)[1])

    def seen(x: Array, obs: Observation) -> Array:
        return stack(matvec([_row(kernel, slots_of(obs)[0], obs)], list(x)), x[0])[0, 0, 0]

    return jax.vmap(lambda x: jax.vmap(seen)(x, given), out_axes=1)(jax.vmap(one)(noise))


@functools.partial(jax.jit, static_argnames=("blocks", "n"))
def _covariance_given(kernel: Kernel, given: Observation, blocks: int, number: Array, n: int) -> Array:
    """Of each row with n of them, by number: what ``whitened.told_of`` says; backwards in time."""
    last, beliefs, steps = _back(kernel, given, blocks)
    laws = smoother.smooth(steps, whitened.end(last), blocks)[1]

    def row(C: Array, at: tuple[Gaussian, Gaussian, smoother.Backward, Observation, Array]) -> tuple[Array, Array]:
        belief, law, step, obs, k = at
        h = stack(_row(kernel, slots_of(obs)[0], obs), belief.mean[0])
        C, told = whitened.told_of(C, belief, law, h[None], k)
        return jnp.einsum("ijsn,jkysn->ikysn", step.G, C), told[0, :, 0, 0, 0]

    nothing = jnp.zeros((len(last.mean), n, 1, 1, 1), last.mean.dtype)
    return jax.lax.scan(row, nothing, (beliefs, laws, steps, given, number), reverse=True)[1]


def _back(kernel: Kernel, given: Observation, blocks: int) -> tuple[Gaussian, Gaussian, smoother.Backward]:
    of_row = prepared(kernel, given)
    return whitened.back(of_row[0], of_row[1], stationary(kernel, given, given.y[0, 0]), of_row[2], blocks)
