"""The journal on disk: a folder that outlives the process and holds every observation that was committed.

    header.json   what the rows are of, and their columns: written whole before the first row, then left alone
    rows.bin      one record per row (``records``); a call is a batch, written and sealed when it is committed
    checkpoints/  the engine as it was after some of these rows, so that a resumed one need not take them all again
    lock          held by the one engine that writes

So a call that failed, or that a crash cut short, leaves nothing that counts, and the seals show any row or header that
was altered. (Calls cut off at the end look like calls that never were: only who knows their number can tell.)

When the process is killed, nothing is lost of the calls that had returned: the operating system has the bytes. (The
call that was about to return may be there as well: whole, or not at all.) When the power goes, what had not been
brought to the disk is lost: see ``Journal.fsync``.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smcssm.core import Observation
from smcssm.errors import JournalError, ModelError
from smcssm.files import LOCK, TEMPORARY, Lock, folder, sweep, whole, why
from smcssm.history import Columns, History, Store
from smcssm.records import SEAL, RecordFile, described, record_type, seal

FORMAT = 1
HEADER, ROWS, CHECKPOINTS = "header.json", "rows.bin", "checkpoints"


@dataclass(frozen=True)
class Journal:
    """Where an engine keeps its observations, and how soon they are safe from a power cut.

    Attributes:
        path: a folder that is empty or does not exist yet.
        fsync: a call that ends so many seconds after the last sync, or later, waits until the disk has its rows and
            all before them. 0 syncs every call, ``math.inf`` only the first. Without a sync the operating system takes
            its time (Linux: about 30 s), as it does with the last rows before a pause; when the engine goes away, or
            the interpreter ends, there is a last one.
        checkpoint_every: a call that ends so many seconds after the last checkpoint, or later, starts another one in
            the background; ``math.inf`` for never. To resume, the rows after the newest one are taken again.
        checkpoint_rows: likewise, when there were so many rows since; None for however many.
        keep: how many checkpoints are kept.
        hmac_key: signs checkpoints, so that nobody without it can forge one.
        note: what else is to be found again in the header, under ``"note"``: anything that JSON can hold.
    """

    path: str | os.PathLike[str]
    fsync: float = 1.0
    checkpoint_every: float = 60.0
    checkpoint_rows: int | None = None
    keep: int = 3
    hmac_key: bytes | None = field(default=None, repr=False)
    note: Any = None

    def __post_init__(self) -> None:
        for name in ("fsync", "checkpoint_every"):
            if not getattr(self, name) >= 0:
                raise ModelError(f"{name}={getattr(self, name)!r}: expected seconds, at least 0")
        try:
            json.dumps(self.note, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ModelError(f"note={self.note!r}: expected what JSON can hold: {error}") from None
        for name in ("checkpoint_rows", "keep"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1) and not (name == "checkpoint_rows" and value is None):
                raise ModelError(f"{name}={value!r}: expected a whole number >= 1")


class Recorded(NamedTuple):
    """What is in a journal: the header, the observations, and how many bytes behind them do not count."""

    header: dict[str, Any]
    history: History
    unfinished: int

    @property
    def rows(self) -> Observation:
        """All observations in one block; ``history.rows(start, stop)`` are some."""
        return self.history.rows()


def create(journal: Journal, about: dict[str, Any]) -> History:
    """A history that is kept in a folder, to which nothing but a lock is written before the first commit."""
    return History(created(journal, about))


def created(journal: Journal, about: dict[str, Any]) -> Disk:
    """Rows in such a folder."""
    path = Path(journal.path).resolve()
    try:
        folder(path)
        found = next((f for f in sorted(path.iterdir()) if not _left_behind(f)), None)
    except OSError as error:
        raise ModelError(f"journal: {path} cannot be used as a folder: {why(error)}") from error
    if found is not None:
        remedy = "ss.Engine.open resumes it" if (path / HEADER).exists() else "Give another one"
        raise ModelError(f"journal: the folder {path} is not empty: {found.name} is in it. {remedy}")
    lock = Lock(path)
    sweep(path)
    return Disk(path, about, journal.fsync, lock)


def header(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a journal says of itself; None where there is none yet."""
    path = Path(path).resolve()
    return _read_header(path)[0] if (path / HEADER).exists() else None


def _left_behind(file: Path) -> bool:
    """By a process that was killed before its first commit, or that has let the folder go."""
    return file.name == LOCK or file.suffix == TEMPORARY or (file.name == ROWS and file.stat().st_size == 0)


