"""From whatever the user has to a block of observation records; every complaint about input is made here.

Numbers, arrays, mappings, and pandas, polars, arrow or xarray objects. Frames are matched to channels and inputs by
name. NaN means: time passed, the value is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from smcssm import grid
from smcssm.core import AbstractModel, Observation
from smcssm.errors import InputError
from smcssm.grid import Step


class Clock(NamedTuple):
    """Time so far: the last time stamp, and the steps that a regular series may have, none before they are known."""

    taken: int = 0
    last: Any = None
    steps: tuple[Step, ...] = ()


class Layout(NamedTuple):
    """What a record of this engine holds: fixed by its first observation."""

    noise_sd: bool
    exposure: bool


def to_block(  # noqa: PLR0913
    model: AbstractModel,
    n_series: int,
    dtype: str,
    clock: Clock,
    layout: Layout | None,
    ys: Any,
    *,
    time: Any = None,
    inputs: Any = None,
    noise_sd: Any = None,
    exposure: Any = None,
) -> tuple[Observation, Clock, Layout | None]:
    """A block ``[t, ..., s]`` of the same observations for each of ``n_series`` populations."""
    if ys is None:
        raise InputError("y is None: a missing value is NaN")
    if exposure is not None:
        raise InputError("exposure: no model of this version integrates over an exposure")
    _check_index(ys, time)
    frame = _frame(ys)
    if frame is not None:
        time = _column(frame, time) if isinstance(time, str) else time
        inputs = _columns(frame, model.input_names, "input") if inputs is None and model.input_names else inputs
        ys = _channels(frame, model.channel_names, named=isinstance(ys, Mapping))
    y = _matrix("y", ys, model.channel_names)
    n = len(y)
    v = _inputs(model, inputs, n)
    given = Layout(noise_sd is not None, exposure is not None)
    if layout is not None and n and given != layout:
        raise InputError(
            "noise_sd and exposure are given for every observation of an engine or for none: "
            f"earlier {_given(layout)}, now {_given(given)}"
        )
    sd = None if noise_sd is None else _positive("noise_sd", noise_sd, model.channel_names, n)
    length = None if exposure is None else _positive("exposure", exposure, model.channel_names, n)
    dt, clock = _elapsed(clock, time, n, model.continuous_time)

    def spread(a: Any, kind: Any) -> np.ndarray:
        return np.repeat(np.asarray(a, kind)[..., None], n_series, axis=-1)

    block = Observation(
        y=spread(np.where(np.isnan(y), 0.0, y), dtype),
        mask=spread(~np.isnan(y), bool),
        dt=spread(dt, dtype),
        index=spread(np.arange(clock.taken - n, clock.taken), np.int64),
        inputs=None if v is None else spread(v, dtype),
        noise_sd=None if sd is None else spread(sd, dtype),
        exposure=None if length is None else spread(length, dtype),
    )
    return block, clock, (layout or given) if n else layout


def one(value: Any, width: int, what: str) -> Any:
    """The argument of ``step`` as a block of one row; a mapping is matched by name later, None stays None."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: [v] for name, v in value.items()}
    if isinstance(value, (str, bytes)):
        raise InputError(f"{what}={value!r}: expected numbers, got text")
    if width == 0:
        return value
    if width == 1 and np.ndim(value) == 0:
        return [[value]]
    if np.shape(value) != (width,):
        raise InputError(f"{what} of one step has shape {np.shape(value)}: expected {_expected(width)}")
    return [list(value)]


def _expected(width: int) -> str:
    return "a number" if width == 1 else f"{width} numbers"


def _frame(data: Any) -> Any:
    """The data as a narwhals frame, or None when it is not tabular; mappings of columns count as tabular."""
    if isinstance(data, Mapping):
        return {str(k): _numbers(str(k), v) for k, v in data.items()}
    if isinstance(data, (np.ndarray, Sequence, int, float, complex)) or data is None or np.isscalar(data):
        return None
    if hasattr(data, "to_pandas") and hasattr(data, "dims"):  # xarray
        data = data.to_pandas()
    import narwhals as nw

    native = nw.from_native(data, allow_series=True, pass_through=True)
    if isinstance(native, nw.LazyFrame):
        native = native.collect()
    if isinstance(native, nw.Series):
        return {native.name or "y": native} if native.name else {"y": native}
    return {c: native[c] for c in native.columns} if isinstance(native, nw.DataFrame) else None


