"""Monte Carlo error: how far evidence and means would be from themselves in another run.

One run's particles fall into groups that are resampled each by itself and moved by proposals fitted to the others, so
the spread between them shows what resampling and moves do wrong (after Durham & Geweke 2014). Few groups may agree by
chance, so the error is at least what resampling alone makes it. Several runs, which share nothing, need no groups.
Where hardly any particle carries weight nothing is known of the error, and it is NaN.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from smcssm.resampling import effective_sample_size
from smcssm.smc2.adapt import compiled, group_variance, lineage_variance
from smcssm.smc2.population import SMC2, Population, at_full_exponent
from smcssm.snapshot import Snapshot


def log_evidence_sd(snapshot: Snapshot) -> float:
    """Standard deviation of the log evidence: between runs, else between groups, else NaN."""
    evidences = snapshot.log_evidence()
    runs = len(evidences)
    if not is_known(snapshot):
        return math.nan
    if runs > 1:
        relative = np.exp(evidences - evidences.max())
        relative = relative.std(ddof=1) / relative.mean()  # at most the root of runs, even if one run has it all
        return float(max(relative, evidences.std(ddof=1)) / runs**0.5)
    return math.nan if snapshot.smc.groups == 1 else float(per_run(snapshot)[0])


def is_known(snapshot: Snapshot) -> bool:
    """Whether enough particles of each run carry the weight for their spread to mean anything."""
    return bool(are_known(snapshot, snapshot.weights()).all())


def are_known(snapshot: Snapshot, w: np.ndarray) -> np.ndarray:
    """The same of each run, from its weights ``[runs, n]``."""
    enough = min(10 * snapshot.smc.prior.size, 0.1 * w.shape[-1])
    return 1 / np.sum(w**2, axis=-1) >= enough


def per_run(snapshot: Snapshot) -> np.ndarray:
    """Standard deviation of each run's log evidence, from its groups and at least from its resamplings."""
    with jax.enable_x64(True):
        return np.sqrt(np.asarray(compiled(_between_groups, snapshot.smc)(snapshot.population)))


def by_lineage(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    """The same from lineages, and how many ancestors survive, of each run. NaN where that is not proved."""
    with jax.enable_x64(True):
        variance, survive = map(np.asarray, compiled(lineage_variance, snapshot.smc)(snapshot.population))
    return np.sqrt(np.maximum(variance, 0.0)), survive


def of_mean(values: np.ndarray, w: np.ndarray, groups: int) -> float:
    """Standard error of a weighted mean of values ``[runs, n]``: between runs, else groups, at least sd / sqrt(ESS).

    The last alone, of one group, does not see the error of earlier moves.
    """
    runs = len(values)
    if runs > 1:
        return float(np.sum(w * values, axis=-1).std(ddof=1) / runs**0.5)
    x, w = values[0], w[0]
    centred = x - w @ x
    least = np.sqrt(np.sum(w * centred**2) * np.sum(w**2))
    if groups == 1:
        return float(least)
    within = np.sum((w * centred).reshape(groups, -1), axis=-1)
    return float(max(least, np.sqrt(np.sum(within**2) * groups / (groups - 1))))


def _between_groups(smc: SMC2, population: Population) -> jax.Array:
    w = at_full_exponent(population)
    between = population.evidence_variance + group_variance(smc, w)
    return jnp.maximum(between, population.lost + 1 / effective_sample_size(w) - 1 / w.shape[-1])
