"""Some of many series, as a population of their own: what a move of a few among thousands works on.

Batches have sizes from a short list, so that programs are compiled for few of them; what is too much is the first
series once more, for which nothing is due.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

SMALLEST = 8


class Batch(NamedTuple):
    """Series by their place among all, and which of them are due: the others are there for the size."""

    series: Int[np.ndarray, " b"]
    due: Bool[np.ndarray, " b"]

    def back(self, n_series: int) -> Int[np.ndarray, " b"]:
        """Where their results go; those that were not due go nowhere."""
        return np.where(self.due, self.series, n_series)


def batches(
    due: Bool[np.ndarray, " s"], lengths: Int[np.ndarray, " s"], turns: Sequence[int]
) -> Iterator[Batch]:
    """The series that are due, together where their histories have to be treated alike.

    ``turns`` are the lengths after which a schedule works differently.
    """
    kind = np.searchsorted(np.asarray(turns, np.int64), lengths)
    for k in np.unique(kind[due]):
        yield batch(np.flatnonzero(due & (kind == k)), len(due))


def batch(series: Int[np.ndarray, " d"], n_series: int) -> Batch:
    """These series in a batch of a size of the list: a power of two, or all."""
    size = min(max(SMALLEST, 1 << (len(series) - 1).bit_length()), n_series)
    padding = np.full(size - len(series), series[0])
    return Batch(np.concatenate([series, padding]), np.arange(size) < len(series))


@jax.jit
def take(tree: PyTree[Array], series: Int[Array, " b"]) -> PyTree[Array]:
    """Some series of a population; the series axis of a leaf is its only or last but one, as for ``select``."""
    return jax.tree.map(lambda a: jnp.take(a, series, axis=max(a.ndim - 2, 0)), tree)


@jax.jit
def put(tree: PyTree[Array], series: Int[Array, " b"], part: PyTree[Array]) -> PyTree[Array]:
    """The same with these series replaced; numbers past the last series go nowhere."""

    def one(a: Array, b: Array) -> Array:
        place = a.at[series] if a.ndim == 1 else a.at[..., series, :]
        return place.set(b, mode="drop")

    return jax.tree.map(one, tree, part)