def reopened(journal: Journal) -> tuple[dict[str, Any], Disk]:
    """The header of a journal and its rows, to go on writing after the last one that was committed.

    Raises:
        JournalError: another engine is writing to it; or as ``read``.
    """
    path = Path(journal.path).resolve()
    header, record, first_seal = _read_header(path)
    lock = Lock(path)
    try:
        sweep(path)
        file, length = _sealed(path, record, first_seal, "r+b", "ss.journal.read(path, salvage=True)")
        about = {name: said for name, said in header.items() if name not in ("format", "columns")}
        disk = Disk.opened(path, file, record, length, Disk(path, about, journal.fsync, lock))
        disk.sync()
    except BaseException as error:
        lock.release()  # the traceback keeps it as long as anybody looks at it
        if isinstance(error, OSError):
            raise JournalError(f"{path} cannot be written: {why(error)}") from error
        raise
    return header, disk


def read(path: str | os.PathLike[str], *, about: dict[str, Any] | None = None, salvage: bool = False) -> Recorded:
    """The observations of a journal, also while an engine is writing to it: all checked, none held in memory.

    Args:
        path: the folder.
        about: what the header has to say.
        salvage: of a damaged journal, take the rows before the first that is wrong.

    Raises:
        JournalError: it is no journal, or that of another engine, or it was altered.
    """
    path = Path(path).resolve()
    header, record, first_seal = _read_header(path)
    wrong = [f"{n} is {header.get(n)!r}, expected {v!r}" for n, v in (about or {}).items() if header.get(n) != v]
    if wrong:
        raise JournalError(f"{path} is the journal of another engine: {'; '.join(wrong)}")
    file, length = _sealed(path, record, first_seal, "rb", None if salvage else "salvage=True")
    return Recorded(header, History(Disk.opened(path, file, record, length)), file.size() - length * record.itemsize)


def _sealed(path: Path, record: np.dtype, first_seal: int, mode: str, remedy: str | None) -> tuple[RecordFile, int]:
    """The file of rows, and how many of them count; without a remedy those before the first that is wrong."""
    try:
        file = RecordFile(path / ROWS, mode)
        length, broken = file.sealed(record, first_seal)
    except OSError as error:
        raise JournalError(f"{path / ROWS} cannot be read: {why(error)}") from error
    if broken is not None and remedy is not None:
        raise JournalError(
            f"{path / ROWS} was altered: rows {length} to {broken} do not match their checksum. "
            f"{remedy} reads the {length} rows before them"
        )
    return file, length


