"""Time stamps of the series of a fleet, each with its own clock; complaints about them are made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from smcssm.clock import Timing
from smcssm.errors import InputError
from smcssm.fleets.runtime import named
from smcssm.grid import written
from smcssm.stamps import stamps_of


def stamps_for(time: Any, shape: tuple[int, int]) -> tuple[np.ndarray, str | None]:
    """Stamps ``[t, s]``, one for all, per row, per series of a single row, or each its own; and their time zone."""
    known = np.asarray(time)
    stamps, zone = stamps_of(known.ravel() if known.ndim != 1 else time)
    if known.ndim == 1 and shape[0] > 1:
        stamps = stamps[:, None]
    elif known.ndim > 1:
        stamps = stamps.reshape(known.shape)
    try:
        return np.broadcast_to(stamps, shape), zone
    except ValueError:
        expected = "one, or one per series" if shape[0] == 1 else f"({shape[0]},) or {shape}"
        raise InputError(f"time has shape {known.shape}: expected {expected}") from None


class Seen(NamedTuple):
    """What is known of time: how many observations each series has taken, the time of the last, and the time zone."""

    taken: Int[np.ndarray, " s"]
    last: np.ndarray | None
    zone: str | None


def check_kind(had: str | bool | None, has: str | None, zone: str | None, new_zone: str | None) -> None:
    """A journal has time stamps of one kind and zone, "M" for dates, "f" for numbers, or none; False before any row.

    Raises:
        InputError: these differ in that from earlier ones.
    """
    if had is False:
        return
    if had != has:
        kinds = {None: "no time", "M": "dates", "f": "numbers for times"}
        raise InputError(
            f"time: the first row of this fleet's journal came with {kinds[had]}, this one with {kinds[has]}; "
            "a journal holds one kind"
        )
    if has is not None and new_zone != zone:
        raise InputError(f"time has {new_zone}, earlier rows of this fleet's journal {zone}: convert all to UTC, say")


def times_passed(
    timing: Timing,
    seen: Seen,
    stamps: np.ndarray | None,
    zone: str | None,
    reported: Bool[np.ndarray, " s"],
    names: Sequence[Any],
) -> tuple[Float[np.ndarray, " s"], np.ndarray | None]:
    """The time since the last observation of each series that reported, and the times of the last ones then.

    0 at the very first observation; one unit where there are no stamps, or where one observation is one step.
    """
    taken, last = seen.taken, seen.last
    first = taken == 0
    steps = np.where(first, 0.0, 1.0)
    if stamps is None:
        if last is not None and (had := reported & ~_unknown(last)).any():
            raise InputError(f"no time was given, but earlier observations of series {named(names, had)} had one")
        return steps, last
    _check(timing, taken, last, stamps, reported, names)
    if last is not None and zone != seen.zone:
        raise InputError(f"time has {zone}, earlier stamps {seen.zone}: convert all to UTC, say, or to none")
    before = stamps if last is None else np.where(_unknown(last), stamps, last)
    gap = stamps - before
    now = np.where(reported, stamps, np.full_like(stamps, _missing(stamps)) if last is None else last)
    if not timing.continuous:
        return steps, now
    zero = np.zeros((), gap.dtype)
    gap = np.where(reported & ~first, gap, zero)
    return (gap if timing.unit is None else gap.astype(np.int64) / timing.unit.astype(np.int64)), now


def times_kept(
    before: np.ndarray | None, now: np.ndarray | None, taken: Bool[np.ndarray, " s"]
) -> np.ndarray | None:
    """The times of the last observations, where only these series have taken theirs: what was refused never was."""
    if now is None or now is before:
        return now
    return np.where(taken, now, np.full_like(now, _missing(now)) if before is None else before)


def _check(
    timing: Timing,
    taken: Int[np.ndarray, " s"],
    last: np.ndarray | None,
    stamps: np.ndarray,
    reported: Bool[np.ndarray, " s"],
    names: Sequence[Any],
) -> None:
    dated = stamps.dtype.kind == "M"
    if last is not None and dated != (last.dtype.kind == "M"):
        raise InputError(f"time: earlier stamps were {'numbers' if dated else 'dates'}, now they are not")
    if timing.continuous and dated and timing.unit is None:
        raise InputError('time: dates need a unit of time that hyperparameters are per: Fleet(time_unit="1D"), say')
    if timing.unit is not None and not dated:
        raise InputError("time: time_unit is for dates; the unit of numbers is 1")
    if (lacking := reported & _unknown(stamps)).any():
        raise InputError(f"time: series {named(names, lacking)} reported without any")
    if (had_none := reported & (taken > 0) & (_unknown(last) if last is not None else True)).any():
        raise InputError(f"time: earlier observations of series {named(names, had_none)} had none")
    if last is None:
        return
    behind = stamps < last if timing.continuous else stamps <= last
    if (late := reported & behind).any():
        i = int(np.argmax(late))
        raise InputError(
            f"time of series {names[i]!r} goes back or stands still: {written(stamps[i])} after {written(last[i])}. A "
            "fleet takes the rows of each series in order: leave out what came late, or take an Engine with late="
        )


def _unknown(stamps: np.ndarray) -> np.ndarray:
    return np.isnat(stamps) if stamps.dtype.kind == "M" else np.isnan(stamps)


def _missing(stamps: np.ndarray) -> Any:
    return np.datetime64("NaT", "ns") if stamps.dtype.kind == "M" else np.nan