def _check_index(data: Any, time: Any) -> None:
    """Refuse a pandas index of dates that says something else than one step per row; it is not used otherwise."""
    index = getattr(data, "index", None)
    numbers = getattr(index, "asi8", None)
    if index is None or numbers is None or time is not None or len(numbers) < 2:
        return
    gaps = np.diff(numbers)
    if gaps.min() <= 0:
        raise InputError(f"the index goes back or stands still at row {int(np.argmax(gaps <= 0)) + 1}: sort it")
    if gaps.min() != gaps.max() and index.freq is None:  # in local time a day may have 23 hours
        stamps = (
            index.tz_localize(None).to_numpy("datetime64[ns]") if hasattr(index, "tz_localize") else index.to_numpy()
        )
        _fitting(stamps, (), "the index is irregular")


def _column(frame: dict[str, Any], name: str) -> Any:
    if name not in frame:
        raise InputError(f"no column {name!r}: the columns are {', '.join(frame)}")
    column = frame[name]
    return column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)


def _channels(frame: dict[str, Any], channels: Sequence[str], named: bool) -> np.ndarray:
    """The channels by name; one column, not named by the user in a mapping, is the channel of a model that has one."""
    if len(channels) == 1 and len(frame) == 1 and not named:
        return np.stack([_numbers(name, column) for name, column in frame.items()], axis=1)
    return _columns(frame, channels, "channel")


def _columns(frame: dict[str, Any], names: Sequence[str], kind: str) -> np.ndarray:
    missing = [n for n in names if n not in frame]
    if missing:
        raise InputError(
            f"no column for the {kind}s {', '.join(missing)}: the columns are {', '.join(frame) or '(none)'}. Rename "
            "them, or give an array"
        )
    return np.stack([_numbers(n, frame[n]) for n in names], axis=1)


def _numbers(what: str, values: Any) -> np.ndarray:
    """Real numbers as float64, whatever holds them; NaN stays, None and text do not."""
    if hasattr(values, "is_null") and hasattr(values, "cast"):  # a narwhals column: null is missing
        import narwhals as nw

        if not values.dtype.is_numeric() and values.dtype != nw.Boolean:
            raise InputError(f"column {what!r} holds {values.dtype}, not numbers")
        return np.asarray(values.cast(nw.Float64).to_numpy(), float)
    try:
        array = np.asarray(values)
        array = np.asarray(values, object) if array.dtype.kind in "US" else array
    except ValueError:
        raise InputError(f"{what}: rows of different lengths") from None
    if array.dtype.kind in "biuf":
        return array.astype(float)
    flat = array.ravel()
    bad = next((i for i, v in enumerate(flat) if not _is_real(v)), None)
    if bad is None:
        return array.astype(float)
    where = f" (row {bad // max(1, array.shape[-1] if array.ndim > 1 else 1)})" if flat.size > 1 else ""
    hint = "; a missing value is NaN" if flat[bad] is None else ""
    raise InputError(f"{what}: expected real numbers, got {flat[bad]!r}{where}{hint}")


def _is_real(v: Any) -> bool:
    return isinstance(v, (bool, int, float, np.bool_, np.integer, np.floating))


def _matrix(what: str, values: Any, names: Sequence[str]) -> np.ndarray:
    """Rows of ``len(names)`` finite or missing numbers."""
    a, width = _numbers(what, values), len(names)
    if a.size == 0:
        return np.zeros((0, width))
    if a.ndim == 1 and width == 1:
        a = a[:, None]
    if a.ndim != 2 or a.shape[1] != width:
        raise InputError(f"{what} has shape {a.shape}: expected (rows, {width}), columns {', '.join(names)}")
    if np.isinf(a).any():
        row, column = np.argwhere(np.isinf(a))[0]
        raise InputError(f"{what}: {a[row, column]} in row {row}, {names[column]}; a missing value is NaN")
    return a


def _inputs(model: AbstractModel, inputs: Any, n: int) -> np.ndarray | None:
    names = model.input_names
    if not names:
        if inputs is not None:
            raise InputError("inputs were given, but this model reads none")
        return None
    if inputs is None:
        raise InputError(f"this model needs inputs with every observation: {', '.join(names)}")
    frame = _frame(inputs)
    v = _matrix("inputs", inputs if frame is None else _columns(frame, names, "input"), names)
    if len(v) != n:
        raise InputError(f"inputs has {len(v)} rows, the observations {n}")
    if np.isnan(v).any():
        row, column = np.argwhere(np.isnan(v))[0]
        raise InputError(f"inputs: row {row} of {names[column]} is missing; only observations may be")
    return v


