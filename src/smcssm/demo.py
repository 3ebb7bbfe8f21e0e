"""The demo: the flow of the Nile, one year at a time (Durbin & Koopman 2012, section 2.2.5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
from rich.console import Console
from rich.progress import track
from rich.table import Table
from statsmodels.datasets import nile as data

from smcssm.engine import Engine
from smcssm.models import LocalLevel


def nile(console: Console | None = None) -> Engine:
    """Stream 100 years of flow and print the posterior, the evidence and a forecast."""
    console = console or Console()
    flow: Any = data.load_pandas().data
    with pm.Model() as prior:
        pm.HalfNormal("sigma_level", 50.0)
        pm.HalfNormal("sigma_obs", 150.0)
    engine = Engine(LocalLevel(initial_mean=1120.0, initial_sd=300.0), prior, n_particles=1000, seed=0)
    years = zip(flow["year"], flow["volume"], strict=True)
    moves = 0
    for _, volume in track(years, "the Nile, 1871 to 1970", len(flow), console=console, transient=True):
        moves += engine.step(volume).moved
    table = Table("quantity", "mean", "sd", "5%", "50%", "95%", title=f"The Nile after {engine.t} years")
    for name, row in engine.summary().iterrows():
        table.add_row(str(name), *(f"{row[c]:.1f}" for c in ("mean", "sd", "q05", "q50", "q95")))
    level, ahead = engine.state(), engine.forecast(1)
    table.add_row("level", f"{level['mean'].item():.1f}", f"{level['sd'].item():.1f}")
    quantiles = [f"{q:.1f}" for q in np.ravel(ahead["quantiles"])]
    table.add_row("next year", f"{ahead['mean'].item():.1f}", f"{ahead['sd'].item():.1f}", *quantiles)
    console.print(table)
    console.print(f"log evidence {engine.log_evidence:.2f}, {moves} moves of the population")
    return engine
