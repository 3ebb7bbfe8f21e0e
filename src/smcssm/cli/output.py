"""What a stream says: a JSON line for each observation, at its end a table and a forecast."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group

from smcssm.cli import tables
from smcssm.cli.rows import Row, count
from smcssm.grid import written
from smcssm.record import StepInfo

Session = Any  # of smcssm.cli.session, which imports this file


def report(row: Row, info: StepInfo, log_evidence: float) -> dict[str, Any]:
    """What is written of one observation; null where there is no number."""
    y = row.values[0] if len(row.values) == 1 else row.values
    return {
        "t": info.t,
        "line": row.line,
        "time": row.stamp,
        "y": _plain(y),
        "log_predictive": info.log_predictive,
        "predictive_mean": _plain(info.predictive_mean),
        "predictive_sd": _plain(info.predictive_sd),
        "pit": _plain(info.pit),
        "ess": info.ess,
        "moved": info.moved,
        "acceptance": _plain(info.acceptance),
        "status": info.status.name,
        "log_evidence": log_evidence,
    }


def _plain(value: Any) -> Any:
    """Numbers and lists of them, None for NaN."""
    if np.ndim(value):
        return [_plain(v) for v in value]
    return None if math.isnan(value) else float(value)


def summary(session: Session, seconds: float) -> Group:
    """The end of a stream."""
    engine = session.engine
    assert engine is not None
    labels = [_label(stamp) for stamp in stamps(session)]
    if all(label.endswith(" 00:00") for label in labels):
        labels = [label.removesuffix(" 00:00") for label in labels]
    labels = labels or ["next observation", *(f"{h} ahead" for h in range(2, session.settings.ahead + 1))]
    ahead = {label: h for h, label in enumerate(labels, 1)}
    table = tables.posterior(engine, f"after {count(engine.t, 'observation')}", ahead)
    since = " since it was resumed" if session.resumed_at else ""
    text = (
        f"{count(engine.t, 'observation')} ({session.missing} missing), {count(session.rejected, 'line')} rejected, "
        f"{count(session.moves, 'move')}{since}, log evidence {session.log_evidence:.2f}, {seconds:.1f} s"
    )
    return Group(table, text)



def stamps(session: Session) -> list[Any]:
    """The times of the forecasts, where the stream has times."""
    return session.grid.ahead(session.settings.ahead)


def _label(stamp: Any) -> str:
    """A time in a table: seconds only where there are any."""
    return f"{stamp:.12g}" if isinstance(stamp, float) else str(written(stamp)).replace("T", " ").removesuffix(":00")


def write_forecast(session: Session, path: Path) -> None:
    """The forecast as a CSV: a row for each step, and for each channel if there are several."""
    engine, times = session.engine, [written(stamp) for stamp in stamps(session)]
    if all(str(time).endswith("T00:00:00") for time in times):
        times = [time.removesuffix("T00:00:00") for time in times]
    assert engine is not None
    ahead, names = engine.forecast(session.settings.ahead), session.columns.channels
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["time" if times else "step", "column", "mean", "sd", "q05", "q50", "q95"])
        for h, step in enumerate(times or range(1, session.settings.ahead + 1)):
            for i, name in enumerate(names):
                numbers = [ahead[what].values[h, i] for what in ("mean", "sd")]
                table.writerow([step, name, *numbers, *ahead["quantiles"].values[h, i]])
