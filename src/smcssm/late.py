"""What becomes of an observation older than one already taken, or as old: refused, dropped, or put in its place.

Late is what has an earlier time stamp than the newest observation. A repeated stamp is a simultaneous observation in
models that hold for any time difference (the state stays, its value counts as well); elsewhere, and under ``Drop``, it
is treated as late. Late rows need `smc2.late`; which rows are late is decided in `clock`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smcssm.errors import ModelError


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
