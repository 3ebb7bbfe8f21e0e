"""What one incarnation of a shard leaves to the next: a copy of its journal, while it may still be writing to it."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from smcssm import journal
from smcssm.checkpoint import SUFFIX
from smcssm.errors import JournalError
from smcssm.files import TEMPORARY, sync_folder, whole, why
from smcssm.journal import CHECKPOINTS, HEADER, ROWS
from smcssm.records import record_type


def copy(path: Path, target: Path, upto: int | None) -> None:
    """A journal's first rows as a folder of its own, and the checkpoints of these.

    Args:
        path: the folder.
        target: another one, which is there in the end, safe on the disk, or not at all.
        upto: no more rows than these; of a call all are taken or none.

    Raises:
        JournalError: it cannot be read or copied, and there is no target.
    """
    header, history, _ = journal.read(path)
    length = len(history) if upto is None else min(upto, len(history))
    while length and history.seal(length) is None:
        length -= 1
    half = target.with_name(target.name + TEMPORARY)
    shutil.rmtree(half, ignore_errors=True)
    try:
        (half / CHECKPOINTS).mkdir(parents=True)
        _copy(path / HEADER, half / HEADER, None)
        _copy(path / ROWS, half / ROWS, length * record_type(header["columns"]).itemsize)
        for file in (path / CHECKPOINTS).glob(f"*{SUFFIX}"):
            if file.stem.isdecimal() and int(file.stem) <= length:
                with contextlib.suppress(FileNotFoundError):  # the oldest may go meanwhile
                    _copy(file, half / CHECKPOINTS / file.name, None)
        os.rename(half, target)
        sync_folder(target.parent)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        raise JournalError(f"{path} cannot be copied to {target}: {why(error)}") from error


def sweep(folder: Path) -> None:
    """Remove what processes that were killed had copied so far."""
    for half in folder.glob(f"*{TEMPORARY}"):
        shutil.rmtree(half, ignore_errors=True)


def _copy(source: Path, target: Path, size: int | None) -> None:
    """The first bytes of a file, synced."""
    with open(source, "rb") as old, whole(target) as new:
        left = os.fstat(old.fileno()).st_size if size is None else size
        while left > 0 and (piece := old.read(min(left, 1 << 20))):
            new.write(piece)
            left -= len(piece)
