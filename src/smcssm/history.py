"""The journal: every observation so far, on the host, read back in chunks of one fixed size.

Append-only: rows are never altered. Because a chunk is always padded to ``CHUNK`` rows, programs that replay history
are compiled once, however long the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from smcssm.core import Observation

CHUNK = 256


class Chunk(NamedTuple):
    """``length`` rows of history, padded to ``CHUNK``; ``pooled`` marks rows whose likelihood is partly pending."""

    rows: Observation
    pooled: Bool[np.ndarray, "t s"]
    length: int


class History:
    """An in-memory journal: growing columns, one per leaf of the observation record."""

    def __init__(self) -> None:
        self._columns: list[np.ndarray] = []
        self._structure: Any = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, block: Observation, count: int) -> None:
        """Add the first ``length`` rows of a block."""
        leaves, structure = jax.tree.flatten(block)
        if self._structure is None:
            self._columns = [np.empty((CHUNK, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
            self._structure = structure
        stop = self._length + count
        for i, leaf in enumerate(leaves):
            while len(self._columns[i]) < stop:
                self._columns[i] = np.concatenate([self._columns[i], np.empty_like(self._columns[i])])
            self._columns[i][self._length : stop] = leaf[:count]
        self._length = stop

    def truncate(self, length: int) -> None:
        """Forget rows from ``length`` on: the roll-back of a call that failed."""
        self._length = min(length, self._length)

    def copy(self) -> History:
        """An independent journal with the same rows."""
        new = History()
        new._columns, new._structure, new._length = [c.copy() for c in self._columns], self._structure, self._length
        return new

    def rows(self, start: int = 0, stop: int | None = None) -> Observation:
        """A view of rows start to stop."""
        stop = self._length if stop is None else stop
        if self._structure is None:
            raise IndexError("the history is empty")
        return jax.tree.unflatten(self._structure, [column[start:stop] for column in self._columns])

    def chunks(self, pool: Int[Any, "k s"]) -> Iterator[Chunk]:
        """All of history, oldest first. ``pool`` lists, per series, the row numbers that are pooled (-1: none)."""
        for start in range(0, self._length, CHUNK):
            stop = min(start + CHUNK, self._length)
            numbers = np.arange(start, start + CHUNK)
            pooled = (numbers[:, None, None] == np.asarray(pool)[None]).any(axis=1)
            yield Chunk(pad(self.rows(start, stop), CHUNK), pooled, stop - start)


def pad(block: Observation, length: int) -> Observation:
    """A block with zero rows appended up to ``length``."""

    def extend(leaf: np.ndarray) -> np.ndarray:
        if len(leaf) == length:
            return leaf
        out = np.zeros((length, *leaf.shape[1:]), leaf.dtype)
        out[: len(leaf)] = leaf
        return out

    return jax.tree.map(extend, block)
