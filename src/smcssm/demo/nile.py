"""The flow of the Nile, one year at a time (Durbin & Koopman 2012, section 2.2.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
from rich.console import Console
from rich.progress import track
from rich.table import Table
from statsmodels.datasets import nile as data

from smcssm.cli.tables import posterior
from smcssm.demo.files import save
from smcssm.engine import Engine
from smcssm.models import LocalLevel


def run(output: Path, console: Console) -> Engine:
    """Stream 100 years of flow; the posterior every tenth year and at the end."""
    flow: Any = data.load_pandas().data
    with pm.Model() as prior:
        pm.HalfNormal("sigma_level", 50.0)
        pm.HalfNormal("sigma_obs", 150.0)
    engine = Engine(LocalLevel(initial_mean=1120.0, initial_sd=300.0), prior, n_particles=1000, seed=0)
    engine.warmup()
    seen = Table(
        "year", "flow", "forecast for it", "level", "sigma_level", "sigma_obs", "log evidence",
        title="The Nile at Aswan, 10⁸ m³ a year: what was known after each tenth year (mean ± sd)",
    )  # fmt: skip
    years = list(zip(flow["year"], flow["volume"], strict=True))
    for year, volume in track(years, "the Nile, a year at a time", console=console, transient=True):
        info = engine.step(volume)
        if engine.t % 10 == 0:
            level, sigma = engine.state(), engine.summary()
            theta = [f"{sigma['mean'][name]:.0f} ± {sigma['sd'][name]:.0f}" for name in engine.model.names]
            forecast = f"{info.predictive_mean:.0f} ± {info.predictive_sd:.0f}"
            now = f"{level['mean'].item():.0f} ± {level['sd'].item():.0f}"
            seen.add_row(f"{year:.0f}", f"{volume:.0f}", forecast, now, *theta, f"{engine.log_evidence:.2f}")
    console.print(seen)
    console.print(posterior(engine, f"After {engine.t} years", {"1971": 1, "1980": 10}))
    moves = int(np.sum(engine.record["moved"]))
    console.print(f"Log evidence {engine.log_evidence:.2f}; the population was moved {moves} times.")
    save(engine, output, "nile", flow["year"].to_numpy(float), h=10)
    return engine
