"""Files that are there whole or not at all, and folders that one process at a time writes to."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from io import BufferedIOBase, FileIO
from pathlib import Path

from smcssm.errors import JournalError

LOCK, TEMPORARY = "lock", ".tmp"


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BufferedIOBase]:
    """Write a file that after a crash is there with all of its contents, or is what it was before.

    Yields a temporary file in the same folder, which takes the place of ``path`` in the end; not after an exception.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def folder(path: Path) -> None:
    """Make a folder, and those above it, whose names are on the disk; nothing where there is one."""
    new = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in new:
        sync_folder(made.parent)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder; elsewhere than on POSIX that cannot be asked for."""
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path) -> None:
    """Remove the temporary files of processes that were killed; by the one process that writes to the folder."""
    for leftover in folder.glob(f"*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def why(error: OSError) -> str:
    """What the operating system says."""
    return error.strerror or str(error)


class Lock:
    """The right to write to a folder: held until this goes away, or its process does, however it ends.

    An advisory ``flock`` on a file of its own, so that a lock never outlives its holder. On systems without it nobody
    is refused.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._file = FileIO(folder / LOCK, "a+")
            _lock(self._file)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read(20).decode("ascii", "replace").strip()
            self._file.close()
            here = "an engine of this process" if holder == str(os.getpid()) else f"process {holder or '?'}"
            raise JournalError(
                f"{folder} is being written to by {here}: one engine at a time. engine.close() lets it go; "
                "ss.journal.read needs no permission"
            ) from None
        except OSError as error:
            raise JournalError(f"{folder} cannot be written: {why(error)}") from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()).encode())
        weakref.finalize(self, self._file.close)
        _HELD.add(self)

    def release(self) -> None:
        """Let it go before its time. A forked child does so at once: it has a handle of its own on the file."""
        self._file.close()


_HELD: weakref.WeakSet[Lock] = weakref.WeakSet()


def _lock(file: FileIO) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:
        return
    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _after_fork() -> None:
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
