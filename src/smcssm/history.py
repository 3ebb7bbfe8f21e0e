"""The journal: every observation so far, on the host, read back in chunks of one fixed size.

Append-only: rows are never altered. Where they are kept is a ``Store``'s affair: in memory (here) or in a file
(``journal``). Because a chunk always has ``CHUNK`` rows, programs that replay history are compiled once, however long
the stream.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from smcssm.core import Observation
from smcssm.timeline import Timeline, moments

CHUNK = 256
SEGMENT = 16 * CHUNK
MARKS, TIMES = "surprising", "time"

Columns = dict[str, np.ndarray]
"""Rows as one array per leaf of the observation record, time first, one of marks, and for a timeline one of times."""


class Chunk(NamedTuple):
    """Rows of history, always as many, of which ``length`` count; ``pooled`` marks rows still partly pending."""

    rows: Observation
    pooled: Bool[np.ndarray, "t s"]
    length: int


class Store(abc.ABC):
    """Where rows are kept. Those not committed yet are of a call that is running, and may be truncated again."""

    path: Path | None = None
    """The folder that outlives this process, if there is one."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """The columns; fixed by the first row."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Rows, committed or not."""

    @abc.abstractmethod
    def append(self, columns: Columns) -> None:
        """Add rows."""

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> Columns:
        """Rows start to stop; past the last they hold nothing that counts."""

    @abc.abstractmethod
    def truncate(self, length: int) -> None:
        """Forget rows from ``length`` on."""

    @abc.abstractmethod
    def commit(self, length: int) -> None:
        """The first ``length`` rows are there to stay. After an exception ``truncate`` to what was there before."""

    def note(self, **words: Any) -> None:
        """What is to be told of the rows, before the first is committed. A hook: memory tells nothing."""
        del words

    def sync(self) -> None:
        """Wait until what is committed is safe. A hook: memory never is."""
        return

    def close(self) -> None:
        """Let others write. A hook: nobody else can."""
        return

    def seal(self, length: int) -> int | None:
        """What the first ``length`` rows are known by. A hook: in memory nobody can exchange them."""
        del length
        return None


class Memory(Store):
    """A list of segments of columns, so that appending never copies what is there."""

    def __init__(self) -> None:
        self._segments: list[Columns] = []
        self._length = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self._segments[0]) if self._segments else ()

    def __len__(self) -> int:
        return self._length

    def append(self, columns: Columns) -> None:
        """Add rows."""
        count, taken = len(columns[MARKS]), 0
        while taken < count:
            segment, place = divmod(self._length, SEGMENT)
            if segment == len(self._segments):
                self._segments.append({n: np.zeros((SEGMENT, *c.shape[1:]), c.dtype) for n, c in columns.items()})
            size = min(count - taken, SEGMENT - place)
            for name, column in self._segments[segment].items():
                column[place : place + size] = columns[name][taken : taken + size]
            taken, self._length = taken + size, self._length + size

    def read(self, start: int, stop: int) -> Columns:
        """Rows start to stop: of one segment, a view."""
        first, last = start // SEGMENT, max(start, stop - 1) // SEGMENT
        pieces = [
            {n: c[max(0, start - i * SEGMENT) : stop - i * SEGMENT] for n, c in segment.items()}
            for i, segment in enumerate(self._segments[first : last + 1], start=first)
        ]
        if missing := stop - start - sum(len(p[MARKS]) for p in pieces):  # past the last segment
            pieces.append({n: np.zeros((missing, *c.shape[1:]), c.dtype) for n, c in pieces[0].items()})
        return pieces[0] if len(pieces) == 1 else {n: np.concatenate([p[n] for p in pieces]) for n in self.names}

    def truncate(self, length: int) -> None:
        """Forget rows from ``length`` on."""
        self._length = min(length, self._length)
        if self._length == 0:
            self._segments = []

    def commit(self, length: int) -> None:
        """Nothing to do."""


class ReadOnly(Store):
    """Rows that are kept elsewhere, as a move sees them."""

    def append(self, columns: Columns) -> None:
        """Refused."""
        raise TypeError("this view of a history is read only")

    def truncate(self, length: int) -> None:
        """Refused."""
        raise TypeError("this view of a history is read only")

    def commit(self, length: int) -> None:
        """Refused."""
        raise TypeError("this view of a history is read only")


class Some(ReadOnly):
    """Some series of a store."""

    def __init__(self, store: Store, series: Int[np.ndarray, " b"]) -> None:
        self._store, self._series = store, series

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return self._store.names

    def __len__(self) -> int:
        return len(self._store)

    def read(self, start: int, stop: int) -> Columns:
        """Rows start to stop."""
        return {
            name: column if name == TIMES else column[..., self._series]
            for name, column in self._store.read(start, stop).items()
        }


class View(NamedTuple):
    """All of history at once, in chunks: leaves [c, t, ...]; rows from ``length`` on are padding."""

    rows: Observation
    pooled: Bool[np.ndarray, "c t s"]
    length: int


