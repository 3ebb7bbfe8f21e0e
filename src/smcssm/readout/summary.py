"""The posterior of the hyperparameters as a table."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm.core import AbstractPrior
from smcssm.readout import folded
from smcssm.readout.error import is_known, of_mean
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd

LEVELS = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
COLUMNS = ["mean", "sd", *LEVELS, "mcse"]


def summary(snapshot: Snapshot) -> pd.DataFrame:
    """Weighted mean, sd, quantiles and Monte Carlo error of every named quantity of the prior, and of what is folded.

    ``mcse`` is the Monte Carlo standard error of the mean: between runs when there are at least two, else between
    groups of particles and at least sd / sqrt(ESS), which alone does not see earlier moves; NaN where too few particles
    carry the weight.
    """
    import pandas as pd

    w, known = snapshot.weights(), is_known(snapshot)
    rows = {}
    for name, values in snapshot.theta().items():
        for label, index in labels(snapshot.smc.prior, name, values.shape[:-2]):
            rows[label] = line(values[index], w, snapshot.smc.groups)
    rows |= dict(folded.rows(snapshot, np.array(list(LEVELS.values()))))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)
    return table if known else table.assign(mcse=np.nan)


def line(values: np.ndarray, w: np.ndarray, groups: int) -> list[float]:
    """One line of the table from values and weights ``[runs, n]``; at weight zero a value may be anything."""
    values = np.where(w > 0, values, 0.0)
    means = np.sum(w * values, axis=-1)
    mean = means.mean()
    sd = np.sqrt(np.mean(np.sum(w * (values - mean) ** 2, axis=-1)))
    quantiles = weighted_quantiles(values.ravel(), (w / len(w)).ravel(), np.array(list(LEVELS.values())))
    return [mean, sd, *quantiles, of_mean(values, w, groups)]


def weighted_quantiles(values: np.ndarray, w: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The smallest value at which the cumulative weight reaches each level."""
    order = np.argsort(values)
    cumulative = np.cumsum(w[order])
    return values[order][np.searchsorted(cumulative, levels * cumulative[-1])]


def labels(prior: AbstractPrior, name: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """ArviZ labels of the entries of a variable, and their indices: ``phi[1]``, ``effect[north]``."""
    dims = prior.dims.get(name, ())
    coords = [_coords(prior, dims[i] if i < len(dims) else None, size) for i, size in enumerate(shape)]
    out = []
    for index in itertools.product(*map(range, shape)):
        inside = ", ".join(str(coords[i][j]) for i, j in enumerate(index))
        out.append((f"{name}[{inside}]" if shape else name, index))
    return out


def _coords(prior: AbstractPrior, dim: str | None, size: int) -> Any:
    return prior.coords.get(dim, range(size)) if dim is not None else range(size)
