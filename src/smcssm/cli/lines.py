"""The lines of a file or of stdin, each as soon as it is there; of a file that grows also those to come."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from smcssm.errors import InputError

PAUSE = 0.2  # seconds between two looks at a file that grows


@contextlib.contextmanager
def opened(path: Path, follow: bool = False) -> Iterator[Iterator[bytes]]:
    """The lines; with ``follow`` the end of the file is not the end."""
    if str(path) == "-":
        yield iter(sys.stdin.buffer)
    else:
        with path.open("rb") as stream:
            yield _following(path, stream) if follow else iter(stream)


def _following(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    """Whole lines: what is written of the last one waits for its end.

    Raises:
        InputError: if the file is cut short, or goes.
    """
    part = b""
    while True:
        part += stream.readline()
        if part.endswith(b"\n"):
            yield part
            part = b""
            continue
        if not path.exists() or path.stat().st_size < stream.tell():
            raise InputError(f"{path}: the file was cut short or replaced, and what came after is not known")
        time.sleep(PAUSE)
