"""Likelihood, posterior and draws of a Gaussian process, in a time that grows with the number of data and no faster.

    y_i = mean(t_i) + f(t_i) + noise_sd_i e_i,      f ~ GP(0, kernel)

or with the average of f over an exposure for f(t_i), by the square-root Kalman filter and smoother, row by row or in
blocks side by side. Everything can be differentiated and compiled in the kernel's hyperparameters, y, noise_sd and
the mean; times and exposures are known numbers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from smcssm import kalman
from smcssm.core import Observation
from smcssm.errors import InputError
from smcssm.gaussian import Gaussian
from smcssm.gp import differences, grid, state
from smcssm.gp.conditioned import Conditioned, Data
from smcssm.gp.events import Events, events
from smcssm.gp.events import lengths as exposures
from smcssm.gp.filtering import filtered, prepared, stationary
from smcssm.gp.kernel import Kernel
from smcssm.kalman import looped, smoother
from smcssm.linalg import matvec, rows, stack

MANY = 8  # states, from which on square roots take longer to compile than they are worth

Mean = float | Callable[[np.ndarray], Any] | Any


def log_probability(  # noqa: PLR0913
    kernel: Kernel,
    times: Any,
    y: Any,
    noise_sd: Any = 0.0,
    *,
    mean: Mean = 0.0,
    outputs: Any = None,
    exposure: Any = None,
    stamp: str = "end",
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
        exposure: length of time that each value is an average over, one for all or one for each; 0 is no average. They
            may overlap.
        stamp: what times are of exposures: "end", as for an engine, "middle" or "start".
        solver: "sequential", "parallel" (blocks side by side), or "auto": parallel but on a CPU.
    """
    with grid.precision(kernel, y, noise_sd, mean):
        given = _given(kernel, times, y, noise_sd, mean, outputs, exposure, stamp)
        blocks = grid.blocks_for(solver, len(given.events.times))
        total = _log_probability(_arrays(kernel), given.rows(blocks), blocks)
        return total if grid.traced(total) else float(total)


def condition(  # noqa: PLR0913
    kernel: Kernel,
    times: Any,
    y: Any,
    noise_sd: Any = 0.0,
    *,
    mean: Mean = 0.0,
    outputs: Any = None,
    exposure: Any = None,
    stamp: str = "end",
    solver: str = "auto",
) -> Conditioned:
    """The process given the data; the arguments are those of ``log_probability``."""
    with grid.precision(kernel, y, noise_sd, mean):
        given = _given(kernel, times, y, noise_sd, mean, outputs, exposure, stamp)
        blocks, arrays = grid.blocks_for(solver, len(given.events.times)), _arrays(kernel)
        rows_ = given.rows(blocks)
        total, beliefs, laws = _condition(arrays, rows_, blocks)
        return Conditioned(arrays, rows_, beliefs, laws, given.times, given.events, given.data, total, mean, blocks)


def sample(key: Array, kernel: Kernel, times: Any, n: int = 1, *, mean: Mean = 0.0, outputs: Any = None) -> Any:
    """n draws of the process at ``times``, without noise: ``[n, times]``."""
    with grid.precision(kernel, mean):
        t = grid.host_times(times)
        labels = grid.labels(outputs, len(t), kernel.n_outputs)
        when = events(t, np.zeros(len(t)), labels)
        draws = _sample(_arrays(kernel), grid.rows(when, 0.0 * t, 0.0 * t, labels, 1), key, n)
        return grid.out(grid.mean_at(mean, t)[None] + draws[when.place].T)


class _Given(NamedTuple):
    times: np.ndarray
    events: Events
    data: Data

    def rows(self, blocks: int) -> Observation:
        """In the order of time."""
        return grid.rows(self.events, self.data.y, self.data.noise_sd, self.data.labels, blocks)


