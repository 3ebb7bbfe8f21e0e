"""The order in which rows of a journal are replayed: that of their times, whatever the order in which they arrived.

Rows are numbered as they arrived, positions count in the order of times. A row comes after those of its own time, so
that a stream in order is its own timeline, and a row that arrives late only shifts those behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Stamp = Any


def moments(stamps: np.ndarray) -> np.ndarray:
    """Stamps as they are kept, numbers or integers of nanoseconds, as numbers or datetime64[ns] in UTC."""
    return stamps.view("datetime64[ns]") if stamps.dtype.kind == "i" else stamps


class Timeline:
    """Numbers of all rows, sorted by time, and their times as they arrived; an interrupt anywhere leaves no wrong pair.

    ``unit`` is that of time in the stamps' own, None where every step forward is one; ``origin`` is the time of the
    initial law, None for that of the first row.
    """

    def __init__(self, unit: float | int | None = 1.0, origin: Stamp | None = None) -> None:
        self._unit, self._origin = unit, origin
        self._numbers, self._stamps, self._length = np.zeros(0, np.int64), np.zeros(0), 0

    def __len__(self) -> int:
        return self._length

    def copy(self) -> Timeline:
        """An independent one with the same rows."""
        new = Timeline(self._unit, self._origin)
        new._numbers, new._stamps, new._length = self._numbers.copy(), self._stamps.copy(), self._length
        return new

    def blank(self) -> Timeline:
        """One without rows."""
        return Timeline(self._unit, self._origin)

    def place(self, stamp: Stamp) -> int:
        """The position that a row of this time would have."""
        n = self._length
        return int(np.searchsorted(self._stamps[:n], stamp, side="right", sorter=self._numbers[:n]))

    def holds(self, stamp: Stamp) -> bool:
        """Whether there is a row of this time, or any time between two rows will do."""
        place = self.place(stamp)
        return self._unit is not None or bool(place > 0 and self._stamp(place - 1) == stamp)

    def precedes(self, stamp: Stamp) -> bool:
        """Whether a time is before that of the initial law."""
        first = self._origin if self._origin is not None else self._stamp(0) if self._length else stamp
        return bool(stamp < first)

    def told(self, stamp: Stamp) -> str:
        """How long before the initial law a time is."""
        first = self._origin if self._origin is not None else self._stamp(0)
        return f"{(first - stamp) / (self._unit or 1):g}" + (" units of time" if self._unit is not None else "")

    def extend(self, stamps: np.ndarray) -> None:
        """Rows as they arrive; a late one moves what is behind it."""
        self._reserve(len(stamps), stamps.dtype)
        start, stop = self._length, self._length + len(stamps)
        self._stamps[start:stop] = stamps
        if start == 0 or ((np.diff(stamps) >= 0).all() and not stamps[0] < self._stamp(start - 1)):
            self._numbers[start:stop] = start + np.argsort(stamps, kind="stable")
            self._length = stop
            return
        for number, stamp in enumerate(stamps, start):
            place = self.place(stamp)
            self._numbers[number], self._length = number, number + 1
            self._numbers[place : number + 1] = np.roll(self._numbers[place : number + 1], 1)

    def truncate(self, length: int) -> None:
        """Forget the rows that arrived as number ``length`` or later."""
        gone = self._length - length
        if gone <= 0:
            return
        tail = 2 * gone + 64  # they are near the end; how near is not known
        while tail < self._length and np.sum(self._numbers[self._length - tail : self._length] >= length) < gone:
            tail *= 2
        part = slice(max(self._length - tail, 0), self._length)
        kept = self._numbers[part][self._numbers[part] < length]
        self._numbers[part.start : part.start + len(kept)] = kept
        self._length = length

    def numbers(self, positions: np.ndarray) -> np.ndarray:
        """Which rows are at these positions."""
        return self._numbers[positions]

    def dt(self, positions: np.ndarray) -> np.ndarray:
        """The time between each of them and the row before it."""
        stamps, before = self._stamp(positions), self._stamp(np.maximum(positions - 1, 0))
        first = self._stamp(np.zeros(1, int)) if self._origin is None else np.asarray([self._origin], stamps.dtype)
        gaps = stamps - np.where(positions > 0, before, first)
        return (gaps > 0).astype(float) if self._unit is None else gaps / self._unit

    def _stamp(self, positions: Any) -> Any:
        """The times at these positions."""
        return self._stamps[self._numbers[positions]]

    def _reserve(self, count: int, dtype: np.dtype) -> None:
        """Room for more; doubled, so that appending costs O(1)."""
        needed = self._length + count
        if len(self._numbers) < needed or self._stamps.dtype != dtype:  # of a first call that failed
            room = max(2 * self._length, needed, 64)
            numbers, stamps = np.zeros(room, np.int64), np.zeros(room, dtype)
            numbers[: self._length] = self._numbers[: self._length]
            stamps[: self._length] = self._stamps[: self._length]
            self._numbers, self._stamps = numbers, stamps
