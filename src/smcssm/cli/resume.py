"""A stream that outlives its process: what its journal's folder tells a later run.

The input is read from its start once more. Of its rows the engine has taken the first ``engine.t``, but for those it
refused; which lines these were is in a file of its own, written before the next row is taken.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from smcssm import journal, trees
from smcssm.engine import Engine
from smcssm.errors import ModelError
from smcssm.journal import Journal

REFUSED = "refused"


class Start(NamedTuple):
    """What the first rows of the stream said, or the user."""

    scale: float
    means: tuple[float, ...]
    sd: float


class Terminated(BaseException):
    """SIGTERM."""


class Folder:
    """The folder of a journal, as one stream uses it; ``settings`` are what has to be the same in every run."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        header = journal.header(path)
        self.told = None if header is None else header.get("note")
        if header is not None and self.told is None:
            raise ModelError(f"{path} is a journal, but not of smcssm stream: ss.Engine.open resumes it")
        if self.told is not None:
            wrong = [f"{n} was {self.told.get(n)!r}, now {v!r}" for n, v in settings.items() if self.told.get(n) != v]
            if wrong:
                raise ModelError(f"{path} is the journal of another stream: {'; '.join(wrong)}")
        self.refused: set[int] = set()
        if self.told is not None:
            with contextlib.suppress(FileNotFoundError):
                lines = (path / REFUSED).read_text().split("\n")[:-1]  # the last one may be cut off
                self.refused = set(map(int, lines))

    def start(self) -> tuple[Start, Any]:
        """As it was, and the step of the grid."""
        told = self.told
        assert told is not None
        start = Start(told["start"]["scale"], tuple(told["start"]["means"]), told["start"]["sd"])
        return start, trees.rebuilt(told["step"], {}, {})

    def new(self, start: Start, step: Any) -> Journal:
        """For the first run."""
        step = float(step) if isinstance(step, float) else step
        about = {"start": start._asdict(), "step": trees.described(step, {}, "step")}
        return Journal(self.path, note={**self.settings, **about})

    def refuse(self, line: int | None, engine: Engine) -> None:
        """Remember a line that the engine refused. Before the first row there is nothing to tell it from."""
        if line is None or engine.t == 0 or line in self.refused:
            return
        with open(self.path / REFUSED, "a", encoding="ascii") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())


def same(a: tuple[float, ...], b: Any) -> bool:
    """Whether two observations are the same one."""
    return len(a) == len(b) and all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True))


@contextlib.contextmanager
def termination() -> Iterator[None]:
    """SIGTERM raises ``Terminated``, as SIGINT does ``KeyboardInterrupt``."""

    def terminate(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
