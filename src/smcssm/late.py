"""What becomes of an observation older than one already taken, or as old: refused, dropped, or put in its place.

Late is what has an earlier time stamp than the newest observation. A repeated stamp is a simultaneous observation in
models that hold for any time difference (the state stays, its value counts as well); elsewhere, and under ``Drop``, it
is treated as late. Late rows need `smc2.late`; which rows are late is decided in `clock`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from smcssm.errors import InputError, ModelError
from smcssm.timeline import Timeline


@dataclass(frozen=True)
class Refuse:
    """Raise ``InputError``; the engine is unchanged."""


@dataclass(frozen=True)
class Drop:
    """Take no notice, status ``DROPPED``: of late rows, and of rows with the stamp of the newest one."""


@dataclass(frozen=True)
class Revise:
    """Put late rows in their place: the posterior is that of all rows in the order of their times.

    Attributes:
        horizon: a late row may be that many rows behind; one from before them raises ``InputError``. Each observation
            costs a second filter step, a late one up to ``horizon`` of them.
    """

    horizon: int = 32

    def __post_init__(self) -> None:
        whole = isinstance(self.horizon, (int, np.integer)) and not isinstance(self.horizon, bool)
        if not (whole and self.horizon >= 1):
            raise ModelError(f"Revise(horizon={self.horizon!r}): expected a whole number of rows, at least 1")


Policy = Refuse | Drop | Revise


def check_place(timeline: Timeline | None, stamp: Any, horizon: int) -> None:
    """Whether a late row has a place that it can be put in."""
    assert timeline is not None
    if timeline.precedes(stamp):
        raise InputError(
            f"time: a row is {timeline.told(stamp)} before the first one, whose time is that of the initial law. Build "
            "the engine with an origin= that is early enough"
        )
    if not timeline.holds(stamp):
        raise InputError("time: a late row is between two steps of this model: it fits only where another row is")
    behind = len(timeline) - timeline.place(stamp)
    if behind > horizon:
        raise InputError(
            f"time: a row is {behind} rows late, late=Revise(horizon={horizon}) reaches {horizon} rows back: raise the "
            "horizon, or take Drop()"
        )
