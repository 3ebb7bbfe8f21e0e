"""The steps that a stream with times leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np

from smcssm.errors import InputError

MOST = 10_000


class Grid:
    """The grid that times of regular observations lie on: its spacing is that of the first two."""

    def __init__(self, continuous_time: bool) -> None:
        self._continuous = continuous_time
        self._last: Any = None
        self._period: Any = None

    def skipped(self, moment: Any) -> list[Any]:
        """The times between the last observation and this one.

        Raises:
            InputError: if time goes back or stands still, leaves the grid, or jumps absurdly far.
        """
        if self._last is None or (self._continuous and isinstance(moment, float)):
            return []
        if isinstance(moment, float) != isinstance(self._last, float):
            raise InputError(
                f"time {written(moment)}: numbers and dates do not mix, the last was {written(self._last)}"
            )
        gap = moment - self._last
        if not gap > gap * 0:
            raise InputError(f"time goes back or stands still: {written(moment)} after {written(self._last)}")
        if self._period is None:
            return []
        steps = gap / self._period
        if abs(steps - round(steps)) > 1e-6:
            told = f"time {written(moment)} is {steps:g} steps after {written(self._last)}"
            raise InputError(f"{told}, not on the grid that the first two times span")
        if steps > MOST:
            raise InputError(f"time jumps {steps:.0f} steps ahead, from {written(self._last)} to {written(moment)}")
        return [self._last + (i + 1) * self._period for i in range(round(steps) - 1)]

    def accept(self, moment: Any) -> None:
        """The engine has taken an observation at this time."""
        if moment is None:
            return
        if self._last is not None and self._period is None:
            self._period = moment - self._last
        self._last = np.float64(moment).item() if isinstance(moment, float) else moment


def written(moment: Any) -> Any:
    """A time as JSON: a number, or ISO 8601 without needless zeros."""
    if isinstance(moment, float):
        return moment
    text = str(moment)
    return text.rstrip("0").rstrip(".") if "." in text else text
