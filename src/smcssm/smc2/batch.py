"""Some of many series, as a population of their own: what a move of a few among thousands works on.

Batches have sizes from a short list of powers of two, so that programs are compiled for few of them; what is too much
is the first series once more, for which nothing is due.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

SIZES = (8, 32, 128, 512)  # beyond the last one particles of a batch do not fit into a cache


class Batch(NamedTuple):
    """Series by their place among all, and which of them are due: the others are there for the size."""

    series: Int[np.ndarray, " b"]
    due: Bool[np.ndarray, " b"]

    def back(self, n_series: int) -> Int[np.ndarray, " b"]:
        """Where their results go; those that were not due go nowhere."""
        return np.where(self.due, self.series, n_series)

    def among(self, earlier: Batch) -> Int[np.ndarray, " b"]:
        """Where these series are in an earlier batch that holds them all."""
        order = np.argsort(earlier.series, kind="stable")
        return order[np.searchsorted(earlier.series, self.series, sorter=order)]

    def spread(self, told: Array | np.ndarray, n_series: int) -> np.ndarray:
        """What is told of each, for all series; 0 of the others."""
        out = np.zeros(n_series, told.dtype)
        out[self.series[self.due]] = np.asarray(told)[self.due]
        return out

    def part(self, population: Any, history: Any, since: Int[np.ndarray, " s"]) -> tuple[Any, Any, Any]:
        """Population, history and lengths of these series alone."""
        if len(self.due) == len(since):
            return population, history, since
        return take(population, self.series), history.of(self.series), since[self.series]

    def whole(self, population: Any, part: Any, *told: Array | np.ndarray) -> tuple[Any, ...]:
        """The population with these series as they are in ``part``; and what is told of each, for all series."""
        n_series = len(population.t)
        if len(self.due) == n_series:
            return part, *told
        return put(population, self.back(n_series), part), *(self.spread(a, n_series) for a in told)


def batches(
    due: Bool[np.ndarray, " s"], lengths: Int[np.ndarray, " s"], turns: Sequence[int]
) -> Iterator[Batch]:
    """The series that are due, those together whose histories have to be treated alike, by the length of these.

    ``turns`` are the lengths after which a schedule works differently.
    """
    kind = np.searchsorted(np.asarray(turns, np.int64), lengths)
    for k in np.unique(kind[due]):
        left = np.flatnonzero(due & (kind == k))
        left = left[np.argsort(lengths[left], kind="stable")]
        while len(left):
            size = size_for(len(left), len(due))
            yield batch(left[:size], len(due))
            left = left[size:]


def size_for(count: int, n_series: int) -> int:
    """The size of the next batch: one that hold all, if half of it is used, or the next smaller one."""
    sizes = [size for size in SIZES if size < n_series] or [n_series]
    enough = next((size for size in sizes if size >= count), sizes[-1])
    smaller = [size for size in sizes if size < count]
    return enough if not smaller or 2 * count > enough else smaller[-1]


def some(due: Bool[np.ndarray, " s"], sizes: Sequence[int] = SIZES) -> Batch:
    """The series that are due in the smallest batch that holds them; in one of all, these as they are."""
    few = batch(np.flatnonzero(due), len(due), sizes)
    return Batch(np.arange(len(due)), due) if len(few.due) == len(due) else few


def batch(series: Int[np.ndarray, " d"], n_series: int, sizes: Sequence[int] = SIZES) -> Batch:
    """These series in the smallest batch that holds them, or in one of all."""
    size = next((size for size in sizes if len(series) <= size < n_series), n_series)
    padding = np.full(size - len(series), series[0])
    return Batch(np.concatenate([series, padding]), np.arange(size) < len(series))


@jax.jit
def take(tree: PyTree[Array], series: Int[Array, " b"]) -> PyTree[Array]:
    """Some series of a population; the series axis of a leaf is its only or last but one, as for ``select``."""
    return jax.tree.map(lambda a: jnp.take(a, series, axis=max(a.ndim - 2, 0)), tree)


@partial(jax.jit, static_argnums=2)
def take_first(tree: PyTree[Array], places: Int[Array, " b"], each: int) -> PyTree[Array]:
    """Some series of leaves whose first axis counts series, ``each`` entries of every one."""
    return jax.tree.map(lambda a: a.reshape(-1, each, *a.shape[1:])[places].reshape(-1, *a.shape[1:]), tree)


@jax.jit
def put(tree: PyTree[Array], series: Int[Array, " b"], part: PyTree[Array]) -> PyTree[Array]:
    """The same with these series replaced; numbers past the last series go nowhere."""

    def one(a: Array, b: Array) -> Array:
        place = a.at[series] if a.ndim == 1 else a.at[..., series, :]
        return place.set(b, mode="drop")

    return jax.tree.map(one, tree, part)


def behind(tree: PyTree[Array], others: PyTree[Array]) -> PyTree[Array]:
    """The same with further series behind its own."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=max(a.ndim - 2, 0)), tree, others)
