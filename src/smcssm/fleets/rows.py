"""From what a user has of many series to rows of observation records; complaints about it are made here.

A value that is NaN is missing: time passed. A series that is absent did not report: nothing happens to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from smcssm.clock import Timing
from smcssm.core import AbstractModel, Observation
from smcssm.errors import InputError
from smcssm.fleets.runtime import FleetRuntime, State, listed, named
from smcssm.fleets.times import Seen, stamps_for, times_passed
from smcssm.ingest import Layout, numbers


class Block(NamedTuple):
    """Rows of all series, time first: values, who reported, and what came with them. Stamps are NaN where unknown."""

    y: Float[np.ndarray, "t s y"]
    reported: Bool[np.ndarray, "t s"]
    inputs: Float[np.ndarray, "t s v"] | None
    noise_sd: Float[np.ndarray, "t s y"] | None
    stamps: np.ndarray | None
    zone: str | None = None


def block_of_one(model: AbstractModel, names: Sequence[Any], ys: Any, reported: Any, **given: Any) -> Block:
    """One row: an array over series, or a mapping by name."""
    if ys is None:
        raise InputError("ys is None: a missing value is NaN, and a series that did not report is left out")
    y, there = spread("ys", ys, names, len(model.channel_names), model.channel_names)
    if reported is not None:
        there = there & mask_of(reported, names)
    fields = {
        what: None if given.get(what) is None else _of_one(what, given[what], names, model, there)
        for what in ("inputs", "noise_sd")
    }
    time = given.get("time")
    stamps = (None, None) if time is None else stamps_for(_by_name("time", time, names), (1, len(names)))
    return checked(model, names, Block(y[None], there[None], fields["inputs"], fields["noise_sd"], *stamps))


def _of_one(what: str, value: Any, names: Sequence[Any], model: AbstractModel, there: np.ndarray) -> np.ndarray:
    """What came with one row, ``[1, s, w]``: the same for all series, or each its own."""
    columns = model.input_names if what == "inputs" else model.channel_names
    _check_read(columns)
    shape = np.shape(value)
    if not isinstance(value, Mapping) and shape in ((), (len(columns),)) and shape != (len(names),):
        value = np.broadcast_to(numbers(what, value), (len(names), len(columns)))
    a, given = spread(what, value, names, len(columns), columns)
    if (lacking := there & ~given).any():
        raise InputError(f"{what}: {named(names, lacking)} reported without any")
    return a[None]


def spread(
    what: str, values: Any, names: Sequence[Any], width: int, columns: Sequence[str]
) -> tuple[Float[np.ndarray, "s w"], Bool[np.ndarray, " s"]]:
    """Values of every series ``[s, w]``, NaN where there are none, and which series have any."""
    values = _by_name(what, values, names, whole=False)
    n = len(names)
    if isinstance(values, Mapping):
        place = {name: i for i, name in enumerate(names)}
        rows = [place[name] for name in values]
        out, there = np.full((n, width), np.nan), np.zeros(n, bool)
        if rows:
            given = [_columns_in_order(what, v, columns) if isinstance(v, Mapping) else v for v in values.values()]
            out[rows] = _table(what, given, len(rows), width)
            there[rows] = True
        return out, there
    return _table(what, values, n, width), np.ones(n, bool)


def _by_name(what: str, values: Any, names: Sequence[Any], whole: bool = True) -> Any:
    """A pandas series that is labelled by names as a mapping; names of a mapping that are none refused."""
    if hasattr(values, "index") and hasattr(values, "to_dict") and not callable(values.index):
        labels = list(values.index)
        if labels != list(range(len(names))) or list(names) == labels:
            values = dict(zip(labels, values.tolist(), strict=True))
    if not isinstance(values, Mapping):
        return values
    known = set(names)
    if unknown := [name for name in values if name not in known]:
        raise InputError(
            f"{what}: the fleet has no series {', '.join(map(repr, unknown[:5]))}{' ...' if len(unknown) > 5 else ''}; "
            f"it has {listed(names)}. fleet.add() adds some"
        )
    if not whole:
        return values
    missing = np.datetime64("NaT", "ns") if any(not isinstance(v, (int, float)) for v in values.values()) else np.nan
    return np.asarray([values.get(name, missing) for name in names])


def _columns_in_order(what: str, value: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    if set(value) != set(columns):
        raise InputError(f"{what}: got {', '.join(map(str, value))} of a series, expected {', '.join(columns)}")
    return [value[c] for c in columns]


def _table(what: str, values: Any, n: int, width: int) -> Float[np.ndarray, "n w"]:
    a = numbers(what, values)
    if a.shape == (n,) and width == 1:
        a = a[:, None]
    if a.shape != (n, width):
        expected = f"({n},), a number for each series" if width == 1 else f"({n}, {width}), a row for each series"
        raise InputError(f"{what} has shape {a.shape}: expected {expected}; or a mapping from names of series")
    return a


def mask_of(reported: Any, names: Sequence[Any], *rows: int) -> Bool[np.ndarray, "*t s"]:
    """Who reported: booleans in the order of the series, of one row or of so many; or the names of those that did."""
    a = np.asarray(reported) if not isinstance(reported, (set, frozenset)) else np.asarray(sorted(reported, key=str))
    if a.dtype == bool and a.shape in ((len(names),), (*rows, len(names))):
        return a
    known = {name: i for i, name in enumerate(names)}
    labels = a.ravel().tolist()
    if a.dtype == bool or not all(name in known for name in labels):
        wrong = f"an array of shape {a.shape}" if a.dtype == bool else repr(next(x for x in labels if x not in known))
        raise InputError(
            f"reported: got {wrong}; expected {' x '.join(map(str, (*rows, len(names))))} booleans, or names of the "
            f"series that did: {listed(names)}"
        )
    out = np.zeros(len(names), bool)
    out[[known[name] for name in labels]] = True
    return out


def checked(model: AbstractModel, names: Sequence[Any], block: Block) -> Block:
    """The block, where it can be taken: finite values, inputs that are there, noise that is not negative."""
    shown = block.reported
    if (wrong := np.isinf(block.y).any(axis=-1) & shown).any():
        raise InputError(f"ys: {_first(names, wrong)} is infinite; a missing value is NaN")
    if model.input_names and block.inputs is None:
        raise InputError(f"this model needs inputs with every observation: {', '.join(model.input_names)}")
    if block.inputs is not None and (wrong := ~np.isfinite(block.inputs).all(axis=-1) & shown).any():
        raise InputError(f"inputs: {_first(names, wrong)} lacks some; only observations may be missing")
    if block.noise_sd is not None and (wrong := ~(block.noise_sd >= 0).all(axis=-1) & shown).any():
        raise InputError(f"noise_sd: {_first(names, wrong)} has a negative one, or none; expected numbers >= 0")
    return block


def _check_read(columns: Sequence[str]) -> None:
    if not columns:
        raise InputError("inputs were given, but this model reads none")


def _first(names: Sequence[Any], wrong: Bool[np.ndarray, "t s"]) -> str:
    row, series = np.argwhere(wrong)[0]
    return f"series {names[series]!r}" + (f" in row {row}" if len(wrong) > 1 else "")


def along(what: str, values: Any, n: int, names: Sequence[Any], columns: Sequence[str]) -> np.ndarray:
    """What comes with every observation, ``[t, s, w]``: one row for all series, or each its own."""
    _check_read(columns)
    a, width = numbers(what, values), len(columns)
    if width == 1 and a.shape in ((n,), (n, len(names))):
        a = a[..., None]
    a = a[:, None] if a.ndim == 2 else a
    try:
        return np.broadcast_to(a, (n, len(names), width))
    except ValueError:
        raise InputError(
            f"{what} has shape {np.shape(values)}: expected ({n}, {width}), or ({n}, {len(names)}, {width})"
        ) from None


class Recorder:
    """Makes the records of a block, row by row, in a fleet as it is by then."""

    def __init__(self, block: Block, names: Sequence[Any], dtype: str, timing: Timing) -> None:
        self._block, self._names, self._dtype, self._timing = block, names, dtype, timing
        self._layout = Layout(block.noise_sd is not None, exposure=False)

    def __len__(self) -> int:
        return len(self._block.y)

    def row(self, i: int, state: State) -> tuple[Observation, State]:
        """The record of row i, and the state with what is known of time and layout then."""
        block, layout = self._block, self._layout
        if state.layout is not None and state.layout != layout:
            was = "with" if state.layout.noise_sd else "without"
            raise InputError(f"noise_sd is given with every observation of a fleet or with none: earlier {was} it")
        reported = block.reported[i] & (state.quarantine == 0)
        stamps = None if block.stamps is None else block.stamps[i]
        seen = Seen(state.taken, state.last, state.zone)
        dt, last = times_passed(self._timing, seen, stamps, block.zone, reported, self._names)
        y = block.y[i].T
        mask = ~np.isnan(y) & reported
        observation = Observation(
            y=np.where(mask, y, 0.0).astype(self._dtype),
            mask=mask,
            dt=dt.astype(self._dtype),
            index=state.taken,
            inputs=self._along(block.inputs, i, reported),
            noise_sd=self._along(block.noise_sd, i, reported),
            reported=reported,
        )
        zone = state.zone if block.stamps is None else block.zone
        return observation, state._replace(last=last, zone=zone, layout=layout)

    def _along(self, a: np.ndarray | None, i: int, reported: np.ndarray) -> np.ndarray | None:
        return None if a is None else np.where(reported, a[i].T, 0.0).astype(self._dtype)


def unseen(runtime: FleetRuntime, h: int, inputs: Any, noise_sd: Any) -> Observation:
    """The next h records of every series, in which nothing is observed."""
    state, smc = runtime.state, runtime.smc
    model, names = smc.filter.model, state.names
    if state.layout is not None and state.layout.noise_sd != (noise_sd is not None):
        was, now = ("with", "without") if state.layout.noise_sd else ("without", "with")
        raise InputError(f"the observations came {was} noise_sd, the forecast {now}")
    v = None if inputs is None else along("inputs", inputs, h, names, model.input_names)
    sd = None if noise_sd is None else along("noise_sd", noise_sd, h, names, model.channel_names)
    y = np.full((h, len(names), len(model.channel_names)), np.nan)
    block = checked(model, names, Block(y, np.ones(y.shape[:2], bool), v, sd, None))
    dt = np.ones((h, len(names)))
    dt[0, (state.taken == 0)] = 0.0
    index = state.taken + np.arange(h)[:, None]
    blank = np.zeros((h, y.shape[2], len(names)), smc.dtype)
    v, sd = (None if a is None else np.moveaxis(a, 1, -1).astype(smc.dtype) for a in (block.inputs, block.noise_sd))
    return Observation(y=blank, mask=blank > 0, dt=dt.astype(smc.dtype), index=index, inputs=v, noise_sd=sd)