class History:
    """Rows in a store, one column per leaf of the observation record.

    A further column marks, per series, the rows that came as a surprise. Those that are still partly pending are the
    marked ones from some row on; which row that is, a schedule knows.

    With a ``timeline`` history is replayed in the order of times: ``chunks``, ``view`` and ``take`` then count
    positions in it, ``rows`` and everything else rows as they arrived.
    """

    def __init__(self, store: Store | None = None, timeline: Timeline | None = None) -> None:
        self._store = Memory() if store is None else store
        self.timeline = timeline

    def __len__(self) -> int:
        return len(self._store)

    @property
    def path(self) -> Path | None:
        """The folder of the journal, if it is on disk."""
        return self._store.path

    @property
    def newest_is_late(self) -> bool:
        """Whether the row that arrived last is not the last one in the order of times."""
        line, last = self.timeline, len(self) - 1
        return line is not None and len(line) > 0 and int(line.numbers(np.asarray([last]))[0]) != last

    @property
    def first(self) -> Observation:
        """The first row."""
        return jax.tree.map(lambda leaf: leaf[0], self.rows(0, 1))

    def append(
        self,
        block: Observation,
        count: int,
        surprising: Bool[np.ndarray, "t s"] | None = None,
        times: np.ndarray | None = None,
    ) -> None:
        """Add the first ``count`` rows of a block, with their times if they have any."""
        columns = {name: column[:count] for name, column in _columns(block, surprising).items()}
        if times is not None and (len(self) == 0 or TIMES in self._store.names):  # older checkpoints kept none
            columns[TIMES] = times[:count]
        if len(self) and tuple(columns) != self._store.names:
            raise ValueError("the optional leaves of an observation record are there for all of a journal, or never")
        self._store.append(columns)
        if self.timeline is not None and times is not None:
            self.timeline.extend(times[:count])

    def commit(self, length: int, **words: Any) -> None:
        """The first ``length`` rows are there to stay. After an exception ``truncate`` to what was there before.

        Words are for ``note``.
        """
        self._store.note(**words)
        self._store.commit(length)

    def note(self, **words: Any) -> None:
        """What is to be told of the rows to those who find a journal; once the first is committed it is too late."""
        self._store.note(**words)

    def sync(self) -> None:
        """Wait until what is committed is safe."""
        self._store.sync()

    def close(self) -> None:
        """Take no more rows, and let others write to the folder."""
        self._store.close()

    def seal(self, length: int) -> int | None:
        """What the first ``length`` rows are known by, on disk."""
        return self._store.seal(length)

    def columns(self, start: int, stop: int) -> Columns:
        """All that is kept of rows start to stop."""
        return self._store.read(start, stop) if stop > start else {}

    def retake(self, store: Store) -> None:
        """Keep rows in a store that holds the same ones."""
        self._store = store

    def restore(self, columns: Columns) -> None:
        """Of a history without rows: all that was kept of some."""
        if columns:
            self._store.append(columns)
            self._store.commit(len(self))
            if self.timeline is not None:
                self.timeline.extend(columns[TIMES])

    def truncate(self, length: int) -> None:
        """Forget rows from ``length`` on: those of a call that failed."""
        self._store.truncate(length)
        if self.timeline is not None:
            self.timeline.truncate(length)

    def blank(self) -> History:
        """One without rows, in memory."""
        return History(timeline=None if self.timeline is None else self.timeline.blank())

    def copy(self) -> History:
        """An independent journal with the same rows, in memory."""
        new = History(timeline=None if self.timeline is None else self.timeline.copy())
        for start in range(0, len(self), SEGMENT):
            new._store.append(self._store.read(start, min(start + SEGMENT, len(self))))
        return new

    def of(self, series: Int[np.ndarray, " b"]) -> History:
        """The history of some series alone, to read from."""
        return History(Some(self._store, series), self.timeline)

    def rows(self, start: int = 0, stop: int | None = None) -> Observation:
        """Rows start to stop, as they arrived."""
        return self._read(start, len(self) if stop is None else min(stop, len(self)))[0]

    def stamps(self, stop: int) -> np.ndarray | None:
        """The times of rows as they arrived, before row ``stop``: numbers or datetime64; None where there are none."""
        if stop == 0 or TIMES not in self._store.names:
            return None
        return moments(self._store.read(0, stop)[TIMES][:stop])

    def in_order(self, length: int) -> Observation:
        """The rows that arrived first, by their place in time; ``index`` says as which observation a row arrived."""
        then = self
        if self.timeline is not None and len(self.timeline) > length:  # of rows that came later some are among them
            line = self.timeline.copy()
            line.truncate(length)
            then = History(self._store, line)
        return then.replayed(0, length)[0]

    def _read(self, start: int, stop: int) -> tuple[Observation, Bool[np.ndarray, "t s"]]:
        """Rows start to stop, and their marks."""
        if len(self) == 0:
            raise IndexError("the history is empty")
        columns = self._store.read(start, stop)
        marks = columns.pop(MARKS)
        columns.pop(TIMES, None)
        return Observation(**columns), marks

    def chunks(
        self,
        since: Int[np.ndarray, " s"],
        size: int = CHUNK,
        *,
        start: int = 0,
        stop: int | None = None,
        unseen: int | None = None,
    ) -> Iterator[Chunk]:
        """History from start to stop, oldest first; row ``unseen``, if there is one, as if its values were missing.

        Of each series, surprises from row ``since`` on are pooled. ``size`` rows at a time: CHUNK, or a multiple that
        divides SEGMENT.
        """
        end = len(self) if stop is None else stop
        for first in range(start, end, size):
            rows, marks, numbers = self.replayed(first, first + size)
            if unseen is not None:
                mask = rows.mask & (numbers != unseen)[:, None, None]
                rows = replace(rows, mask=mask, y=np.where(mask, rows.y, 0.0).astype(rows.y.dtype))
            yield Chunk(rows, marks & (numbers[:, None] >= since), min(size, end - first))

    def replayed(self, start: int, stop: int) -> tuple[Observation, Bool[np.ndarray, "t s"], Int[np.ndarray, " t"]]:
        """Positions start to stop, past the end they hold nothing that counts: rows, their marks and numbers."""
        if self.timeline is None or len(self.timeline) == 0:
            return *self._read(start, stop), np.arange(start, stop)
        positions = np.minimum(np.arange(start, stop), len(self) - 1)
        numbers = self.timeline.numbers(positions)
        first = int(numbers.min())
        rows, marks = jax.tree.map(lambda leaf: leaf[numbers - first], self._read(first, int(numbers.max()) + 1))
        dt = self.timeline.dt(positions).astype(rows.dt.dtype)
        return replace(rows, dt=np.repeat(dt[:, None], rows.dt.shape[1], axis=1)), marks, numbers

    def view(self, since: Int[np.ndarray, " s"]) -> View:
        """The same as one array per leaf, for programs that go through history more than once.

        Room for a segment, or two, four, ...: a program that takes it is compiled once per doubling.
        """
        chunks = list(self.chunks(since))
        room = (SEGMENT // CHUNK) << (-(-len(self) // SEGMENT) - 1).bit_length()
        padding = [jax.tree.map(np.zeros_like, chunks[0])] * (room - len(chunks))
        rows, pooled, _ = jax.tree.map(lambda *leaves: np.stack(leaves), *chunks, *padding)
        return View(rows, pooled, len(self))

    def take(
        self, numbers: Int[np.ndarray, "r s"], since: Int[np.ndarray, " s"], block: Observation
    ) -> tuple[Observation, Bool[np.ndarray, "r s"]]:
        """Rows by position, each series its own, and whether they are pooled; past the end positions are of ``block``.

        The rows of the block are not marked yet.
        """
        following, positions = _columns(block), numbers
        if self.timeline is not None and len(self.timeline):
            here = positions < len(self)
            numbers = np.where(here, self.timeline.numbers(np.where(here, positions, 0)), positions)
        out = {n: np.zeros((len(numbers), *column.shape[1:]), column.dtype) for n, column in following.items()}
        for here, columns, start in [*self._runs(numbers), (numbers >= len(self), following, len(self))]:
            row, series = np.nonzero(here)
            place = np.minimum(numbers[row, series] - start, len(columns[MARKS]) - 1)
            for name, target in out.items():
                target[row, ..., series] = columns[name][place, ..., series]
        marks = out.pop(MARKS)
        out.pop(TIMES, None)
        if self.timeline is not None and len(self.timeline):
            here = positions < len(self)
            out["dt"] = np.where(here, self.timeline.dt(np.where(here, positions, 0)), out["dt"]).astype(block.dt.dtype)
        return Observation(**out), marks & (numbers >= since)

    def _runs(self, numbers: Int[np.ndarray, "r s"]) -> Iterator[tuple[Bool[np.ndarray, "r s"], Columns, int]]:
        """Of each segment that is asked for: which numbers lie in it, the rows they span, and the first's number."""
        segments = np.where(numbers < len(self), numbers // SEGMENT, -1)
        for segment in np.unique(segments[segments >= 0]):
            here = segments == segment
            start, stop = int(numbers[here].min()), int(numbers[here].max()) + 1
            yield here, self._store.read(start, stop), start


def _columns(block: Observation, marks: Bool[np.ndarray, "t s"] | None = None) -> Columns:
    """A block by column."""
    columns = {name: leaf for name, leaf in vars(block).items() if leaf is not None}
    return columns | {MARKS: np.zeros(block.dt.shape, bool) if marks is None else marks}


def pad(block: Observation, length: int) -> Observation:
    """A block with zero rows appended up to ``length``."""

    def extend(leaf: np.ndarray) -> np.ndarray:
        if len(leaf) == length:
            return leaf
        out = np.zeros((length, *leaf.shape[1:]), leaf.dtype)
        out[: len(leaf)] = leaf
        return out

    return jax.tree.map(extend, block)
