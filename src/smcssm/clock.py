"""From time stamps to the time that passed, in the unit that hyperparameters are per; all complaints about time.

Stamps are numbers, or moments in nanoseconds of UTC. Differences are exact; only then are they rounded to float64, and
later to the dtype of the engine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from smcssm import grid
from smcssm.errors import InputError, ModelError
from smcssm.grid import Stamp, Step
from smcssm.late import Drop, Policy, Refuse, Revise
from smcssm.stamps import NAIVE, stamps_of, unit_of
from smcssm.timeline import Timeline


class Timing(NamedTuple):
    """How an engine reads time.

    Whether any time difference will do, the unit that dates are measured in, the time of the initial law (None: that
    of the first observation), what becomes of late rows, and the time zone of the origin.
    """

    continuous: bool
    unit: np.timedelta64 | None = None
    origin: Stamp | None = None
    late: Policy = Refuse()
    zone: str | None = None


class Clock(NamedTuple):
    """Time so far: how many rows, the latest stamp and its time zone, and the steps that a regular series may have.

    ``first`` is the earliest stamp. None and no steps before they are known.
    """

    taken: int = 0
    last: Any = None
    steps: tuple[Step, ...] = ()
    zone: str | None = None
    first: Any = None


class Elapsed(NamedTuple):
    """Of the rows of a block: whether they are taken at all, whether late, and the time since the row before.

    ``dt`` is 0 for the very first row, one unit per row where there are no stamps or they lie on a grid, and undefined
    for late rows. ``stamps`` are numbers, or integers of nanoseconds.
    """

    kept: np.ndarray
    late: np.ndarray
    dt: np.ndarray
    stamps: np.ndarray | None


def timing(continuous: bool, time_unit: Any, origin: Any, late: Any) -> Timing:
    """The options of an engine that concern time, checked."""
    if not isinstance(late, (Refuse, Drop, Revise)):
        raise ModelError(f"late={late!r}: expected an object, ss.late.Refuse(), Drop() or Revise(20)")
    if not continuous and (time_unit is not None or origin is not None):
        name = "origin" if time_unit is None else "time_unit"
        raise ModelError(
            f"{name}: one observation is one step of this model, however long that is: leave it out, or take a model "
            "that holds for any time difference (model.continuous_time)"
        )
    unit = None if time_unit is None else unit_of(time_unit)
    if origin is None:
        return Timing(continuous, unit, None, late)
    try:
        (stamp,), zone = stamps_of(np.asarray([origin]))
    except InputError as error:
        raise ModelError(f"origin={origin!r}: {error}") from None
    if np.isnat(stamp) if isinstance(stamp, np.datetime64) else not np.isfinite(stamp):
        raise ModelError(f"origin={origin!r}: expected a time")
    if isinstance(stamp, np.datetime64) != (unit is not None):
        raise ModelError(f"origin={origin!r} with time_unit={time_unit!r}: a date needs a unit, a number has none")
    return Timing(continuous, unit, stamp, late, zone)


def timeline(timing: Timing) -> Timeline | None:
    """The order of times, for histories into which late rows are put."""
    if not isinstance(timing.late, Revise):
        return None
    unit, origin = timing.unit, timing.origin
    plain = int(origin.astype(np.int64)) if isinstance(origin, np.datetime64) else origin
    return Timeline(None if not timing.continuous else 1.0 if unit is None else int(unit.astype(np.int64)), plain)


def elapsed(timing: Timing, clock: Clock, time: Any, n: int) -> tuple[Elapsed, Clock]:
    """The time that passed before each of n rows, and the clock after them."""
    return passed(timing, clock, *((None, None) if time is None else stamps_of(time)), n)


def passed(
    timing: Timing, clock: Clock, stamps: np.ndarray | None, zone: str | None, n: int
) -> tuple[Elapsed, Clock]:
    """The same of stamps, and the zone that they came in."""
    all_of_them, none = np.ones(n, bool), np.zeros(n, bool)
    first = clock.taken == 0
    if stamps is None:
        if n and (clock.last is not None or isinstance(timing.late, Revise) or timing.origin is not None):
            raise InputError(f"no time was given, but {_why_time(timing, clock)}")
        dt = np.ones(n)
        dt[: int(first)] = 0.0
        return Elapsed(all_of_them, none, dt, None), clock._replace(taken=clock.taken + n)
    if stamps.shape != (n,):
        raise InputError(f"time has shape {stamps.shape}, the observations have {n} rows")
    if n == 0:
        return Elapsed(none, none, np.zeros(0), None), clock
    _check(timing, clock, stamps, zone)
    start = clock.last if not first else stamps[0] if timing.origin is None else timing.origin
    before = np.maximum.accumulate(np.concatenate([np.asarray([start], stamps.dtype), stamps]))[:-1]
    ahead = stamps > before
    ahead[: int(first)] = True
    exact = timing.continuous and (timing.unit is not None or stamps.dtype.kind == "f")
    in_time = ahead if isinstance(timing.late, Drop) or not exact else stamps >= before
    if isinstance(timing.late, Refuse) and not in_time.all():
        raise _late(timing, stamps, before, int(np.argmin(in_time)))
    kept, late = (in_time, none) if isinstance(timing.late, Drop) else (all_of_them, ~in_time)
    steps = clock.steps
    if exact:
        dt = _units(np.where(late, np.zeros_like(stamps - before), stamps - before), timing.unit)
    else:
        dt = np.where(np.arange(clock.taken, clock.taken + n) > 0, 1.0, 0.0)
        steps = _on_grid(clock, stamps, in_time, _or_unit(timing, stamps, ", ") + _or_local(zone))
    last = max(start, stamps.max())
    raw = stamps.view(np.int64) if stamps.dtype.kind == "M" else stamps
    earliest = stamps[kept].min() if first else min(clock.first, stamps[kept].min(initial=clock.first))
    taken = clock.taken + int(kept.sum())
    return Elapsed(kept, late, dt[kept], raw[kept]), Clock(taken, last, steps, zone, earliest)


def ahead(timing: Timing, clock: Clock, h: int) -> tuple[np.ndarray | None, np.ndarray]:
    """The next h stamps, one unit or step apart, and the time before each; no stamps where none are known yet."""
    last = timing.origin if clock.last is None else clock.last
    dt = np.ones(h)
    dt[: int(clock.taken == 0 and last is None)] = 0.0
    if last is None:
        return None, dt
    if timing.continuous and (timing.unit is not None or not isinstance(last, np.datetime64)):
        return last + np.arange(1, h + 1) * (1.0 if timing.unit is None else timing.unit), dt
    if not clock.steps:
        return None, dt
    out = [last]
    for _ in range(h):
        out.append(grid.add(out[-1], clock.steps[0]))
    return np.asarray(out[1:], np.asarray(last).dtype), dt


def forecast_times(timing: Timing, clock: Clock, times: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Stamps of a forecast, the time before each, and how many of them lie before the last observation.

    For these the time before is 0.
    """
    stamps, zone = stamps_of(times)
    if stamps.ndim != 1 or len(stamps) == 0:
        raise InputError(f"times has shape {stamps.shape}: expected one or more times, earliest first")
    last: Any = timing.origin if clock.last is None else clock.last
    if last is None:
        why = "the observations had no time" if clock.taken else "there is no observation yet, and no origin="
        raise InputError(f"times: {why}; give h, a number of steps")
    _check(timing, clock, stamps, zone, "times")
    before = np.concatenate([np.asarray([stamps[0]], stamps.dtype), stamps[:-1]])
    if (stamps < before).any():
        raise InputError(f"times: not in order at row {int(np.argmax(stamps < before))}")
    between = int((stamps < last).sum())
    if timing.continuous and (timing.unit is not None or stamps.dtype.kind == "f"):
        if clock.first is not None and timing.origin is None and stamps[0] < clock.first:
            raise InputError(
                f"times: {grid.written(stamps[0])} is before the first observation, {grid.written(clock.first)}: "
                "nothing is known of the time before it. Engine(origin=...) sets the time of the initial law"
            )
        before = np.maximum(before, last)
        before[0] = last
        return stamps, _units(np.maximum(stamps, last) - before, timing.unit), between
    if between:
        raise InputError(
            f"times: {grid.written(stamps[0])} is before the last observation, {grid.written(last)}, and this model, "
            "or the dates it was given, know whole steps only: engine.smooth() has the state at each of them"
            + _or_unit(timing, stamps, "; ")
        )
    expected, dt = ahead(timing, clock, len(stamps))
    if expected is None or not (expected == stamps).all():
        raise InputError(
            "times: this model, or the dates it was given, know whole steps only: give h, a number of steps"
            + _or_unit(timing, stamps, "; ")
        )
    return stamps, dt, 0


