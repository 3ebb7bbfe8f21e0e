"""Several rows of many series at once: arrays, long frames with a column of names, wide ones with a column per series.

Series are independent, so rows of a long frame are counted per series: row j of the block has the j-th row of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from smcssm.core import AbstractModel
from smcssm.errors import InputError
from smcssm.fleets.rows import Block, along, checked, mask_of
from smcssm.fleets.runtime import listed
from smcssm.fleets.times import stamps_for
from smcssm.ingest import channels_of, column_of, columns_of, frame_of, numbers


def block_of_many(
    model: AbstractModel,
    names: Sequence[Any],
    data: Any,
    *,
    series: str | None = None,
    reported: Any = None,
    time: Any = None,
    inputs: Any = None,
    noise_sd: Any = None,
) -> Block:
    """All rows of ``data``; ``series`` names the column of names that makes it a long frame."""
    if series is not None:
        if reported is not None:
            raise InputError("reported: in a long frame series that did not report have no row")
        if inputs is not None:
            raise InputError("inputs: in a long frame they are columns, by the names that the model gives them")
        return checked(model, names, _long(model, names, data, series, time, noise_sd))
    y, time = _wide(model, names, data, time)
    n, there = len(y), np.ones(y.shape[:2], bool)
    if reported is not None:
        there = there & mask_of(reported, names, n)
    v = None if inputs is None else along("inputs", inputs, n, names, model.input_names)
    sd = None if noise_sd is None else along("noise_sd", noise_sd, n, names, model.channel_names)
    stamps = (None, None) if time is None else stamps_for(time, (n, len(names)))
    return checked(model, names, Block(y, there, v, sd, *stamps))


def _wide(model: AbstractModel, names: Sequence[Any], data: Any, time: Any) -> tuple[np.ndarray, Any]:
    """Values ``[t, s, y]``, and time where it is a column."""
    ny = len(model.channel_names)
    if hasattr(data, "dims") and hasattr(data, "to_pandas") and len(data.dims) == 2:
        ours = [d for d in data.dims if d in data.coords and set(data.coords[d].values.tolist()) == set(names)]
        data = data.transpose(..., ours[0]) if ours else data
    if hasattr(data, "columns") and hasattr(data, "rename") and all(isinstance(c, int) for c in data.columns):
        data = data.rename(columns=str)  # of pandas; narwhals wants text
    frame = frame_of(data)
    if frame is None:
        y = numbers("ys", data)
        y = y[..., None] if y.ndim == 2 and ny == 1 else y
        if y.ndim != 3 or y.shape[1:] != (len(names), ny):
            expected = f"(rows, {len(names)})" if ny == 1 else f"(rows, {len(names)}, {ny})"
            raise InputError(f"ys has shape {np.shape(data)}: expected {expected}; one row is a matter for step()")
        return y, time
    if isinstance(time, str):
        column = column_of(frame, time)
        frame, time = {name: c for name, c in frame.items() if name != time}, column
    if ny > 1:
        raise InputError(
            f"a wide frame has one column per series, this model {ny} channels ({', '.join(model.channel_names)}): "
            "give a long frame with series=, or an array (rows, series, channels)"
        )
    texts = [str(name) for name in names]
    if set(frame) != set(texts):
        odd, absent = [c for c in frame if c not in texts], [t for t in texts if t not in frame]
        wrong = " and ".join(f"{what} {listed(which)}" for what, which in (("has", odd), ("lacks", absent)) if which)
        raise InputError(
            f"a wide frame has one column for each series; this one {wrong}. Of a long frame say which column holds "
            'the names: series="..."'
        )
    return columns_of(frame, texts, "series")[..., None], time


def _long(model: AbstractModel, names: Sequence[Any], data: Any, series: str, time: Any, noise_sd: Any) -> Block:
    """One observation of one series per line."""
    columns = dict(data) if isinstance(data, Mapping) else frame_of(data)
    if columns is None:
        raise InputError(f"series={series!r} is a column of a frame; got {type(data).__name__}")
    labels = column_of(columns, series)
    place = _places(labels.to_list() if hasattr(labels, "to_list") else list(labels), names)
    stamps, zone = None, None
    if time is not None:
        stamps, zone = stamps_for(column_of(columns, time) if isinstance(time, str) else time, (len(place), 1))
    sd = column_of(columns, noise_sd) if isinstance(noise_sd, str) else noise_sd
    apart = {series, time if isinstance(time, str) else None, noise_sd if isinstance(noise_sd, str) else None}
    left = {name: column for name, column in columns.items() if name not in apart | set(model.input_names)}
    y = channels_of(left, model.channel_names, named=False)
    v = columns_of(columns, model.input_names, "input") if model.input_names else None
    if sd is not None:
        sd = np.broadcast_to(np.reshape(numbers("noise_sd", sd), (-1, 1)), y.shape)

    order = np.argsort(place, kind="stable") if stamps is None else np.lexsort((stamps[:, 0], place))
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    row = np.zeros(len(place), int)
    row[order] = np.arange(len(place)) - np.repeat(starts, np.diff(np.append(starts, len(place))))

    def laid_out(a: np.ndarray, missing: Any = np.nan) -> np.ndarray:
        out = np.full((row.max(initial=-1) + 1, len(names), *a.shape[1:]), missing, a.dtype)
        out[row, place] = a
        return out

    there = laid_out(np.ones(len(place), bool), False)
    if stamps is not None:
        stamps = laid_out(stamps[:, 0], np.datetime64("NaT", "ns") if stamps.dtype.kind == "M" else np.nan)
    v, sd = (None if a is None else laid_out(a) for a in (v, sd))
    return Block(laid_out(y), there, v, sd, stamps, zone)


def _places(labels: list[Any], names: Sequence[Any]) -> Int[np.ndarray, " r"]:
    known = {name: i for i, name in enumerate(names)}
    unknown = [label for label in dict.fromkeys(labels) if label not in known]
    if unknown:
        raise InputError(f"the fleet has no series {listed(unknown)}; it has {listed(names)}. fleet.add() adds some")
    return np.asarray([known[label] for label in labels], int)
