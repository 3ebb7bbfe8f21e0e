"""Regular time: even steps, and those of a calendar, which are of different length.

Two stamps do not tell which: from 1 January to 1 February it is 31 days, or a month. Every later stamp rules out steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Stamp = Any
"""A number, or datetime64[ns]."""
Step = Any
"""A number or timedelta64, or an offset of pandas."""


def steps(a: Stamp, b: Stamp) -> tuple[Step, ...]:
    """Every step that leads from one stamp to a later one: the even one first, then months and business days."""
    if not isinstance(a, np.datetime64):
        return (b - a,)
    from pandas import DateOffset, Timestamp
    from pandas.tseries.offsets import BMonthBegin, BMonthEnd, BusinessDay, MonthEnd

    before, after = Timestamp(a), Timestamp(b)
    months = int(12 * (after.year - before.year) + after.month - before.month)
    monthly = [DateOffset(months=months), *(kind(months) for kind in (MonthEnd, BMonthBegin, BMonthEnd))]
    calendar = [*(monthly if months else []), BusinessDay()]
    return (b - a, *(step for step in calendar if before + step == after))


def follows(stamps: np.ndarray, step: Step) -> np.ndarray:
    """Whether each stamp but the first is one step after the one before."""
    before, after = stamps[:-1], stamps[1:]
    if _even(step):
        return np.abs((after - before) / step - 1) <= 1e-6
    from pandas import DatetimeIndex

    return (DatetimeIndex(before) + step).to_numpy() == after


def add(a: Stamp, step: Step) -> Stamp:
    """One step later."""
    if _even(step):
        return a + step
    from pandas import Timestamp

    return (Timestamp(a) + step).to_datetime64()


def between(a: Stamp, b: Stamp, step: Step) -> list[Stamp] | None:
    """The moments between two stamps that steps from the first pass; None where they do not end at the second."""
    if _even(step):
        n = (b - a) / step
        return [a + i * step for i in range(1, round(n))] if abs(n - round(n)) <= 1e-6 else None
    from pandas import date_range

    moments = date_range(a, b, freq=step, unit="ns").to_numpy()
    return list(moments[1:-1]) if len(moments) > 1 and moments[0] == a and moments[-1] == b else None


def told(step: Step) -> str:
    """A step as people say it."""
    if isinstance(step, np.timedelta64):
        return str(step.astype("timedelta64[us]").item()).removesuffix(", 0:00:00")
    if _even(step):
        return f"{step:g}"
    months = step.kwds.get("months", step.n)
    return "1 business day" if step.freqstr == "B" else "1 month" if months == 1 else f"{months} months"


def written(moment: Stamp) -> Any:
    """A stamp as JSON: a number, or ISO 8601 without needless zeros."""
    if isinstance(moment, float):
        return moment
    text = str(moment)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _even(step: Step) -> bool:
    return isinstance(step, (float, np.timedelta64))
