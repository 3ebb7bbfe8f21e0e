"""Likelihood, posterior and draws of a Gaussian process, in a time that grows with the number of data and no faster.

    y_i = mean(t_i) + f(t_i) + noise_sd_i e_i,      f ~ GP(0, kernel)

by the square-root Kalman filter and smoother, row by row or in blocks side by side. Everything can be differentiated
and compiled in the kernel's hyperparameters, y, noise_sd and the mean; times are known numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcssm import kalman
from smcssm.core import Observation, System
from smcssm.errors import InputError
from smcssm.gaussian import Gaussian
from smcssm.gp import grid, state
from smcssm.gp.kernel import Kernel
from smcssm.kalman import parallel, smoother
from smcssm.linalg import matvec, rows, stack

Mean = float | Callable[[np.ndarray], Any] | Any


def log_probability(
    kernel: Kernel,
    times: Any,
    y: Any,
    noise_sd: Any = 0.0,
    *,
    mean: Mean = 0.0,
    outputs: Any = None,
    solver: str = "auto",
) -> Any:
    """log p(y) of the values that are not missing.

    Inside ``jax.jit`` or ``jax.grad`` the precision is that of JAX there (``with jax.enable_x64(True):``); otherwise it
    is float64. Where a traced hyperparameter is one that the kernel cannot have, it is -inf.

    Args:
        kernel: with numbers, or traced scalars, for its hyperparameters.
        times: in any order; some may be equal.
        y: one value for each time; NaN is missing.
        noise_sd: standard deviation of the noise, one for all or one for each.
        mean: a number, or a function of an array of times.
        outputs: for kernels with several outputs, which one each value is of.
        solver: "sequential", "parallel" (blocks side by side), or "auto": parallel but on a CPU.
    """
    with grid.precision(kernel, y, noise_sd, mean):
        _, given, _ = _given(kernel, times, y, noise_sd, mean, outputs, solver)
        total = _log_probability(*given)
        return total if grid.traced(total) else float(total)


def condition(
    kernel: Kernel,
    times: Any,
    y: Any,
    noise_sd: Any = 0.0,
    *,
    mean: Mean = 0.0,
    outputs: Any = None,
    solver: str = "auto",
) -> Conditioned:
    """The process given the data; the arguments are those of ``log_probability``."""
    with grid.precision(kernel, y, noise_sd, mean):
        order, given, t = _given(kernel, times, y, noise_sd, mean, outputs, solver)
        arrays, rows_, blocks = given
        total, beliefs, laws = _condition(arrays, rows_, blocks)
        return Conditioned(arrays, rows_, beliefs, laws, t, order, total, mean, blocks)


def sample(key: Array, kernel: Kernel, times: Any, n: int = 1, *, mean: Mean = 0.0, outputs: Any = None) -> Any:
    """n draws of the process at ``times``, without noise: ``[n, times]``."""
    with grid.precision(kernel, mean):
        t = grid.host_times(times)
        order, blank = grid.rows(t, np.zeros(len(t)), 0.0 * t, grid.labels(outputs, len(t), kernel.n_outputs), 1)
        draws = _sample(_arrays(kernel), blank, key, n)[: len(t)]
        return _out(_at(mean, t)[None] + draws[np.argsort(order)].T)


class Prediction(NamedTuple):
    """Mean and variance of the process at some times."""

    mean: Any
    variance: Any

    @property
    def sd(self) -> Any:
        """Standard deviations."""
        return self.variance**0.5


class Conditioned(eqx.Module):
    """A Gaussian process given data, to be asked at any times, as often as wanted, without filtering again.

    ``beliefs`` are filtered; ``laws`` are of the state minus the filtered mean, given everything.
    """

    kernel: Kernel
    rows: Observation
    beliefs: Gaussian
    laws: Gaussian
    times: np.ndarray
    order: np.ndarray
    total: Float[Array, ""]
    mean_function: Any
    blocks: int = eqx.field(static=True)

    @property
    def log_probability(self) -> Any:
        """log p(y)."""
        return _out(self.total)

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
            label = self._wanted(outputs, len(t))
            mean, variance = _predict(self.kernel, self.rows, self.beliefs, self.laws, self._between(t), label, part)
            offset = _at(self.mean_function, t) if part is None else 0.0
            return Prediction(_out(offset + mean), _out(variance))

    def sample(self, key: Array, at: Any, n: int = 1, *, outputs: Any = None) -> Any:
        """n joint draws of the process at ``at`` given the data: ``[n, at]``. Goes through data and times once."""
        with grid.precision(self.total):
            t = grid.host_times(at, "at")
            seen, label = len(self.times), self._wanted(outputs, len(t))
            back = np.argsort(self.order)
            y, mask, sd, own = (leaf[:seen, 0, 0, 0][back] for leaf in (self.rows.y, self.rows.mask, *self._given()))
            values = jnp.concatenate([jnp.where(mask, y, jnp.nan), jnp.full(len(t), jnp.nan, y.dtype)])
            noise = jnp.concatenate([sd, jnp.ones(len(t), y.dtype)])
            both = np.concatenate([self.times, t])
            order, all_rows = grid.rows(both, values, noise, jnp.concatenate([own, label]), self.blocks)
            draws = _sample_given(self.kernel, all_rows, self.blocks, key, n)
            return _out(_at(self.mean_function, t)[None] + draws[: len(both)][np.argsort(order)][seen:].T)

    @property
    def _labels(self) -> Any:
        labels = self._given()[1][: len(self.times), 0, 0, 0]
        return np.asarray(labels)[np.argsort(self.order)] if self.kernel.n_outputs > 1 else None

    def _given(self) -> tuple[Array, Array]:
        assert self.rows.noise_sd is not None and self.rows.inputs is not None
        return self.rows.noise_sd, self.rows.inputs

    def _wanted(self, outputs: Any, n: int) -> Array:
        wanted = 0 if outputs is None and self.kernel.n_outputs == 1 else outputs
        return jnp.asarray(grid.labels(wanted, n, self.kernel.n_outputs), self.total.dtype)

    def _between(self, at: np.ndarray) -> tuple[Array, Array, Array]:
        """The number of the last datum not after each time, the time since it and until the next; 0 without one."""
        ordered = self.times[self.order]
        last = np.searchsorted(ordered, at, side="right") - 1
        since = np.where(last >= 0, at - ordered[np.maximum(last, 0)], 0)
        until = np.where(last + 1 < len(ordered), ordered[np.minimum(last + 1, len(ordered) - 1)] - at, 0)
        dtype = self.total.dtype
        return jnp.asarray(last), jnp.asarray(since, dtype), jnp.asarray(until, dtype)


def _given(kernel: Kernel, times: Any, y: Any, noise_sd: Any, mean: Mean, outputs: Any, solver: str) -> Any:
    """The order of the times; kernel, rows and blocks; the times."""
    t = grid.host_times(times)
    blocks, labels = grid.blocks_for(solver, len(t)), grid.labels(outputs, len(t), kernel.n_outputs)
    values, noise = grid.per_time(y, len(t), "y"), grid.noise(noise_sd, len(t))
    if np.ndim(y) == 0:
        raise InputError("y: expected one value for each time, got a single number")
    order, rows = grid.rows(t, values - _at(mean, t), noise, labels, blocks)
    return order, (_arrays(kernel), rows, blocks), t


def _arrays(kernel: Kernel) -> Kernel:
    """Hyperparameters ``[s, n] = [1, 1]``."""

    def one(leaf: Any) -> Array:
        if isinstance(leaf, str) or not jnp.shape(leaf) == ():
            raise InputError(f"a kernel's hyperparameter is {leaf!r}, where a number is needed")
        return jnp.asarray(leaf, jnp.result_type(float)).reshape(1, 1)

    return jax.tree.map(one, kernel)


def _at(mean: Mean, times: np.ndarray) -> Any:
    return grid.per_time(mean(times) if callable(mean) else mean, len(times), "mean")


def _out(value: Array) -> Any:
    """A NumPy array of what is known: outside of ``enable_x64`` it would lose digits."""
    if grid.traced(value):
        return value
    return float(value) if jnp.ndim(value) == 0 else np.asarray(value)


def _system(kernel: Kernel, obs: Observation) -> System:
    F, chol_Q = state.transition(kernel, obs.dt)
    assert obs.noise_sd is not None and obs.inputs is not None
    h = state.row(kernel, obs.inputs[0] if kernel.n_outputs > 1 else None)
    return System(F, [0.0] * len(F), [e or [0.0] for e in chol_Q], [h], [0.0], [[obs.noise_sd[0]]])


def _stationary(kernel: Kernel, like: Array) -> Gaussian:
    L = state.stationary_root(kernel)
    return Gaussian(stack([0.0] * len(L), like), stack(L, like))


def _filtered(kernel: Kernel, given: Observation, blocks: int, keep: kalman.sequential.Keep) -> Any:
    start = _stationary(kernel, given.y[0, 0])
    return start, *parallel.filter(_system, kernel, start, given, keep, blocks)


@functools.partial(jax.jit, static_argnames="blocks")
def _log_probability(kernel: Kernel, given: Observation, blocks: int) -> Array:
    *_, log_lik = _filtered(kernel, given, blocks, lambda _, innovation: innovation.log_lik)
    total = jnp.sum(log_lik)
    return jnp.where(state.admissible(kernel) | jnp.isnan(total), total, -jnp.inf)


@functools.partial(jax.jit, static_argnames="blocks")
def _condition(kernel: Kernel, given: Observation, blocks: int) -> tuple[Array, Gaussian, Gaussian]:
    def keep(belief: Gaussian, innovation: kalman.Innovation) -> tuple[Gaussian, Array]:
        return belief, innovation.log_lik

    start, last, (beliefs, log_lik) = _filtered(kernel, given, blocks, keep)
    steps = smoother.backward(_system, kernel, start, given, beliefs, blocks)
    _, laws = smoother.smooth(steps, Gaussian(jnp.zeros_like(last.mean), last.chol), blocks)
    return jnp.sum(log_lik), beliefs, laws


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
    start = _stationary(kernel, jnp.zeros_like(since)[:, None])
    before = jax.tree.map(lambda a, b: jnp.where(first, a, b), start, take(beliefs, last))
    now = _system(kernel, _with_dt(take(given, following), since))
    here = kalman.predict(before, now.F, now.c, now.chol_Q, since[:, None])
    after = _with_dt(take(given, following), until)
    law = smoother.apply(smoother.reverse(here, _system(kernel, after), after), take(laws, following))
    law = jax.tree.map(lambda a, b: jnp.where(until[:, None] > 0, a, b), law, Gaussian(0 * here.mean, here.chol))
    like = here.mean[0]
    h = stack(state.row(kernel, label[:, None] if kernel.n_outputs > 1 else None, part), like)
    mean = jnp.sum(h * (here.mean + law.mean), axis=0)
    return mean[:, 0], jnp.sum(jnp.sum(h[:, None] * law.chol, axis=0) ** 2, axis=0)[:, 0]


def _with_dt(obs: Observation, dt: Array) -> Observation:
    return eqx.tree_at(lambda o: o.dt, obs, dt[:, None])


@functools.partial(jax.jit, static_argnames="n")
def _sample(kernel: Kernel, given: Observation, key: Array, n: int) -> Array:
    """Forward in time, draws on the particle axis: ``[t, n]``."""
    assert given.noise_sd is not None
    like = jnp.zeros((1, n), given.y.dtype)
    L = state.stationary_root(kernel)
    noise = jax.random.normal(key, (len(given.dt) + 1, len(L), 1, n), given.y.dtype)

    def step(x: Array, at: tuple[Observation, Array]) -> tuple[Array, Array]:
        now, e = _system(kernel, at[0]), list(at[1])
        moved = stack(matvec(rows(now.F), list(x)), like) + stack(
            [_dot(row, e[: len(row)]) for row in rows(now.chol_Q)], like
        )
        x = jnp.where(at[0].dt == 0, x, moved)
        return x, stack(matvec(rows(now.H), list(x)), like)[0, 0]

    first = stack(matvec(rows(L), list(noise[0])), like)
    return jax.lax.scan(step, first, (given, noise[1:]))[1]


def _dot(row: list[Any], e: list[Array]) -> Any:
    return matvec([row], e)[0]


@functools.partial(jax.jit, static_argnames=("blocks", "n"))
def _sample_given(kernel: Kernel, given: Observation, blocks: int, key: Array, n: int) -> Array:
    """Backwards in time: ``[t, n]``."""
    start, last, beliefs = _filtered(kernel, given, blocks, lambda belief, _: belief)
    steps = smoother.backward(_system, kernel, start, given, beliefs, blocks)
    noise = jax.random.normal(key, (n, len(given.dt) + 1, *last.mean.shape), given.y.dtype)

    def one(e: Array) -> Array:
        return smoother.sample(steps, jnp.sum(last.chol * e[-1][None], axis=1), e[:-1], blocks)[1]

    states = beliefs.mean[None] + jax.vmap(one)(noise)

    def seen(x: Array, obs: Observation) -> Array:
        h = state.row(kernel, obs.inputs[0] if kernel.n_outputs > 1 and obs.inputs is not None else None)
        return stack(matvec([h], list(x)), x[0])[0, 0, 0]

    return jax.vmap(lambda x: jax.vmap(seen)(x, given), out_axes=1)(states)
