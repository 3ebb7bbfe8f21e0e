"""Tables that the commands and the demo print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from smcssm.drawing import digits

if TYPE_CHECKING:
    from smcssm.engine import Engine


def posterior(engine: Engine, title: str, ahead: dict[str, int] | None = None, most: int | None = None) -> Table:
    """Hyperparameters, the filtered state (``most``: so many rows of it), and forecasts ahead under the names given."""
    table = Table("", "mean", "sd", "5%", "50%", "95%", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in engine.summary().iterrows():
        table.add_row(str(name), *(number(row[c]) for c in ("mean", "sd", "q05", "q50", "q95")))
    table.add_section()
    state = engine.state()
    rows = list(zip(engine.model.state_names, state["mean"].values, state["sd"].values, strict=True))
    for name, mean, sd in rows[:most]:
        table.add_row(name, number(mean), number(sd))
    if len(rows[:most]) < len(rows):
        table.add_row(f"and {len(rows) - len(rows[:most])} more")
    table.add_section()
    ahead = {} if engine.model.input_names else ahead or {}
    if ahead:
        future = engine.forecast(max(ahead.values()))
        for label, h in ahead.items():
            step = future.sel(step=h)
            for i, channel in enumerate(engine.model.channel_names):
                name = label if len(engine.model.channel_names) == 1 else f"{label}: {channel}"
                row = (step["mean"].values[i], step["sd"].values[i], *np.ravel(step["quantiles"].values[i]))
                table.add_row(name, *map(number, row))
    return table


def number(value: Any) -> str:
    """Four significant digits."""
    return digits(float(value), 4)
