"""Half-hourly sea temperature at a buoy in the Gulf of Maine (bokeh_sampledata), February 2016 to March 2017."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
from bokeh_sampledata.sea_surface_temperature import sea_surface_temperature
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from smcssm.cli.tables import posterior
from smcssm.demo.files import save
from smcssm.engine import Engine
from smcssm.errors import SmcssmWarning
from smcssm.models import Level, Noise, Seasonal

DAY = 48
PARTICLES = 250

LEVEL = Level(initial_mean=5.0, initial_sd=1.0)
# A fixed daily cycle: its two amplitudes are linear, so they lie in the state and cost no hyperparameter.
CYCLE = Seasonal(DAY, "fourier", harmonics=1, drifting=False, initial_sd=0.5)
PLAIN, DAILY = "level + noise", "level + daily cycle + noise"
MODELS = {PLAIN: LEVEL + Noise(), DAILY: LEVEL + CYCLE + Noise()}


def run(output: Path, console: Console, fast: bool) -> Engine:
    """Compare two models on the first days, stream the series through the better one, say how well it does."""
    console.print("\n[bold]Sea temperature in the Gulf of Maine, °C[/]")
    raw: Any = sea_surface_temperature["temperature"]
    series, told = on_grid(raw)
    console.print(told)
    trial = 7 if fast else 30
    chosen = compare(series.iloc[: trial * DAY], console)
    series = series.iloc[: 21 * DAY] if fast else series
    engine = new_engine(chosen)
    seconds = stream(engine, series, console, chosen)
    last: Any = series.index[-1]
    ahead = {f"{last + pd.Timedelta('30min') * h:%d %b %H:%M}": h for h in range(1, 13)}
    console.print(posterior(engine, f"{chosen}, after {engine.t:,} half-hours, until {last:%d %b %Y %H:%M}", ahead))
    console.print(
        f"Log evidence {engine.log_evidence:.1f}; {moves(engine)} moves of {PARTICLES} particles; {seconds:.1f} s, "
        f"{len(series) / seconds:,.0f} observations per second, moves over all of history included."
    )
    for line in calibration(engine, series):
        console.print(line)
    save(engine, output, "buoy", series.index.to_numpy(), last=7 * DAY, h=DAY)
    return engine


def on_grid(raw: pd.Series) -> tuple[pd.Series, str]:
    """The series on its half-hour grid: duplicates dropped, NaN where nothing was observed; and that in words."""
    distinct: Any = raw[~raw.index.duplicated()]
    grid = distinct.asfreq("30min").tz_localize(None)
    told = (
        f"{len(raw):,} readings, {len(raw) - len(distinct)} with a time stamp seen before and dropped; put on the "
        f"half-hour grid this makes {len(grid):,} steps, the {int(grid.isna().sum())} in gaps (of 1 h and 12 h) as NaN."
    )
    return grid, told


def compare(series: pd.Series, console: Console) -> str:
    """The model with the larger evidence."""
    days = len(series) // DAY
    table = Table("model", "log evidence", "moves", "seconds", title=f"Two models on the first {days} days")
    evidence = {}
    for name in MODELS:
        engine = new_engine(name)
        seconds = stream(engine, series, console, name)
        evidence[name] = engine.log_evidence
        table.add_row(name, f"{engine.log_evidence:.1f}", f"{moves(engine)}", f"{seconds:.1f}")
    console.print(table)
    best = max(evidence, key=evidence.__getitem__)
    console.print(f"Chosen: {best}.")
    return best


def new_engine(name: str) -> Engine:
    """One of the models with its priors, compiled."""
    model = MODELS[name]
    with pm.Model() as prior:
        for sigma in model.names:
            pm.HalfNormal(sigma, 0.1)
    engine = Engine(model, prior, n_particles=PARTICLES, record=20_000, seed=0)
    engine.warmup()
    return engine


def stream(engine: Engine, series: pd.Series, console: Console, what: str) -> float:
    """A day at a time, which gives bit for bit what single steps give; the seconds it took."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    start = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=len(series))
        for i in range(0, len(series), DAY):
            day = series.iloc[i : i + DAY]
            engine.update(day.to_numpy(float), progress=False)
            progress.update(task, advance=len(day), description=f"{what}, {day.index[-1]:%d %b %Y}")
    return time.perf_counter() - start


def moves(engine: Engine) -> int:
    """How often the population was moved."""
    return int(engine.record["moved"].sum())


def calibration(engine: Engine, series: pd.Series) -> list[str]:
    """How often the one-step forecast intervals held the next reading; and what the diagnosis finds."""
    steps = engine.record.isel(channel=0)
    pit = steps["pit"].values
    pit = pit[np.isfinite(pit)]
    inside = {p: np.mean(np.abs(pit - 0.5) < p / 2) for p in (0.5, 0.9)}
    told = [f"The 50% forecast intervals held {inside[0.5]:.0%} of the readings, the 90% ones {inside[0.9]:.0%}."]
    error = pd.Series(((steps["y"] - steps["predictive_mean"]) / steps["predictive_sd"]).values, series.index)
    monthly = error.resample("MS").std()
    if inside[0.5] > 0.55 and len(monthly) > 3:
        calm, wild = monthly.sort_values().iloc[[0, -1]].items()
        told.append(
            f"Forecast errors in units of the forecast sd: {calm[1]:.2f} in {calm[0]:%B %Y}, {wild[1]:.2f} in "
            f"{wild[0]:%B %Y}. One constant sigma_level is too wide for calm months and too narrow for others: what "
            "this series asks for next is a volatility that changes, which smcssm does not have yet."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmcssmWarning)  # printed here instead
        failed = [item for item in engine.diagnose().items if item.verdict == "check"]
    told += [f"diagnose(): {item.name} {item.value:.3g}, expected {item.threshold}: {item.remedy}" for item in failed]
    return told
