"""The journal of a fleet: every row as it was given, and what became of it in each series.

    y reported inputs noise_sd time    as given; values of a series that did not report are nothing
    taken mask dt surprising           which series took it, what was left of it then, the time since their last one
    released                           a record of no row: these series left quarantine, maybe none of them, and
                                       ``surprising`` marks it, which series that took nothing never are

What was given lets rows be taken once more; what became of it gives back the histories of series without that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from smcssm.core import Observation
from smcssm.fleets.histories import Histories
from smcssm.fleets.rows import Block
from smcssm.fleets.times import check_kind
from smcssm.history import SEGMENT, TIMES, Columns, Store

RELEASED = "released"
OPTIONAL = ("inputs", "noise_sd")


class Outcome(NamedTuple):
    """What became of a row."""

    taken: Bool[np.ndarray, " s"]
    mask: Bool[np.ndarray, "y s"]
    dt: Float[np.ndarray, " s"]
    surprising: Bool[np.ndarray, " s"]


def columns(block: Block, outcomes: Sequence[Outcome]) -> Columns:
    """Rows and what became of them; of those that were not, nothing is told."""
    taken, mask, dt, surprising = (np.stack(leaves) for leaves in zip(*outcomes, strict=True))
    given = {name: getattr(block, name) for name in OPTIONAL} | {TIMES: block.stamps}
    return {
        "y": block.y,
        "reported": block.reported,
        **{name: column for name, column in given.items() if column is not None},
        "taken": taken,
        "mask": mask & taken[:, None],
        "dt": np.where(taken, dt, 0.0).astype(dt.dtype),
        "surprising": surprising & taken,
        RELEASED: np.zeros_like(taken),
    }


def release_of(store: Store, series: Bool[np.ndarray, " s"]) -> Columns:
    """The record that series were released, in the columns of a journal that has rows."""
    blank = {name: np.zeros_like(column) for name, column in store.read(0, 1).items()}
    return blank | {RELEASED: series[None], "surprising": np.ones_like(series[None])}


def block_of(rows: Columns, zone: str | None) -> Block:
    """Rows as they were given."""
    timed = {"stamps": rows[TIMES], "zone": zone} if TIMES in rows else {"stamps": None}
    return Block(rows["y"], rows["reported"], rows.get("inputs"), rows.get("noise_sd"), **timed)


def check_columns(store: Store, block: Block, zone: str | None) -> None:
    """That a block fits the columns that a journal has; before any row is taken."""
    known, stamps = store.read(0, 1).get(TIMES) if len(store) else None, block.stamps
    had = False if not len(store) else None if known is None else known.dtype.kind
    check_kind(had, None if stamps is None else stamps.dtype.kind, zone, block.zone)


def calls(store: Store, start: int, zone: str | None) -> Iterator[tuple[Block | None, Bool[np.ndarray, " s"]]]:
    """What was done from record ``start`` on: blocks of rows, or None and the series that were released."""
    while start < len(store):
        rows = store.read(start, min(start + SEGMENT, len(store)))
        marks = np.flatnonzero((rows[RELEASED] | (rows["surprising"] & ~rows["taken"])).any(axis=1))
        count = int(marks[0]) if len(marks) else len(rows["y"])
        yield (block_of({n: c[:count] for n, c in rows.items()}, zone) if count else None), rows[RELEASED][0]
        start += max(count, 1)


def histories_of(
    store: Store, length: int, n_series: int, needed: int | None, dtype: str
) -> tuple[Histories, Int[np.ndarray, " s"]]:
    """What series remember of the first records, and how much that is of each; no more than ``needed``."""
    histories, lengths = Histories(), np.zeros(n_series, np.int64)
    for start in range(0, length, SEGMENT):
        rows = store.read(start, min(start + SEGMENT, length))
        for i in np.flatnonzero(rows["taken"].any(axis=1)).tolist():
            taken = rows["taken"][i] if needed is None else rows["taken"][i] & (lengths < needed)
            histories.append(_record(rows, i, lengths, dtype), taken, lengths, rows["surprising"][i])
            lengths = lengths + taken
    return histories, lengths


def _record(rows: Columns, i: int, lengths: Int[np.ndarray, " s"], dtype: str) -> Observation:
    """As the population has taken it."""
    mask, taken = rows["mask"][i], rows["taken"][i]
    given: dict[str, Any] = {name: rows[name][i].T for name in OPTIONAL if name in rows}
    return Observation(
        y=np.where(mask, rows["y"][i].T, 0.0).astype(dtype),
        mask=mask,
        dt=rows["dt"][i],
        index=lengths,
        **{name: np.where(taken, column, 0.0).astype(dtype) for name, column in given.items()},
    )
