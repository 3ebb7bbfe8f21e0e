"""From whatever the user has to a block of observation records; every complaint about input is made here.

Numbers, arrays, mappings, and pandas, polars, arrow or xarray objects. Frames are matched to channels and inputs by
name. NaN means: time passed, the value is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from smcssm.clock import Clock, Elapsed, Timing, elapsed, fitting
from smcssm.core import AbstractModel, Observation
from smcssm.errors import InputError
from smcssm.late import Drop


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
    timing: Timing | None = None,
    sequence: int | None = None,
) -> tuple[Observation, Clock, Layout | None, Elapsed]:
    """A block ``[t, ..., s]`` of the same observations for each of ``n_series`` populations: those that are kept.

    ``sequence`` is the number of the first one, counted from 0: those that were taken before are not kept.
    """
    if ys is None:
        raise InputError("y is None: a missing value is NaN")
    _check_averages(model, exposure)
    _check_index(ys, time)
    frame = frame_of(ys)
    if frame is not None:
        time = column_of(frame, time) if isinstance(time, str) else time
        inputs = columns_of(frame, model.input_names, "input") if inputs is None and model.input_names else inputs
        ys = channels_of(frame, model.channel_names, named=isinstance(ys, Mapping))
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
    again = _taken_before(clock, timing, sequence, n)
    time = time if again == 0 or time is None else getattr(time, "iloc", time)[again:]
    passed, clock = elapsed(timing or Timing(model.continuous_time), clock, time, n - again)
    passed = passed._replace(kept=np.append(np.zeros(again, bool), passed.kept))
    v, sd, length = (None if a is None else a[passed.kept] for a in (v, sd, length))
    if length is not None:
        passed = _begun(passed, length, first=clock.taken == len(length))
    block = _record(n_series, dtype, y[passed.kept], passed.dt, clock.taken, v, sd, length)
    return block, clock, (layout or given) if n else layout, passed


def _taken_before(clock: Clock, timing: Timing | None, sequence: int | None, n: int) -> int:
    """How many of n rows, whose first has this number, were taken before."""
    if sequence is None:
        return 0
    if not isinstance(sequence, (int, np.integer)) or isinstance(sequence, bool) or sequence < 0:
        raise InputError(f"sequence={sequence!r}: expected the number of the observation, counted from 0")
    if timing is not None and isinstance(timing.late, Drop):
        raise InputError("sequence= counts observations that were taken, and late=Drop() does not take all of them")
    if sequence > clock.taken:
        raise InputError(
            f"sequence={sequence}: the engine has taken {clock.taken}, so number {clock.taken} is next: "
            f"{sequence - clock.taken} are missing in between"
        )
    return min(n, clock.taken - int(sequence))


def _record(
    n_series: int,
    dtype: str,
    y: np.ndarray,
    dt: np.ndarray,
    taken: int,
    inputs: np.ndarray | None,
    noise_sd: np.ndarray | None,
    exposure: np.ndarray | None,
) -> Observation:
    """Rows up to number ``taken``, spread over series."""

    def spread(a: Any, kind: Any) -> np.ndarray:
        return np.repeat(np.asarray(a, kind)[..., None], n_series, axis=-1)

    return Observation(
        y=spread(np.where(np.isnan(y), 0.0, y), dtype),
        mask=spread(~np.isnan(y), bool),
        dt=spread(dt, dtype),
        index=spread(np.arange(taken - len(y), taken), np.int64),
        inputs=None if inputs is None else spread(inputs, dtype),
        noise_sd=None if noise_sd is None else spread(noise_sd, dtype),
        exposure=None if exposure is None else spread(exposure, dtype),
    )


def future(  # noqa: PLR0913
    model: AbstractModel,
    n_series: int,
    dtype: str,
    layout: Layout | None,
    taken: int,
    dt: np.ndarray,
    *,
    inside: int = 0,
    inputs: Any = None,
    noise_sd: Any = None,
    exposure: Any = None,
) -> Observation:
    """Rows in which nothing is observed, with what a forecast needs of them.

    The first ``inside`` of them lie between observations, the time before them is not known here.
    """
    n, names = len(dt), model.channel_names
    _check_averages(model, exposure)
    given = Layout(noise_sd is not None, exposure is not None)
    if layout is not None and given != layout:
        raise InputError(f"the observations came with {_given(layout)}, the forecast with {_given(given)}")
    v = _inputs(model, inputs, n, "forecast")
    sd = None if noise_sd is None else _positive("noise_sd", noise_sd, names, n, "forecast")
    length = None if exposure is None else _positive("exposure", exposure, names, n, "forecast")
    if length is not None:
        known = np.where(np.arange(n) < inside, np.inf, dt)
        begun = _begun(Elapsed(np.ones(n, bool), np.zeros(n, bool), known, None), length, first=taken == 0).dt
        dt = np.where(np.isinf(known), dt, begun)
    return _record(n_series, dtype, np.full((n, len(names)), np.nan), dt, taken + n, v, sd, length)


def _check_averages(model: AbstractModel, exposure: Any) -> None:
    if exposure is not None and not model.averages:
        raise InputError(
            "exposure was given, but this model does not average over one; ss.models.GP(kernel, exposure=True) does"
        )


def _begun(passed: Elapsed, exposure: np.ndarray, first: bool) -> Elapsed:
    """Of rows with exposures, which end when their rows say: the very first one starts the clock, none overlap."""
    longest, dt = exposure.max(axis=1, initial=0.0), passed.dt.copy()
    if passed.late.any():
        raise InputError(
            f"exposure: row {int(np.argmax(passed.late))} is late; an engine with exposures takes no late "
            "observations, because others may have been open at their time"
        )
    if first and len(dt) and dt[0] == 0:
        dt[0] = longest[0]
    stamps = passed.stamps if passed.stamps is not None and passed.stamps.dtype.kind == "f" else np.zeros(len(dt))
    over = longest - dt > 1e-9 * longest + 4 * np.spacing(np.abs(stamps))
    if over.any():
        row = int(np.argmax(over))
        raise InputError(
            f"exposure: row {row} is an average over the last {longest[row]:g}, but the observation before it was "
            f"{dt[row]:g} earlier. Exposures end at the time of their observation, and those of an engine must not "
            "overlap; ss.gp.log_probability and ss.gp.condition take any"
        )
    return passed._replace(dt=dt)


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


def frame_of(data: Any) -> Any:
    """The data as a narwhals frame, or None when it is not tabular; mappings of columns count as tabular."""
    if isinstance(data, Mapping):
        return {str(k): numbers(str(k), v) for k, v in data.items()}
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
        hint = ', or give time=data.index to a model in continuous time, Engine(time_unit="1D")'
        fitting(stamps, (), "the index is irregular", np.arange(1, len(stamps)), hint)


def column_of(frame: dict[str, Any], name: str) -> Any:
    """A column by name, as it is."""
    if name not in frame:
        raise InputError(f"no column {name!r}: the columns are {', '.join(frame)}")
    column = frame[name]
    return column.to_native() if hasattr(column, "to_native") else column  # an array would forget the time zone


def channels_of(frame: dict[str, Any], channels: Sequence[str], named: bool) -> np.ndarray:
    """The channels by name; one column, not named by the user in a mapping, is the channel of a model that has one."""
    if len(channels) == 1 and len(frame) == 1 and not named:
        return np.stack([numbers(name, column) for name, column in frame.items()], axis=1)
    return columns_of(frame, channels, "channel")


def columns_of(frame: dict[str, Any], names: Sequence[str], kind: str) -> np.ndarray:
    """Columns of numbers by name, ``[t, column]``."""
    missing = [n for n in names if n not in frame]
    if missing:
        raise InputError(
            f"no column for the {kind}s {', '.join(missing)}: the columns are {', '.join(frame) or '(none)'}. Rename "
            "them, or give an array"
        )
    return np.stack([numbers(n, frame[n]) for n in names], axis=1)


def numbers(what: str, values: Any) -> np.ndarray:
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
    a, width = numbers(what, values), len(names)
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


def _inputs(model: AbstractModel, inputs: Any, n: int, rows: str = "observations") -> np.ndarray | None:
    names = model.input_names
    if not names:
        if inputs is not None:
            raise InputError("inputs were given, but this model reads none")
        return None
    if inputs is None:
        raise InputError(f"this model needs inputs for every row of the {rows}: {', '.join(names)}")
    frame = frame_of(inputs)
    v = _matrix("inputs", inputs if frame is None else columns_of(frame, names, "input"), names)
    if len(v) != n:
        raise InputError(f"inputs has {len(v)} rows, the {rows} {n}")
    if np.isnan(v).any():
        row, column = np.argwhere(np.isnan(v))[0]
        raise InputError(f"inputs: row {row} of {names[column]} is missing; only observations may be")
    return v


def _positive(what: str, values: Any, names: Sequence[str], n: int, rows: str = "observations") -> np.ndarray:
    """One number is that of all rows and channels."""
    one = np.ndim(values) == 0
    a = _matrix(what, np.broadcast_to(numbers(what, values), (n, len(names))) if one else values, names)
    if len(a) != n:
        raise InputError(f"{what} has {len(a)} rows, the {rows} {n}")
    if not (a >= 0).all():
        row = int(np.argwhere(~(a >= 0))[0][0])
        raise InputError(f"{what}: row {row} is {a[row]}; expected numbers >= 0")
    return a


def _given(layout: Layout) -> str:
    return ", ".join(name for name, present in layout._asdict().items() if present) or "neither"
