"""A folder of checkpoints: the last few are kept, and the newest good one is found, whatever happened to the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from smcssm import container
from smcssm.container import Contents
from smcssm.errors import CheckpointError
from smcssm.files import sweep, sync_folder, why

SUFFIX = ".npz"


class Folder:
    """Checkpoints of one engine, each named by how many observations it has taken."""

    def __init__(self, path: Path, keep: int = 3, key: bytes | None = None) -> None:
        self.path, self._keep, self._key = path, keep, key

    def files(self) -> list[Path]:
        """Newest first."""
        return sorted((p for p in self.path.glob(f"*{SUFFIX}") if p.stem.isdecimal()), reverse=True)

    def write(self, t: int, contents: Contents) -> None:
        """Add one; then those go that are too many.

        Raises:
            CheckpointError: it cannot be written; the others are intact.
        """
        try:
            self.path.mkdir(exist_ok=True)  # not what is above it: a journal that was removed stays away
            sync_folder(self.path.parent)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be used as a folder: {why(error)}") from error
        container.write(self.path / f"{t:015d}{SUFFIX}", contents, self._key)
        written = [file for file in self.files() if int(file.stem) <= t]  # later ones are of rows that are no more
        for old in written[self._keep :]:
            old.unlink(missing_ok=True)

    def newest[T](self, use: Callable[[Contents], T]) -> tuple[T | None, list[str]]:
        """What comes of the newest one that can be read and used, and why newer ones were passed over."""
        skipped: list[str] = []
        sweep(self.path)
        for path in self.files():
            try:
                return use(container.read(path, self._key)), skipped
            except CheckpointError as error:
                skipped.append(f"{path.name}: {error}")
        return None, skipped


class Background:
    """Writes one checkpoint at a time beside the stream. What went wrong is told to the next who asks."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Begin; the interpreter waits for its end before it goes."""

        def run() -> None:
            with self.told():
                work()

        self._thread = threading.Thread(target=run, name="smcssm checkpoint")
        self._thread.start()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Around what does not stop a stream: whatever goes wrong is kept for ``trouble``."""
        try:
            yield
        except CheckpointError as error:
            self._error = error
        except Exception as error:
            self._error = CheckpointError(f"no checkpoint was written: {error!r}")

    def wait(self) -> None:
        """Until none is being written."""
        if self._thread is not None:
            self._thread.join()

    def trouble(self) -> CheckpointError | None:
        """The last error, once."""
        error, self._error = self._error, None
        return error