def _positive(what: str, values: Any, names: Sequence[str], n: int) -> np.ndarray:
    a = _matrix(what, np.broadcast_to(_numbers(what, values), (n,)) if np.ndim(values) == 0 else values, names)
    if len(a) != n:
        raise InputError(f"{what} has {len(a)} rows, the observations {n}")
    if not (a >= 0).all():
        row = int(np.argwhere(~(a >= 0))[0][0])
        raise InputError(f"{what}: row {row} is {a[row]}; expected numbers >= 0")
    return a


def _given(layout: Layout) -> str:
    return ", ".join(name for name, present in layout._asdict().items() if present) or "neither"


def _elapsed(clock: Clock, time: Any, n: int, continuous: bool) -> tuple[np.ndarray, Clock]:
    """Time since the previous observation, 0 for the very first; without time stamps, one unit per observation."""
    first = clock.taken == 0
    if time is None:
        if clock.last is not None and n:
            raise InputError("earlier observations had a time, this one has none")
        dt = np.ones(n)
        dt[: int(first)] = 0.0
        return dt, clock._replace(taken=clock.taken + n)
    stamps = _stamps(time, n)
    if n == 0:
        return np.zeros(0), clock
    if clock.last is None and not first:
        raise InputError("earlier observations had no time, this one has")
    if not first and np.asarray(clock.last).dtype.kind != stamps.dtype.kind:
        raise InputError(f"time: earlier stamps were like {clock.last}, this one is {stamps[0]}")
    previous = stamps[:1] if first else np.asarray([clock.last], stamps.dtype)
    gaps = np.diff(np.concatenate([previous, stamps]))
    numeric = gaps.dtype.kind == "f"
    zero = 0.0 if numeric else np.timedelta64(0, "ns")
    backwards = gaps < zero if continuous and numeric else gaps <= zero
    backwards[: int(first)] = False
    if backwards.any():
        row = int(np.argmax(backwards))
        raise InputError(f"time goes back or stands still at row {row}: {stamps[row]} after {stamps[row] - gaps[row]}")
    if continuous and numeric:
        return gaps.astype(float), Clock(clock.taken + n, stamps[-1])
    return _on_grid(clock, stamps, first)


def _on_grid(clock: Clock, stamps: np.ndarray, first: bool) -> tuple[np.ndarray, Clock]:
    """Unit steps of a series that must be regular."""
    dt = np.ones(len(stamps))
    dt[: int(first)] = 0.0
    through = stamps if first else np.concatenate([np.asarray([clock.last], stamps.dtype), stamps])
    steps = _fitting(through, clock.steps, "irregular time", int(first)) if len(through) > 1 else ()
    return dt, Clock(clock.taken + len(stamps), stamps[-1], steps)


def _fitting(stamps: np.ndarray, steps: tuple[Step, ...], complaint: str, offset: int = 1) -> tuple[Step, ...]:
    """Those of the steps, or of all from the first stamp to the second, that lead through all stamps; at least one."""
    steps = steps or grid.steps(*stamps[:2])
    fits = [grid.follows(stamps, step) for step in steps]
    if left := tuple(step for step, fit in zip(steps, fits, strict=True) if fit.all()):
        return left
    at, step = max((int(np.argmin(fit)), i) for i, fit in enumerate(fits))  # of the one that leads farthest
    here, there, expected = map(grid.written, (*stamps[at : at + 2], grid.add(stamps[at], steps[step])))
    raise InputError(
        f"{complaint} at row {at + offset}: {there} after {here}, where a step of {grid.told(steps[step])} leads to "
        f"{expected}. Put the series on its grid, with NaN where nothing was observed"
    )


def _stamps(time: Any, n: int) -> np.ndarray:
    """Time stamps as float64 numbers or datetime64[ns]."""
    values = time.to_numpy() if hasattr(time, "to_numpy") else np.asarray(time)
    values = np.atleast_1d(values)
    if values.dtype.kind in "OUS":
        import pandas as pd

        try:
            values = pd.to_datetime(values, utc=True).tz_localize(None).to_numpy("datetime64[ns]")
        except (TypeError, ValueError):
            raise InputError(f"time: expected numbers or datetimes, got {values.ravel()[0]}") from None
    if values.dtype.kind not in "iufM":
        raise InputError(f"time: expected numbers or datetimes, got {values.ravel()[0]!r}")
    if values.shape != (n,):
        raise InputError(f"time has shape {values.shape}, the observations have {n} rows")
    stamps = values.astype("datetime64[ns]") if values.dtype.kind == "M" else values.astype(float)
    wrong = np.isnat(stamps) if stamps.dtype.kind == "M" else ~np.isfinite(stamps)
    if wrong.any():
        raise InputError(f"time: row {int(np.argmax(wrong))} is {stamps[np.argmax(wrong)]}")
    return stamps
