"""Figures and ArviZ files of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from smcssm import plots
from smcssm.engine import Engine


def save(engine: Engine, output: Path, name: str, index: Any, *, last: int | None = None, h: int = 12) -> None:
    """Four figures as PNG, and the engine's DataTree as netCDF.

    Args:
        engine: with a record.
        output: the folder.
        name: what file names begin with.
        index: labels of all observations.
        last: how many of the last observations the forecast shows.
        h: how far it goes.
    """
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figures = {
        "forecast": plots.forecast_fan(engine, last=last, h=h, index=index),
        "hyperparameters": plots.hyperparameters(engine, index=index),
        "moves": plots.moves(engine, index=index),
        "pit": plots.pit_histogram(engine),
    }
    for what, figure in figures.items():
        figure.savefig(output / f"{name}-{what}.png", dpi=150)
        plt.close(figure)
    engine.to_arviz(predictive=False).to_netcdf(output / f"{name}.nc", engine="h5netcdf")
