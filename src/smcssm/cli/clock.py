"""The steps that a stream with times leaves out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from smcssm.errors import InputError
from smcssm.grid import Stamp, Step, add, between, steps, told, written

MOST = 10_000


class Grid:
    """The grid that times of regular observations lie on."""

    def __init__(self, continuous_time: bool, unit: np.timedelta64 | None = None) -> None:
        self._continuous, self.unit = continuous_time, unit
        self._last: Stamp | None = None
        self.step: Step | None = None

    def free(self, moment: Any) -> bool:
        """Whether any time will do: a number as it is, a date where the unit of time is known."""
        return self._continuous and (isinstance(moment, float) or (moment is not None and self.unit is not None))

    def learn(self, moments: list[Stamp]) -> None:
        """Find the step from the first times; of two kinds of time the first one counts."""
        alike = sorted({m for m in moments if isinstance(m, float) == isinstance(moments[0], float)})
        if len(alike) > 1 and not self.free(alike[0]):
            self.step = step_of(alike)

    def skipped(self, moment: Stamp) -> list[Stamp]:
        """The times between the last observation and this one.

        Raises:
            InputError: if time goes back or stands still, leaves the grid, or jumps absurdly far.
        """
        last, step = self._last, self.step
        if last is None:
            return []
        if isinstance(moment, float) != isinstance(last, float):
            raise InputError(f"time {written(moment)}: numbers and dates do not mix, the last was {written(last)}")
        if self.free(moment):
            return []
        if not moment > last:
            raise InputError(
                f"time goes back or stands still: {written(moment)} after {written(last)}; lines have to come in the "
                "order of time: sort the file by that column"
            )
        if step is None:
            return []
        if (far := steps_to(last, moment, step)) > MOST:
            raise InputError(f"time jumps {far:.0f} steps ahead, from {written(last)} to {written(moment)}")
        passed = between(last, moment, step)
        if passed is None:
            found = f"time {written(moment)} is about {far:.3g} steps after {written(last)}"
            raise InputError(f"{found}, not on the grid of one every {told(step)}; {self._remedy(moment)}")
        return passed

    def _remedy(self, moment: Stamp) -> str:
        """What to do about irregular times."""
        model = "" if self._continuous else "a model that holds for any gap (level+noise, say)"
        unit = "" if isinstance(moment, float) else "--time-unit, in which its hyperparameters are (1h, say)"
        return f"irregular times need {' and '.join(filter(None, (model, unit)))}"

    def accept(self, moment: Stamp | None) -> None:
        """The engine has taken an observation at this time."""
        if moment is None:
            return
        if self.free(moment):
            self.step = 1.0 if isinstance(moment, float) else self.unit
        elif self._last is not None and self.step is None:
            self.step = moment - self._last
        self._last = moment

    def ahead(self, h: int) -> list[Stamp]:
        """The h stamps after the last one, where the step is known."""
        if self._last is None or self.step is None:
            return []
        return list(itertools.accumulate(itertools.repeat(self.step, h), add, initial=self._last))[1:]


def steps_to(a: Stamp, b: Stamp, step: Step) -> float:
    """About how many steps lead from one stamp to the other."""
    return (b - a) / (add(a, step) - a)


def step_of(stamps: list[Stamp]) -> Step:
    """The step that leads to most of these, and of several such the one that leaves the fewest out.

    Candidates are the steps of a calendar between neighbours, and the smallest gap: of those seen twice if there are
    any, since one wrong time alone makes a small gap as well.
    """
    gaps = np.sort(np.diff(stamps))
    twice = gaps[:-1][np.diff(gaps) <= 1e-6 * gaps[:-1]]
    even = twice[0] if len(twice) else gaps[0]
    pairs = list(itertools.pairwise(stamps))
    candidates = [even, *dict.fromkeys(step for pair in pairs for step in steps(*pair)[1:])]

    def cost(step: Step) -> tuple[int, int]:
        passed = [between(*pair, step) if steps_to(*pair, step) <= MOST else None for pair in pairs]
        return passed.count(None), sum(len(p) for p in passed if p is not None)

    return min(candidates, key=cost)
