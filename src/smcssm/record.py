"""What each step reported: one step, a block of steps in columns, and a ring of the last so many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from smcssm.core import Status


@dataclass(frozen=True)
class StepInfo:
    """What one observation said, hyperparameters and state integrated out.

    Attributes:
        t: how many observations there are, this one included.
        log_predictive: log p(y_t | y_1:t-1), jointly over the channels that are present.
        predictive_mean: mean of the one-step predictive; a number for a model of one channel, else one per channel.
        predictive_sd: its standard deviation.
        pit: probability integral transform of y_t, uniform on (0, 1) for a calibrated model; NaN where y is missing
            or was taken as missing.
        ess: effective sample size of the hyperparameter population after y_t, before any move.
        moved: whether the population was resampled and moved.
        acceptance: mean acceptance rate of the move; NaN without one.
        status: the worst thing that happened, ``Status.OK`` mostly.
    """

    t: int
    log_predictive: float
    predictive_mean: Any
    predictive_sd: Any
    pit: Any
    ess: float
    moved: bool
    acceptance: float
    status: Status


@dataclass(frozen=True)
class StepInfos:
    """The same for a block: one array per attribute, time first. Iterating gives one ``StepInfo`` per observation."""

    t: np.ndarray
    log_predictive: np.ndarray
    predictive_mean: np.ndarray
    predictive_sd: np.ndarray
    pit: np.ndarray
    ess: np.ndarray
    moved: np.ndarray
    acceptance: np.ndarray
    status: np.ndarray

    @classmethod
    def empty(cls, n_channels: int) -> StepInfos:
        """Of no observation."""
        wide = np.zeros((0,) if n_channels == 1 else (0, n_channels))
        flat, whole = np.zeros(0), np.zeros(0, int)
        return cls(whole, flat, wide, wide, wide, flat, whole.astype(bool), flat, whole)

    def spread(self, kept: np.ndarray, taken: int) -> StepInfos:
        """As many rows as were given, those not kept with status ``DROPPED``; ``taken`` rows had come before."""
        if kept.all():
            return self
        blank = {f.name: 0.0 if f.name == "log_predictive" else np.nan for f in fields(self)}
        blank |= {"moved": False, "status": Status.DROPPED, "t": 0}
        out = {}
        for name, column in vars(self).items():
            out[name] = np.full((len(kept), *column.shape[1:]), blank[name], column.dtype)
            out[name][kept] = column
        out["t"] = taken + np.cumsum(kept)
        return StepInfos(**out)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, i: int) -> StepInfo:
        """One step."""
        values = {f.name: _plain(getattr(self, f.name)[i]) for f in fields(self)}
        values["status"] = Status(values["status"])
        return StepInfo(**values)

    def __iter__(self) -> Iterator[StepInfo]:
        return (self[i] for i in range(len(self)))


def _plain(value: Any) -> Any:
    return value.item() if np.ndim(value) == 0 else value


class Ring:
    """The last ``capacity`` rows of some columns. How many rows there are is the caller's to know.

    Twice the room is kept: rows that were written but never counted (the call failed) overwrite nothing that counts.
    The first ``unseen`` rows were never written: a warm start has no record of them.
    """

    def __init__(self, capacity: int, unseen: int = 0) -> None:
        self.capacity, self.unseen = capacity, unseen
        self._columns: dict[str, np.ndarray] = {}

    def write(self, total: int, columns: dict[str, np.ndarray]) -> None:
        """Put rows after the first ``total``."""
        n = len(next(iter(columns.values())))
        rows = np.arange(max(0, n - self.capacity), n)
        places = (total + rows) % (2 * self.capacity)
        begun = total > self.unseen and bool(self._columns)
        if not begun:
            self._columns = {}  # what a first call that failed has left may be of other columns
        for name, values in columns.items():
            if name not in self._columns and begun:
                continue  # a record of an older version goes on as it began
            if name not in self._columns:
                self._columns[name] = np.empty((2 * self.capacity, *values.shape[1:]), values.dtype)
            self._columns[name][places] = values[rows]

    def columns(self, total: int) -> dict[str, np.ndarray]:
        """Copies of the rows that are kept of the first ``total``, oldest first."""
        kept = min(total - self.unseen, self.capacity)
        places = (total - kept + np.arange(kept)) % (2 * self.capacity)
        return {name: values[places] for name, values in self._columns.items()} if kept else {}

    def row(self, total: int) -> dict[str, np.ndarray]:
        """The last of the first ``total`` rows, as columns of length 1; nothing where it was never written."""
        if total <= self.unseen:
            return {}
        place = (total - 1) % (2 * self.capacity)
        return {name: values[place : place + 1] for name, values in self._columns.items()}

    def copy(self) -> Ring:
        """An independent ring with the same rows."""
        new = Ring(self.capacity, self.unseen)
        new._columns = {name: values.copy() for name, values in self._columns.items()}
        return new
