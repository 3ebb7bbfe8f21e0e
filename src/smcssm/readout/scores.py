"""How good the one-step forecasts were: running sums over all observations, kept with each row of the record.

Every row holds the sums up to itself. So the last row has those of the whole stream, however short the record; a call
that fails changes nothing; and the difference of two rows scores what lies between: leave-future-out
cross-validation (Bürkner, Gabry & Vehtari 2020, doi:10.1080/00949655.2020.1783262) without a refit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from smcssm.errors import ModelError
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd

_BINS = 10  # of the PIT
COVERAGE = {"coverage_50": 0.5, "coverage_90": 0.9}
COLUMNS = ["n", "log_score", "crps", "rmse", *COVERAGE, "calibration"]
_SUMS = ("n", "crps", "squared_error", *COVERAGE)


class Forecasts(NamedTuple):
    """Of a block ``[t, channel]``; ``crps`` is NaN where that of a normal law is to be taken."""

    mean: np.ndarray
    sd: np.ndarray
    pit: np.ndarray
    crps: np.ndarray


def running(y: np.ndarray, told: Forecasts, before: np.ndarray | None) -> np.ndarray:
    """Sums ``[t, channel, :]`` after each row of a block ``[t, channel]``, NaN missing, that follows ``before``."""
    mean, sd, pit, crps = told
    seen = ~np.isnan(y) & ~np.isnan(mean)  # of late rows there was no forecast
    columns = [seen, np.where(np.isnan(crps), crps_of_normal(y, mean, sd), crps), (y - mean) ** 2]
    columns += [np.abs(pit - 0.5) <= level / 2 for level in COVERAGE.values()]
    bins = np.minimum((np.nan_to_num(pit) * _BINS).astype(int), _BINS - 1)
    columns += [bins == b for b in range(_BINS)]
    rows = np.where(seen[..., None], np.stack(columns, axis=-1), 0.0)
    if before is not None:
        rows[:1] += before
    return np.cumsum(rows, axis=0)


def none(*shape: int) -> np.ndarray:
    """Sums ``[..., :]`` of no observation."""
    return np.zeros((*shape, len(_SUMS) + _BINS))


def crps_of_normal(y: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of N(mean, sd²) (Gneiting & Raftery 2007, doi:10.1198/016214506000001437)."""
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        u = (y - mean) / sd
    density = np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi)
    return sd * (u * (2 * ndtr(u) - 1) + 2 * density - 1 / np.sqrt(np.pi))


def scores(snapshot: Snapshot, since: int = 0) -> pd.DataFrame:
    """Scores of the one-step forecasts of observations ``since`` + 1 to t, a row for each channel.

    ``n`` values that were there; ``log_score``, their mean log predictive density (in the row ``joint``, of all
    channels together, and there per observation; its sum is ``log_evidence`` for since=0, but for what moves have
    corrected of that); ``crps`` and ``rmse``, means, lower is better; with ``Particle`` and ``RaoBlackwell`` the CRPS
    is that of the forecast itself, from a draw of each particle and so without bias, else that of the normal law with
    its mean and sd; ``coverage_50`` and ``coverage_90``, the share of values in the central 50% and 90% of their
    forecasts; ``calibration``, the p-value of a chi-squared test that the PIT is uniform over ten bins.
    """
    import pandas as pd

    if snapshot.record is None:
        raise ModelError("this engine keeps no record: build it with record=10_000, or as many steps as you need")
    channels = list(snapshot.smc.filter.model.channel_names)
    rows = {c: line(sums) for c, sums in zip(channels, _between(snapshot, "scores", since), strict=True)}
    total, n = float(_between(snapshot, "log_score", since)), int(_between(snapshot, "scored", since))
    rows["joint"] = {"n": float(n), "log_score": total / n if n else np.nan}
    if len(channels) == 1:
        rows[channels[0]]["log_score"] = rows["joint"]["log_score"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS).astype({"n": int})


def _between(snapshot: Snapshot, column: str, since: int) -> np.ndarray:
    """What a running sum has grown by."""
    assert snapshot.record is not None
    if not snapshot.record:
        return none(len(snapshot.smc.filter.model.channel_names)) if column == "scores" else np.zeros(())
    times, sums = snapshot.record["t"], snapshot.record[column]
    if since == 0:
        return np.asarray(sums[-1])
    if not times[0] <= since <= times[-1]:
        raise ModelError(f"scores(since={since}): the record holds observations {times[0]} to {times[-1]}")
    return np.asarray(sums[-1] - sums[since - times[0]])


def line(sums: np.ndarray) -> dict[str, float]:
    """One line of the table from the sums of one channel."""
    named, bins = dict(zip(_SUMS, sums.tolist(), strict=False)), sums[len(_SUMS) :]
    n = named["n"]
    if n == 0:
        return {"n": 0.0}
    expected = n / _BINS
    from scipy.stats import chi2

    p_value = chi2.sf(np.sum((bins - expected) ** 2) / expected, _BINS - 1)
    means = {name: named[name] / n for name in ("crps", *COVERAGE)}
    return {"n": n, "rmse": (named["squared_error"] / n) ** 0.5, "calibration": float(p_value), **means}
