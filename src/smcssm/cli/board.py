"""The live table of ``smcssm stream --live``: what is known now, redrawn a few times a second while the stream runs."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from smcssm.cli import tables
from smcssm.cli.rows import Row
from smcssm.engine import Engine
from smcssm.monitor import Monitor
from smcssm.record import StepInfo

EVERY = 0.25  # seconds
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60  # observations in the small picture, at most
AROUND = 26  # letters beside it, without those of the column's name


class Board:
    """Shows an engine on a terminal; ``update`` after each step. The small pictures are of the first column."""

    def __init__(self, console: Console, column: str) -> None:
        self.monitor, self._live = Monitor(), Live(console=console, auto_refresh=False)
        self._column = column
        self._seen: deque[tuple[float, float]] = deque(maxlen=WIDTH)
        self._drawn, self._latest = -EVERY, None

    def __enter__(self) -> Board:
        self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._latest is not None:
            self._draw(*self._latest)
        self._live.stop()

    def update(self, engine: Engine, info: StepInfo, row: Row, log_evidence: float) -> None:
        """Take note of a step; draw, if the last time is long enough ago."""
        self.monitor.update(info)
        self._seen.append((row.values[0], float(np.ravel(info.predictive_mean)[0])))
        self._latest = engine, info, row.stamp, log_evidence
        if time.perf_counter() - self._drawn > EVERY:
            self._draw(*self._latest)
            self._drawn = time.perf_counter()

    def _draw(self, engine: Engine, info: StepInfo, stamp: Any, log_evidence: float) -> None:
        self._live.update(self.render(engine, info, stamp, log_evidence), refresh=True)

    def render(self, engine: Engine, info: StepInfo, stamp: Any, log_evidence: float) -> Group:
        """The small pictures, the posterior, the particles, the alarms."""
        room = self._live.console.width - AROUND - max(len(self._column), len("forecast for it"))
        y, forecast = zip(*list(self._seen)[-max(room, 10) :], strict=True)
        low, high = np.nanmin([*y, *forecast]), np.nanmax([*y, *forecast])
        pictures = Table.grid(padding=(0, 2))
        pictures.add_row(self._column, bars(y, low, high), _ends(low, high))
        pictures.add_row("forecast for it", Text(str(bars(forecast, low, high)), style="blue"))
        state = (
            f"ESS {info.ess:.0f} of {engine.snapshot().population.log_weight.shape[-1]}, {info.status.name}, "
            f"log evidence {log_evidence:.2f}"
        )
        found = [f"{a.kind} at t = {a.t}, since {a.since}" for a in self.monitor.alarms[-3:]]
        alarms = f"{len(self.monitor.alarms)} alarms: {'; '.join(found)}" if found else "no alarm"
        title = f"after observation {info.t}" + (f", {stamp}" if stamp is not None else "")
        others = 14 + engine.prior.size + len(engine.model.channel_names)  # lines that are no states
        most = max(1, self._live.console.height - others)
        table = tables.posterior(engine, title, {"next observation": 1}, most)
        return Group(pictures, state, Text(alarms, style="bold red" if found else "green"), table)


def bars(values: Any, low: float, high: float) -> Text:
    """A line of small bars; a missing value is a gap."""
    span = high - low if high > low else 1.0
    drawn = [" " if np.isnan(v) else BARS[min(int((v - low) / span * len(BARS)), len(BARS) - 1)] for v in values]
    return Text("".join(drawn))


def _ends(low: float, high: float) -> str:
    return f"{tables.number(low)} to {tables.number(high)}"
