"""A store whose rows are already on disk, for an engine that takes them once more."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smcssm.errors import JournalError
from smcssm.history import TIMES, Columns, History, Store
from smcssm.timeline import Timeline


class Replayed(Store):
    """The first rows of a store; what is appended must be those that follow, and is not written again."""

    def __init__(self, store: Store, length: int) -> None:
        self.store, self._length = store, length
        self.path: Path | None = store.path

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return self.store.names

    def __len__(self) -> int:
        return self._length

    def append(self, columns: Columns) -> None:
        """Go on by so many rows.

        Raises:
            JournalError: they are other ones.
        """
        stop = self._length + len(next(iter(columns.values())))
        known = self.store.read(self._length, stop)
        for name, column in columns.items():
            other = known[name] != column
            if column.dtype.kind in "fM":
                other &= ~(np.isnan(known[name]) & np.isnan(column))
            if other.any():
                row = self._length + int(np.argmax(other.reshape(len(column), -1).any(axis=1)))
                raise JournalError(
                    f"{self.path}: taken once more, row {row} is another one ({name}) than was recorded: is this the "
                    "model and prior that the journal was written with?"
                )
        self._length = stop

    def read(self, start: int, stop: int) -> Columns:
        """Rows start to stop."""
        return self.store.read(start, stop)

    def truncate(self, length: int) -> None:
        """Go back."""
        self._length = min(length, self._length)

    def commit(self, length: int) -> None:
        """They are there."""

    def seal(self, length: int) -> int | None:
        """As on disk."""
        return self.store.seal(length)


def upto(store: Store, length: int, timeline: Timeline | None) -> History:
    """The first rows of a store, as if the others had not arrived yet."""
    if timeline is not None and length:
        timeline.extend(store.read(0, length)[TIMES])
    return History(Replayed(store, length), timeline)
