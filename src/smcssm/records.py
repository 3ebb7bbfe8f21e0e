"""A file of records: rows of one size, packed, appended in batches and never altered; each batch ends in a seal.

    seal of the last record of a batch   CRC-32 of the batch without it, continued from the seal before; never 0
    seal of its other records            0

Hence the file tells how many of its rows are there to stay: those up to the last seal. What follows is of a batch that
a crash cut short. A byte that was altered, and rows that were swapped or taken out, break the chain of seals.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
import zlib
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from smcssm.history import SEGMENT, Columns

SEAL = "seal"


def described(columns: Columns) -> list[dict[str, Any]]:
    """Columns in words: name, dtype and shape of a row."""
    return [{"name": n, "dtype": c.dtype.str, "shape": list(c.shape[1:])} for n, c in columns.items()]


def record_type(columns: list[dict[str, Any]]) -> np.dtype:
    """A row of such columns and its seal, without gaps."""
    record = np.dtype([*((c["name"], c["dtype"], tuple(c["shape"])) for c in columns), (SEAL, "<u4")])
    if record.hasobject:
        raise ValueError("columns are of numbers")
    return record


def seal(batch: bytearray, before: int) -> int:
    """Close a batch; its seal, which the next one continues."""
    value = zlib.crc32(memoryview(batch)[:-4], before) or 1
    batch[-4:] = value.to_bytes(4, "little")
    return value


class RecordFile:
    """Reads and writes at given places; synced and closed when it goes away."""

    def __init__(self, path: Path, mode: str) -> None:
        self._file = FileIO(path, mode)
        self._lock = threading.Lock()  # a snapshot may be read while the stream goes on
        weakref.finalize(self, _close, self._file)

    def read(self, at: int, into: memoryview) -> None:
        """Fill a buffer."""
        with self._lock:
            self._file.seek(at)
            while len(into):
                done = self._file.readinto(into)
                if not done:
                    raise OSError("the file ends too early")
                into = into[done:]

    def write(self, at: int, data: bytearray) -> None:
        """Write all of it."""
        with self._lock:
            self._file.seek(at)
            left = memoryview(data)
            while len(left):
                left = left[self._file.write(left) :]

    def truncate(self, size: int) -> None:
        """Cut off what lies behind."""
        self._file.truncate(size)

    def sync(self) -> None:
        """Wait until the disk has it all."""
        os.fsync(self._file.fileno())

    def size(self) -> int:
        """In bytes."""
        return os.fstat(self._file.fileno()).st_size

    def sealed(self, record: np.dtype, last: int) -> tuple[int, int | None]:
        """How many rows are sealed, and which row has a seal that does not match: there the count ends."""
        sealed, running, n = 0, last, self.size() // record.itemsize
        for start in range(0, n, SEGMENT):
            rows = np.zeros(min(SEGMENT, n - start), record)
            raw, begin = memoryview(rows.view(np.uint8)), 0
            self.read(start * record.itemsize, raw)
            seals = rows[SEAL]
            for i in np.flatnonzero(seals).tolist():
                end = (i + 1) * record.itemsize
                running = zlib.crc32(raw[begin : end - 4], running) or 1
                if running != seals[i]:
                    return sealed, start + i
                begin, sealed = end, start + i + 1
            running = zlib.crc32(raw[begin:], running)
        return sealed, None


def _close(file: FileIO) -> None:
    with contextlib.suppress(OSError):
        if file.writable():
            os.fsync(file.fileno())
    file.close()