def among(timing: Timing, clock: Clock, dt: np.ndarray, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where stamps lie among the observations, which have these times before each: how many observations come before.

    And the time before each of all, in the order of times.
    """
    gaps = _gaps(timing, dt)
    start = clock.first - gaps[0] if timing.origin is None else timing.origin  # a first exposure begins before its row
    seen = start + np.cumsum(gaps)
    after = np.searchsorted(seen, stamps, side="right")
    merged = np.insert(seen, after, stamps)
    return after, _units(np.diff(merged, prepend=np.asarray([start], merged.dtype)), timing.unit)


def began(timing: Timing, last: Stamp, dt: np.ndarray) -> Stamp:
    """The time of the first observation, from that of the last one and the time before each."""
    return last - _gaps(timing, dt[1:]).sum() if timing.continuous else last  # steps are not measured


def _gaps(timing: Timing, dt: np.ndarray) -> np.ndarray:
    """The inverse of ``_units``, to the nanosecond."""
    gaps = dt.astype(float)
    if timing.unit is None:
        return gaps
    return np.rint(gaps * timing.unit.astype(np.int64)).astype(np.int64).astype("timedelta64[ns]")


def _units(gaps: np.ndarray, unit: np.timedelta64 | None) -> np.ndarray:
    """Differences in units of time; integers of nanoseconds are divided as such."""
    return gaps if unit is None else gaps.astype(np.int64) / unit.astype(np.int64)


def _check(timing: Timing, clock: Clock, stamps: np.ndarray, zone: str | None, what: str = "time") -> None:
    """Stamps are there and finite, and of the same kind and zone as the others."""
    wrong = np.isnat(stamps) if stamps.dtype.kind == "M" else ~np.isfinite(stamps)
    if wrong.any():
        raise InputError(f"{what}: row {int(np.argmax(wrong))} is {stamps[np.argmax(wrong)]}")
    if clock.last is None and clock.taken:
        raise InputError(f"earlier observations had no time, {what} was given now")
    known = clock.last if clock.last is not None else timing.origin
    if known is not None and isinstance(known, np.datetime64) != (stamps.dtype.kind == "M"):
        raise InputError(f"{what}: earlier stamps were like {grid.written(known)}, this one is {stamps[0]}")
    known_zone, whose = (clock.zone, "earlier stamps") if clock.last is not None else (timing.zone, "origin=")
    if known is not None and known_zone != zone:
        raise InputError(f"{what} has {zone}, {whose} {known_zone}: convert all to UTC, say, or to none")
    if timing.unit is not None and stamps.dtype.kind != "M":
        raise InputError(f"{what}: time_unit is for dates; {stamps[0]} is a number, and the unit of numbers is 1")
    dated = stamps.dtype.kind == "M"
    if isinstance(timing.late, Revise) and timing.continuous and dated and timing.unit is None:
        raise InputError(f'{what}: late=Revise measures the time between dates: say its unit, Engine(time_unit="1D")')
    if timing.origin is not None and (early := stamps < timing.origin).any():
        raise _before_origin(int(np.argmax(early)), stamps[np.argmax(early)], timing.origin)


def _late(timing: Timing, stamps: np.ndarray, before: np.ndarray, row: int) -> InputError:
    return InputError(
        f"time goes back or stands still at row {row}: {grid.written(stamps[row])} after {grid.written(before[row])}. "
        "Engine(late=ss.late.Drop()) drops such rows, ss.late.Revise(horizon) puts them in their place"
        + _or_unit(timing, stamps, ", ")
    )


def _before_origin(row: int, stamp: Stamp, origin: Stamp) -> InputError:
    return InputError(
        f"time: row {row}, {grid.written(stamp)}, is before the origin {grid.written(origin)}, the time of the initial "
        "law: build the engine with an earlier origin"
    )


def _why_time(timing: Timing, clock: Clock) -> str:
    if clock.last is not None:
        return "earlier observations had a time, this one has none"
    return "late=Revise needs the time of every row" if timing.origin is None else "the engine has an origin"


def _or_unit(timing: Timing, stamps: np.ndarray, joint: str) -> str:
    """The remedy for dates that are on no grid, where there is one."""
    if not timing.continuous or stamps.dtype.kind != "M" or timing.unit is not None:
        return ""
    return f'{joint}or say what one unit of time is: Engine(time_unit="1D")'


def _or_local(zone: str | None) -> str:
    """The remedy for days of 23 and 25 hours, where a place may have had them."""
    if zone in (None, NAIVE):
        return ""
    return f", or, where steps are days of a calendar, leave out {zone}: time.tz_localize(None)"


def _on_grid(clock: Clock, stamps: np.ndarray, in_time: np.ndarray, hint: str) -> tuple[Step, ...]:
    """The steps that a series which must be regular can still have."""
    first = clock.taken == 0
    rows = np.flatnonzero(in_time)
    through = stamps[rows]
    if not first:
        through = np.concatenate([np.asarray([clock.last], stamps.dtype), through])
    if len(through) < 2:
        return clock.steps
    return fitting(through, clock.steps, "irregular time", rows if not first else rows[1:], hint)


def fitting(
    stamps: np.ndarray, steps: tuple[Step, ...], complaint: str, rows: np.ndarray, hint: str = ""
) -> tuple[Step, ...]:
    """Those of the steps, or of all from the first stamp to the second, that lead through all stamps; at least one.

    ``rows`` are the numbers of all stamps but the first, for the complaint.
    """
    steps = steps or grid.steps(*stamps[:2])
    fits = [grid.follows(stamps, step) for step in steps]
    if left := tuple(step for step, fit in zip(steps, fits, strict=True) if fit.all()):
        return left
    at, step = max((int(np.argmin(fit)), i) for i, fit in enumerate(fits))  # of the one that leads farthest
    here, there, expected = map(grid.written, (*stamps[at : at + 2], grid.add(stamps[at], steps[step])))
    raise InputError(
        f"{complaint} at row {rows[at]}: {there} after {here}, where a step of {grid.told(steps[step])} leads to "
        f"{expected}. Put the series on its grid, with NaN where nothing was observed{hint}"
    )