class Disk(Store):
    """Committed rows in a file, those of the running call as records in memory.

    A commit that fails may have written some of them; ``truncate`` takes them back, and until then they are known not
    to count (``_dirty``).
    """

    path: Path

    def __init__(self, path: Path, about: dict[str, Any], fsync: float, lock: Lock | None = None) -> None:
        self.path, self.lock = path, lock
        self._about, self._fsync, self._synced = about, fsync, -np.inf
        self._columns: list[dict[str, Any]] = []
        self._record = np.dtype([])
        self._file: RecordFile | None = None
        self._committed, self._seal, self._tail = 0, 0, bytearray()
        self.durable = 0
        """How many rows a power cut would leave."""
        self._dirty = self._lost = self._closed = False

    @classmethod
    def opened(cls, path: Path, file: RecordFile, record: np.dtype, length: int, new: Disk | None = None) -> Disk:
        """To read from; or ``new``, which has the lock, to go on writing."""
        writes, new = new is not None, cls(path, {}, math.inf) if new is None else new
        new._file, new._record, new._committed = file, record, length
        if writes:
            new._dirty = True  # what a crash has left behind
            new.truncate(length)
        return new

    def note(self, **words: Any) -> None:
        """What the header is to say as well, while it is not written."""
        if self._committed == 0:
            self._about = self._about | words

    def seal(self, length: int) -> int | None:
        """The seal of a row, which depends on all before it; None where no call ended."""
        if length == 0 or self._file is None:
            return None
        last = np.zeros(1, self._record)
        self._file.read((length - 1) * self._record.itemsize, memoryview(last.view(np.uint8)))
        return int(last[SEAL][0]) or None

    def sync(self) -> None:
        """Wait until the disk has all that was committed."""
        if self._file is not None:
            self._sync(self._file, self._committed)

    def close(self) -> None:
        """Sync, and let the folder go."""
        if not self._closed and self.lock is not None:
            self._closed = True
            try:
                self.sync()
            finally:
                self.lock.release()

    @property
    def lost(self) -> bool:
        """Whether a sync has failed: no more rows are taken, for those before them may not be there."""
        return self._lost

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(name for name in self._record.names or () if name != SEAL)

    def __len__(self) -> int:
        return self._committed + len(self._tail) // max(1, self._record.itemsize)

    def append(self, columns: Columns) -> None:
        """Add rows, in memory for now."""
        if len(self) == 0:
            self._columns = described(columns)
            self._record = record_type(self._columns)
        rows = np.zeros(len(next(iter(columns.values()))), self._record)
        for name, column in columns.items():
            rows[name] = column
        self._tail += rows.tobytes()

    def read(self, start: int, stop: int) -> Columns:
        """Rows start to stop."""
        rows, size = np.zeros(stop - start, self._record), self._record.itemsize
        raw = memoryview(rows.view(np.uint8))
        written = max(0, min(stop, self._committed) - start) * size
        if self._file is not None and written:
            self._file.read(start * size, raw[:written])
        held = self._tail[max(0, start - self._committed) * size : max(0, stop - self._committed) * size]
        raw[written : written + len(held)] = held
        return {name: rows[name].copy() for name in self.names}

    def truncate(self, length: int) -> None:
        """Forget rows from ``length`` on, and what a commit that failed has written."""
        size = self._record.itemsize
        del self._tail[max(0, length - self._committed) * size :]
        if self._file is not None and (self._dirty or length < self._committed):
            self._dirty = True
            self._committed = min(length, self._committed)
            self.durable = min(length, self.durable)
            self._file.truncate(self._committed * size)
            self._seal = self.seal(self._committed) or self._seal
            self._dirty = False

    def commit(self, length: int) -> None:
        """Write the rows before ``length`` that are not in the file yet."""
        batch = self._tail[: (length - self._committed) * self._record.itemsize]
        if not batch:
            return
        if self._closed:
            raise JournalError(f"this engine has let {self.path} go: ss.Engine.open resumes it")
        if self._lost:
            raise JournalError(f"a sync of {self.path} failed, rows may be lost: go on with a copy of the engine")
        try:
            new = self._write(batch)
        except OSError as error:
            raise JournalError(f"{self.path} cannot be written, the engine is unchanged: {why(error)}") from error
        self._committed, self._seal, self._dirty = length, new, False
        del self._tail[: len(batch)]

    def _write(self, batch: bytearray) -> int:
        """Its seal."""
        self._dirty = True
        if self._file is None:
            self._file = RecordFile(self.path / ROWS, "w+b")
        if self._committed == 0:
            header = {"format": FORMAT, **self._about, "columns": self._columns}
            self._seal = _checksum(header)
            with whole(self.path / HEADER) as file:
                file.write(json.dumps(header | {"checksum": self._seal}, indent=1).encode())
        new = seal(batch, self._seal)
        self._file.write(self._committed * self._record.itemsize, batch)
        now = time.monotonic()
        if now - self._synced >= self._fsync:
            self._sync(self._file, self._committed + len(batch) // self._record.itemsize)
            self._synced = now
        return new

    def _sync(self, file: RecordFile, length: int) -> None:
        """After a sync that failed a later one may succeed without the rows that were lost: so it is remembered."""
        try:
            file.sync()
        except OSError:
            self._lost = True
            raise
        self.durable = max(self.durable, length)


def _read_header(path: Path) -> tuple[dict[str, Any], np.dtype, int]:
    """The header, what a record is by it, and the checksum with which the chain of seals starts."""
    try:
        raw = (path / HEADER).read_bytes()
    except OSError as error:
        raise JournalError(f"{path} is no journal, or nothing was committed to it: {HEADER}: {why(error)}") from error
    try:
        header = json.loads(raw)
        if header["format"] != FORMAT:
            raise JournalError(f"{path} has format {header['format']}: this version of smcssm reads {FORMAT}")
        checksum = header.pop("checksum")
        if checksum != _checksum(header):
            raise JournalError(f"{path / HEADER} was altered: it does not match its checksum")
        return header, record_type(header["columns"]), checksum
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{path / HEADER} is damaged, or not that of a journal: {error!r}") from error


def _checksum(header: dict[str, Any]) -> int:
    """Where the chain of seals starts: rows go with this header only."""
    return zlib.crc32(json.dumps(header, sort_keys=True).encode())
