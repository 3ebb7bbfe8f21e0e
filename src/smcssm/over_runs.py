"""Independent runs told as one: averages over them, on the scale on which each quantity is unbiased."""

from __future__ import annotations

from typing import Any

import numpy as np

from smcssm.record import StepInfos
from smcssm.runtime import Rows


def log_mean(log_values: np.ndarray) -> Any:
    """Log of the mean over the last axis."""
    if log_values.shape[-1] == 1:
        return log_values[..., 0]
    top = log_values.max(axis=-1, keepdims=True)
    return top[..., 0] + np.log(np.mean(np.exp(log_values - top), axis=-1))


def across(how: Any, values: np.ndarray) -> np.ndarray:
    """A reduction over runs; of one run, its own values."""
    return values[..., 0] if values.shape[-1] == 1 else how(values, axis=-1)


def over_runs(rows: Rows, t: int, n_channels: int) -> tuple[StepInfos, np.ndarray]:
    """Independent runs averaged; log-predictives add up to the log evidence but for what moves correct."""
    row, accepted = rows.row, np.ma.masked_invalid
    mean = across(np.mean, row.predictive_mean)
    between = across(np.var, row.predictive_mean) if row.ess.shape[-1] > 1 else 0.0
    sd = np.sqrt(across(np.mean, row.predictive_sd**2) + between)
    pit = across(np.mean, row.pit)
    mean, sd, pit = (a[:, 0] if n_channels == 1 else a for a in (mean, sd, pit))
    infos = StepInfos(
        t=t + 1 + np.arange(len(row.ess)),
        log_predictive=log_mean(rows.log_evidence[1:] - rows.correction) - log_mean(rows.log_evidence[:-1]),
        predictive_mean=mean,
        predictive_sd=sd,
        pit=pit,
        ess=across(np.sum, row.ess),
        moved=across(np.any, rows.moved),
        acceptance=across(lambda a, axis: accepted(a).mean(axis).filled(np.nan), rows.acceptance),
        status=across(np.max, row.status),
    )
    return infos, across(np.mean, row.quantiles)
