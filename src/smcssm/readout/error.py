"""Monte Carlo error: how far evidence and means would be from themselves in another run.

One run's particles fall into groups that are resampled each by itself and moved by proposals fitted to the others, so
the spread between them shows what resampling and moves do wrong (after Durham & Geweke 2014). Several runs, which share
nothing, need no groups.
"""

from __future__ import annotations

import math

import jax
import numpy as np

from smcssm.smc2.adapt import compiled, group_variance, lineage_variance
from smcssm.smc2.population import SMC2, Population, at_full_exponent
from smcssm.snapshot import Snapshot


def log_evidence_sd(snapshot: Snapshot) -> float:
    """Standard deviation of the log evidence: between runs, else between groups, else NaN."""
    evidences = snapshot.log_evidence()
    runs = len(evidences)
    if runs > 1:
        relative = np.exp(evidences - evidences.max())
        relative = relative.std(ddof=1) / relative.mean()  # at most the root of runs, even if one run has it all
        return float(max(relative, evidences.std(ddof=1)) / runs**0.5)
    return math.nan if snapshot.smc.groups == 1 else float(per_run(snapshot)[0])


def per_run(snapshot: Snapshot) -> np.ndarray:
    """Standard deviation of each run's log evidence, from its groups."""
    with jax.enable_x64(True):
        return np.sqrt(np.asarray(compiled(_between_groups, snapshot.smc)(snapshot.population)))


def by_lineage(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    """The same from lineages, and how many ancestors survive, of each run. NaN where that is not proved."""
    with jax.enable_x64(True):
        variance, survive = map(np.asarray, compiled(lineage_variance, snapshot.smc)(snapshot.population))
    return np.sqrt(np.maximum(variance, 0.0)), survive


def of_mean(values: np.ndarray, w: np.ndarray, groups: int) -> float:
    """Standard error of a weighted mean of values ``[runs, n]``: between runs, else groups; else sd / sqrt(ESS).

    The last does not see the error of earlier moves.
    """
    runs = len(values)
    if runs > 1:
        return float(np.sum(w * values, axis=-1).std(ddof=1) / runs**0.5)
    x, w = values[0], w[0]
    centred = x - w @ x
    if groups == 1:
        return float(np.sqrt(np.sum(w * centred**2) * np.sum(w**2)))
    within = np.sum((w * centred).reshape(groups, -1), axis=-1)
    return float(np.sqrt(np.sum(within**2) * groups / (groups - 1)))


def _between_groups(smc: SMC2, population: Population) -> jax.Array:
    return population.evidence_variance + group_variance(smc, at_full_exponent(population))
