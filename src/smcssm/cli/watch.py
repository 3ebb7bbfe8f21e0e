"""``smcssm watch``: the stream of ``smcssm stream`` as a page in a browser."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from rich.console import Console

from smcssm.cli.rows import Row
from smcssm.cli.session import HELD_BACK, Session, Settings
from smcssm.engine import Engine
from smcssm.record import StepInfo
from smcssm.watching.server import free
from smcssm.watching.view import Live, panel

RECORD = 300  # observations that the page goes back


def watched(settings: Settings, file: Path, format: str, *, port: int, show: bool, stay: bool, follow: bool) -> int:
    """Run a stream with a page; the exit code."""
    names = settings.columns.channels
    title = f"{'stdin' if str(file) == '-' else file.name}: {', '.join(names)}"
    pages: list[Watched] = []

    def board(console: Console) -> Watched:
        pages.append(Watched(console, port, show, title, names))
        return pages[0]

    session = Session(settings._replace(board=board, record=RECORD, follow=follow))
    if settings.scale is None or settings.columns.time is not None:
        session.err.print(f"the page comes once the first {HELD_BACK} values are in", markup=False)
    code = session.run(file, format)
    if stay and code == 0:
        pages[0].stay()
    return code


class Watched:
    """Shows an engine in a browser; ``update`` after each step. The page is there from the first one on."""

    def __init__(self, console: Console, port: int, show: bool, title: str, names: tuple[str, ...]) -> None:
        self.port, self._console, self._show = free(port), console, show
        self._options: dict[str, Any] = dict(last=RECORD, title=title, channels=names)
        panel()  # what is wrong is said before the stream begins
        self.view: Live | None = None

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.view is not None:
            self.view.refresh()

    def update(self, engine: Engine, info: StepInfo, row: Row, log_evidence: float) -> None:
        """Take note of the time; the view reads the rest."""
        del log_evidence
        if self.view is None:
            self.view = Live(engine, **self._options)
            self._console.print(f"watch it at {self.view.serve(self.port, self._show)}", markup=False)
        if row.time is not None:
            self.view.reader.note(info.t, row.time)

    def stay(self) -> None:
        """After the end of the stream, until an interrupt."""
        if self.view is None:
            return
        self._console.print(f"the stream has ended; http://localhost:{self.port} stays until Ctrl-C", markup=False)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            self.view.close()
