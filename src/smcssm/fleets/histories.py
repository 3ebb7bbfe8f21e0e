"""The journal of every series of a fleet, each as long as it is: row j of a series is its j-th own observation.

For moves, histories of several series are laid side by side so that they *end* together; rows before the first one of
a shorter history are not reported, and change nothing. To a schedule this is an ordinary history.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from smcssm.core import Observation
from smcssm.history import MARKS, Columns, ReadOnly

ROOM = 64  # rows, to begin with
KEPT = 4096  # cells of a column that a view reads once and keeps, while a move goes through them several times


class Histories:
    """Columns ``[capacity, ..., s]``. Rows past the length of a series, which its owner knows, do not count.

    So a call that fails leaves nothing that counts, and rows that count are never altered.
    """

    def __init__(self, columns: Columns | None = None) -> None:
        self._columns: Columns = {} if columns is None else columns

    def append(
        self,
        row: Observation,
        taken: Bool[np.ndarray, " s"],
        lengths: Int[np.ndarray, " s"],
        surprising: Bool[np.ndarray, " s"],
    ) -> None:
        """Put one row after the first ``lengths`` of the series that take it."""
        columns = _columns(row) | {MARKS: surprising}
        if not taken.any():
            return
        if not lengths.any():
            self._columns = {}  # what a first call that failed has left may be of other columns
        self._reserve(int(lengths[taken].max()) + 1, columns)
        together = taken.all() and (lengths == lengths[0]).all()
        series = np.flatnonzero(taken)
        for name, column in self._columns.items():
            if together:
                column[lengths[0]] = columns[name]
            else:
                column[lengths[series], ..., series] = np.moveaxis(columns[name][..., series], -1, 0)

    def of(self, series: Int[np.ndarray, " b"], lengths: Int[np.ndarray, " b"]) -> Aligned:
        """The histories of some series, of these lengths, side by side."""
        return Aligned(self._columns, series, lengths)

    def rows(
        self, numbers: Int[np.ndarray, "r b"], series: Int[np.ndarray, " b"]
    ) -> tuple[Observation, Bool[np.ndarray, "r b"]]:
        """Rows of some series by number, each its own, and which of them came as a surprise."""
        columns = {name: _gathered(column, numbers, series) for name, column in self._columns.items()}
        marks = columns.pop(MARKS)
        return Observation(**columns), marks

    def own(self, series: int, length: int) -> tuple[Observation, Bool[np.ndarray, "t 1"]]:
        """The rows of one series, as an engine of its own has them, and which of them came as a surprise."""
        columns = {name: column[:length, ..., series : series + 1].copy() for name, column in self._columns.items()}
        marks = columns.pop(MARKS)
        return Observation(**columns), marks

    def chosen(self, series: Int[np.ndarray, " b"]) -> Histories:
        """An independent journal of these series; those past the last one have no rows yet."""
        out = {}
        for name, column in self._columns.items():
            out[name] = np.zeros((*column.shape[:-1], len(series)), column.dtype)
            known = series < column.shape[-1]
            out[name][..., known] = column[..., series[known]]
        return Histories(out)

    def _reserve(self, rows: int, columns: Columns) -> None:
        """Room for so many rows; doubled, so that appending costs O(1) on average."""
        if self._columns and tuple(columns) != tuple(self._columns):
            raise ValueError("the optional leaves of an observation record are there for all of a journal, or never")
        have = len(self._columns[MARKS]) if self._columns else 0
        if rows <= have:
            return
        room = max(2 * have, rows, ROOM)
        new = {name: np.zeros((room, *value.shape), value.dtype) for name, value in columns.items()}
        for name, column in self._columns.items():
            new[name][:have] = column
        self._columns = new  # whole, whenever an interrupt comes


class Aligned(ReadOnly):
    """Histories of some series, ending together."""

    def __init__(self, columns: Columns, series: Int[np.ndarray, " b"], lengths: Int[np.ndarray, " b"]) -> None:
        self._columns, self._series = columns, series
        self._length = int(lengths.max(initial=0))
        self._before = self._length - lengths
        self._kept: dict[tuple[int, int], Columns] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return (*(name for name in self._columns if name != MARKS), "reported", MARKS)

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Columns:
        """Rows start to stop."""
        kept = self._kept.get((start, stop))
        if kept is None:
            kept = self._read(start, stop)
            if self._length * len(self._series) <= KEPT:
                self._kept[start, stop] = kept
        return dict(kept)

    def _read(self, start: int, stop: int) -> Columns:
        rows = np.arange(start, min(stop, self._length))[:, None] - self._before
        reported, rows = rows >= 0, np.maximum(rows, 0)
        together, out = not self._before.any(), {}
        for name, column in self._columns.items():
            if together:
                part = column[start : start + len(rows)][..., self._series]
            else:
                part = _gathered(column, rows, self._series)
            out[name] = _padded(part, stop - start)
        marks = out.pop(MARKS)
        return out | {"reported": _padded(reported, stop - start), MARKS: marks}


def _columns(row: Observation) -> Columns:
    """A row by column; who reported is what a history is made of, not what it holds."""
    return {name: leaf for name, leaf in vars(replace(row, reported=None)).items() if leaf is not None}


def _gathered(column: np.ndarray, numbers: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Cells ``[r, ..., b]`` of a column, of rows ``[r, b]`` and series ``[b]``."""
    return np.moveaxis(column[numbers, ..., series], 1, -1)


def _padded(part: np.ndarray, length: int) -> np.ndarray:
    """With rows that hold nothing up to ``length``."""
    if len(part) == length:
        return part
    out = np.zeros((length, *part.shape[1:]), part.dtype)
    out[: len(part)] = part
    return out
