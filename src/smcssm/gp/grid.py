"""From times, values and noises in any order to rows of a filter: sorted, differenced on the host, padded.

Times are subtracted in float64 whatever the precision of what follows: a Julian date in float32 is off by hours. The
number of rows is rounded up, by a sixteenth at most, so that a few more data need no new program; rows that are added
say nothing and take no time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from smcssm.core import Observation
from smcssm.errors import InputError
from smcssm.gp.events import Events
from smcssm.kalman import parallel


def traced(*trees: PyTree) -> bool:
    """Whether any of this belongs to a program that is being compiled or differentiated."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def precision(*trees: PyTree) -> AbstractContextManager:
    """float64, but inside a program of the user's, whose precision is that of JAX there."""
    return nullcontext() if traced(*trees) else jax.enable_x64(True)


def host_times(times: Any, what: str = "times") -> np.ndarray:
    """Finite times, float64."""
    if traced(times):
        raise InputError(
            f"{what}: expected known numbers, got a traced array; close over them instead of passing them in"
        )
    found = np.asarray(times, np.float64)
    if found.ndim != 1 or not len(found):
        raise InputError(f"{what}: expected a sequence of at least one time, got shape {found.shape}")
    if not np.isfinite(found).all():
        raise InputError(f"{what}: expected finite times, got {int((~np.isfinite(found)).sum())} that are not")
    return found


def per_time(value: Any, n: int, what: str) -> Any:
    """A number for all times, or one for each."""
    array = jnp.asarray(value) if traced(value) else np.asarray(value, np.float64)
    if array.shape not in ((), (n,)):
        raise InputError(f"{what}: expected a number or {n} of them, one for each time, got shape {array.shape}")
    return jnp.broadcast_to(array, (n,)) if traced(value) else np.broadcast_to(array, (n,))


def mean_at(mean: Any, times: np.ndarray) -> Any:
    """A number, numbers, or a function of an array of times, at times."""
    return per_time(mean(times) if callable(mean) else mean, len(times), "mean")


def out(value: Array) -> Any:
    """A NumPy array of what is known: outside of ``enable_x64`` it would lose digits."""
    if traced(value):
        return value
    return float(value) if jnp.ndim(value) == 0 else np.asarray(value)


def noise(noise_sd: Any, n: int) -> Any:
    """Standard deviations."""
    sd = per_time(noise_sd, n, "noise_sd")
    if not traced(sd) and not (sd >= 0).all():
        raise InputError("noise_sd: expected standard deviations, which are never negative nor NaN")
    return sd


def labels(outputs: Any, n: int, n_outputs: int) -> np.ndarray:
    """Which output each observation is of."""
    if outputs is None:
        if n_outputs > 1:
            raise InputError(f"the kernel has {n_outputs} outputs: outputs= must say which one each observation is of")
        return np.zeros(n)
    found = np.broadcast_to(np.asarray(outputs, np.float64), (n,))
    if not np.isin(found, np.arange(n_outputs)).all():
        raise InputError(
            f"outputs: expected numbers of outputs, 0 to {n_outputs - 1}, got {sorted(set(found.tolist()))}"
        )
    return found


def rows(when: Events, y: Any, noise_sd: Any, outputs: Any, blocks: int) -> Observation:
    """Rows ``[t, ..., 1, 1]`` in the order of time; NaN is missing.

    ``inputs`` are the output that is observed and, where there are exposures, ``plain`` and the ``slots`` of events.
    """
    n, dtype = len(when.times), jnp.result_type(float)
    extra, given = rounded(n, blocks) - n, len(when.place)
    source = np.full(n + extra, given)  # which datum each row is; the one beyond the last is none
    source[when.place] = np.arange(given)
    ordered = (when.place == np.arange(given)).all()

    def column(value: Any, nothing: float = 0.0) -> Array:
        array = jnp.pad(jnp.asarray(value, dtype), (0, len(source) - given if ordered else 1), constant_values=nothing)
        return (array if ordered else array[source])[:, None, None, None]

    value = column(y, jnp.nan)
    seen = ~jnp.isnan(value) & (jnp.arange(n + extra) < n)[:, None, None, None]
    dt = jnp.asarray(np.pad(np.diff(when.times, prepend=when.times[0]), (0, extra)), dtype)[:, None, None]
    inputs = column(outputs)
    if when.slots.shape[1]:
        averages = np.pad(np.column_stack([when.plain, when.slots]), ((0, extra), (0, 0)))
        inputs = jnp.concatenate([inputs, jnp.asarray(averages, dtype)[..., None, None]], axis=1)
    index = jnp.arange(n + extra)[:, None, None]
    return Observation(jnp.where(seen, value, 0), seen, dt, index, inputs=inputs, noise_sd=column(noise_sd))


def rounded(n: int, blocks: int) -> int:
    """The number of rows that are filtered: a multiple of ``blocks``, and not much more than n."""
    step = max(1 << max(3, n.bit_length() - 5), blocks)
    return -(-n // step) * step


def blocks_for(solver: str, n: int) -> int:
    """How many blocks side by side; 1: row by row."""
    if solver not in ("auto", "sequential", "parallel"):
        raise InputError(f'solver={solver!r}: expected "auto", "sequential" or "parallel"')
    many = solver == "parallel" or (solver == "auto" and jax.default_backend() != "cpu")
    return parallel.blocks_for(n) if many else 1
