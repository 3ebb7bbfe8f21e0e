"""The journal: every observation so far, on the host, read back in chunks of one fixed size.

Append-only: rows are never altered. Storage is a list of segments, so that appending never copies what is there; and
because a chunk always has ``CHUNK`` rows, programs that replay history are compiled once, however long the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from smcssm.core import Observation

CHUNK = 256
SEGMENT = 16 * CHUNK


class Chunk(NamedTuple):
    """``CHUNK`` rows of history, of which the first ``length`` count; ``pooled`` marks rows still partly pending."""

    rows: Observation
    pooled: Bool[np.ndarray, "t s"]
    length: int


class History:
    """An in-memory journal: segments of columns, one column per leaf of the observation record."""

    def __init__(self) -> None:
        self._segments: list[list[np.ndarray]] = []
        self._structure: Any = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, block: Observation, count: int) -> None:
        """Add the first ``count`` rows of a block."""
        leaves, structure = jax.tree.flatten(block)
        if self._structure is None:
            self._structure = structure
        if structure != self._structure:
            raise ValueError("the optional leaves of an observation record are there for all of a journal, or never")
        taken = 0
        while taken < count:
            segment, place = divmod(self._length, SEGMENT)
            if segment == len(self._segments):
                self._segments.append([np.zeros((SEGMENT, *leaf.shape[1:]), leaf.dtype) for leaf in leaves])
            size = min(count - taken, SEGMENT - place)
            for column, leaf in zip(self._segments[segment], leaves, strict=True):
                column[place : place + size] = leaf[taken : taken + size]
            taken, self._length = taken + size, self._length + size

    def truncate(self, length: int) -> None:
        """Forget rows from ``length`` on: those of a call that failed."""
        self._length = min(length, self._length)
        if self._length == 0:
            self._segments, self._structure = [], None

    def copy(self) -> History:
        """An independent journal with the same rows."""
        new = History()
        new._segments = [[column.copy() for column in segment] for segment in self._segments]
        new._structure, new._length = self._structure, self._length
        return new

    def rows(self, start: int = 0, stop: int | None = None) -> Observation:
        """Rows start to stop."""
        stop = self._length if stop is None else stop
        if self._structure is None:
            raise IndexError("the history is empty")
        first, last = start // SEGMENT, max(start, stop - 1) // SEGMENT
        pieces = [
            [column[max(0, start - i * SEGMENT) : stop - i * SEGMENT] for column in self._segments[i]]
            for i in range(first, last + 1)
        ]
        leaves = pieces[0] if len(pieces) == 1 else [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        return jax.tree.unflatten(self._structure, leaves)

    def chunks(self, pool: Int[Any, "s k"]) -> Iterator[Chunk]:
        """All of history, oldest first. ``pool`` lists, per series, the row numbers that are pooled (-1: none)."""
        for start in range(0, self._length, CHUNK):
            numbers = np.arange(start, start + CHUNK)
            pooled = (numbers[:, None, None] == np.asarray(pool)[None]).any(axis=-1)
            yield Chunk(self.rows(start, start + CHUNK), pooled, min(CHUNK, self._length - start))


def pad(block: Observation, length: int) -> Observation:
    """A block with zero rows appended up to ``length``."""

    def extend(leaf: np.ndarray) -> np.ndarray:
        if len(leaf) == length:
            return leaf
        out = np.zeros((length, *leaf.shape[1:]), leaf.dtype)
        out[: len(leaf)] = leaf
        return out

    return jax.tree.map(extend, block)
