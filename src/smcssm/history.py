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
    """An in-memory journal: segments of columns, one column per leaf of the observation record.

    A further column marks, per series, the rows that came as a surprise. Those that are still partly pending are the
    marked ones from some row on; which row that is, a schedule knows.
    """

    def __init__(self) -> None:
        self._segments: list[list[np.ndarray]] = []
        self._structure: Any = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def first(self) -> Observation:
        """The first row."""
        return jax.tree.map(lambda leaf: leaf[0], self.rows(0, 1))

    def append(self, block: Observation, count: int, surprising: Bool[np.ndarray, "t s"] | None = None) -> None:
        """Add the first ``count`` rows of a block."""
        marks = np.zeros(block.dt.shape, bool) if surprising is None else surprising
        leaves, structure = jax.tree.flatten((block, marks))
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
        return self._read(start, stop)[0]

    def _read(self, start: int, stop: int | None) -> tuple[Observation, Bool[np.ndarray, "t s"]]:
        """Rows start to stop, and their marks."""
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

    def chunks(self, since: Int[np.ndarray, " s"]) -> Iterator[Chunk]:
        """All of history, oldest first. Of each series, surprises from row ``since`` on are pooled."""
        for start in range(0, self._length, CHUNK):
            rows, marks = self._read(start, start + CHUNK)
            pooled = marks & (np.arange(start, start + CHUNK)[:, None] >= since)
            yield Chunk(rows, pooled, min(CHUNK, self._length - start))

    def take(
        self, numbers: Int[np.ndarray, "r s"], since: Int[np.ndarray, " s"], block: Observation
    ) -> tuple[Observation, Bool[np.ndarray, "r s"]]:
        """Rows by number, each series its own, and whether they are pooled; numbers past the end count into ``block``.

        The rows of the block are not marked yet.
        """
        inside = numbers < self._length
        out = [np.zeros((len(numbers), *leaf.shape[1:]), leaf.dtype) for leaf in jax.tree.leaves(block)]
        marks = np.zeros(numbers.shape, bool)
        sources = [((inside & (numbers // SEGMENT == i)), s, i * SEGMENT) for i, s in enumerate(self._segments)]
        sources.append((~inside, jax.tree.leaves((block, np.zeros(block.dt.shape, bool))), self._length))
        for here, columns, start in sources:
            row, series = np.nonzero(here)
            if len(row):
                place = np.minimum(numbers[row, series] - start, len(columns[0]) - 1)
                for target, column in zip([*out, marks], columns, strict=True):
                    target[row, ..., series] = column[place, ..., series]
        return jax.tree.unflatten(jax.tree.structure(block), out), marks & (numbers >= since)


def pad(block: Observation, length: int) -> Observation:
    """A block with zero rows appended up to ``length``."""

    def extend(leaf: np.ndarray) -> np.ndarray:
        if len(leaf) == length:
            return leaf
        out = np.zeros((length, *leaf.shape[1:]), leaf.dtype)
        out[: len(leaf)] = leaf
        return out

    return jax.tree.map(extend, block)
