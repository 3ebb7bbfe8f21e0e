"""Time stamps as users have them: numbers, or dates of NumPy, pandas or the standard library, or as text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from smcssm.errors import InputError, ModelError

NAIVE, OFFSET = "no time zone", "fixed offsets from UTC"

_HOUR = r"T?\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*([ap]m)?\s*([a-z/_]+|[+-]\d{2}(:?\d{2})?)?"
_OF_TODAY = re.compile(rf"\s*({_HOUR}|now|today)\s*", re.IGNORECASE)  # pandas takes the day from the clock


def stamps_of(time: Any) -> tuple[np.ndarray, str | None]:
    """Stamps as float64 numbers, or as datetime64[ns] in UTC; and the zone they came in, None for numbers."""
    zone = getattr(getattr(time, "dtype", None), "tz", None)
    if zone is not None:  # of pandas, all in one zone
        import pandas as pd

        return _nanoseconds(pd.DatetimeIndex(time).tz_convert("UTC").tz_localize(None).to_numpy()), _zone(zone)
    if getattr(getattr(time, "dtype", None), "time_zone", None) is not None:  # of polars
        return _parsed(np.asarray(time.to_list(), object))
    values = np.atleast_1d(time.to_numpy() if hasattr(time, "to_numpy") else np.asarray(time))
    if values.dtype.kind in "OUS":
        return _parsed(values.ravel())
    if values.dtype.kind == "M":
        return _nanoseconds(values), NAIVE
    if values.dtype.kind not in "iuf":
        raise InputError(f"time: expected numbers or datetimes, got {values.ravel()[0]!r}")
    if values.dtype.kind in "iu" and (np.abs(values.astype(float)) > 2**53).any():
        raise InputError("time: whole numbers above 2^53 are not exact in float64; of dates take pd.to_datetime(time)")
    return values.astype(float), None


def _parsed(values: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Python numbers, or dates as text or as objects of pandas or the standard library."""
    import pandas as pd

    if all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in values):
        return values.astype(float), None
    moments = []
    for v in values:
        try:
            if isinstance(v, (int, float, np.number)):
                raise TypeError
            moments.append(pd.Timestamp(v))
        except (TypeError, ValueError):
            got = f"the text {v}" if isinstance(v, str) else v
            raise InputError(f"time: expected numbers or datetimes, got {got}") from None
        if isinstance(v, str) and (_OF_TODAY.fullmatch(v) or moments[-1].year == 1):
            raise InputError(f"time: the text {v} names no day: write it with its date, as in 2024-05-01T12:30")
    zones = sorted({_zone(m.tzinfo) for m in moments if m is not pd.NaT})
    if len(zones) > 1:
        raise InputError(f"time mixes {' and '.join(zones)}: convert all to UTC, say, or to none")
    naive = pd.to_datetime(moments, utc=True).tz_localize(None).to_numpy()
    return _nanoseconds(naive), zones[0] if zones else NAIVE


def _nanoseconds(dates: np.ndarray) -> np.ndarray:
    try:
        return dates.astype("datetime64[ns]")
    except OverflowError:
        raise InputError("time: dates are known to the nanosecond, so only from 1678 to 2262") from None


def _zone(zone: Any) -> str:
    """A time zone by name; all fixed offsets are one, since a place may change its own over the year."""
    return NAIVE if zone is None else str(zone) if zone.utcoffset(None) is None else OFFSET


def unit_of(time_unit: Any) -> np.timedelta64:
    """A unit of time, of fixed length."""
    import pandas as pd

    try:
        if isinstance(time_unit, (int, float, np.number)) and not isinstance(time_unit, np.timedelta64):
            raise TypeError
        unit = np.asarray([pd.Timedelta(time_unit)], "timedelta64[ns]")[0]
        if not unit > np.timedelta64(0, "ns"):
            raise ValueError
    except (TypeError, ValueError):
        raise ModelError(
            f'time_unit={time_unit!r}: expected a length of time such as "1D", "1h" or a timedelta; months and years '
            'differ in length: say how long yours is, "30.4375D" or "365.25D"'
        ) from None
    return unit