def _given(
    kernel: Kernel, times: Any, y: Any, noise_sd: Any, mean: Mean, outputs: Any, exposure: Any, stamp: str
) -> _Given:
    """The arguments, checked."""
    t = grid.host_times(times)
    labels = grid.labels(outputs, len(t), kernel.n_outputs)
    values, noise = grid.per_time(y, len(t), "y"), grid.noise(noise_sd, len(t))
    if np.ndim(y) == 0:
        raise InputError("y: expected one value for each time, got a single number")
    lengths, ends = exposures(exposure, stamp, t)
    data = Data(values - grid.mean_at(mean, t), noise, labels, ends, lengths)
    return _Given(t, events(ends, lengths, labels), data)


def _arrays(kernel: Kernel) -> Kernel:
    """Hyperparameters ``[s, n] = [1, 1]``."""

    def one(leaf: Any) -> Array:
        if isinstance(leaf, str) or not jnp.shape(leaf) == ():
            raise InputError(f"a kernel's hyperparameter is {leaf!r}, where a number is needed")
        return jnp.asarray(leaf, jnp.result_type(float)).reshape(1, 1)

    return jax.tree.map(one, kernel)


@functools.partial(jax.jit, static_argnames="blocks")
def _log_probability(kernel: Kernel, given: Observation, blocks: int) -> Array:
    assert given.inputs is not None

    def by_square_roots() -> Array:
        return jnp.sum(filtered(kernel, given, blocks, lambda _, innovation: innovation.log_lik)[-1])

    def in_loops() -> Array:
        of_row, start = prepared(kernel, given), stationary(kernel, given, given.y[0, 0])
        return jnp.sum(looped.log_likelihoods(of_row[0], of_row[1], start, of_row[2]))

    if blocks > 1 or given.inputs.shape[1] > 1 or given.y.dtype != jnp.float64:
        total = by_square_roots()
    else:
        quickly, sound = differences.log_likelihood(kernel, given)
        many = sum(len(block.row()) for block in kernel.blocks()) > MANY
        total = jax.lax.cond(sound, lambda: quickly, in_loops if many else by_square_roots)
    unknown = reduce(operator.or_, [jnp.any(jnp.isnan(leaf)) for leaf in jax.tree.leaves(kernel)], jnp.asarray(False))
    return jnp.where(state.admissible(kernel) | unknown, total, -jnp.inf)


@functools.partial(jax.jit, static_argnames="blocks")
def _condition(kernel: Kernel, given: Observation, blocks: int) -> tuple[Array, Gaussian, Gaussian]:
    def keep(belief: Gaussian, innovation: kalman.Innovation) -> tuple[Gaussian, Array]:
        return belief, innovation.log_lik

    (system, params, rows_), start, last, (beliefs, log_lik) = filtered(kernel, given, blocks, keep)
    steps = smoother.backward(system, params, start, rows_, beliefs, blocks)
    _, laws = smoother.smooth(steps, Gaussian(jnp.zeros_like(last.mean), last.chol), blocks)
    return jnp.sum(log_lik), beliefs, laws


@functools.partial(jax.jit, static_argnames="n")
def _sample(kernel: Kernel, given: Observation, key: Array, n: int) -> Array:
    """Forward in time, draws on the particle axis: ``[t, n]``."""
    assert given.noise_sd is not None
    like = jnp.zeros((1, n), given.y.dtype)
    system, params, rows_ = prepared(kernel, given)
    L = state.stationary_root(kernel)
    noise = jax.random.normal(key, (len(given.dt) + 1, len(L), 1, n), given.y.dtype)

    def step(x: Array, at: tuple[Observation, Array]) -> tuple[Array, Array]:
        now, e = system(params, at[0]), list(at[1])
        moved = stack(matvec(rows(now.F), list(x)), like) + stack(
            [_dot(row, e[: len(row)]) for row in rows(now.chol_Q)], like
        )
        x = jnp.where(at[0].dt == 0, x, moved)
        return x, stack(matvec(rows(now.H), list(x)), like)[0, 0]

    first = stack(matvec(rows(L), list(noise[0])), like)
    return jax.lax.scan(step, first, (rows_, noise[1:]))[1]


def _dot(row: list[Any], e: list[Array]) -> Any:
    return matvec([row], e)[0]
