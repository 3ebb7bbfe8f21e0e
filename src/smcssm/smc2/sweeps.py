"""Sweeps of a Markov kernel over a resampled population, until it has forgotten where it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smcssm.core import Status
from smcssm.smc2.adapt import compiled, mixing
from smcssm.smc2.population import SMC2, Population

Sweep = Callable[[Population, np.ndarray, int], tuple[Population, Float[Array, " s"], Int[Array, " s"]]]
"""(population, due, number of the sweep) -> (population, acceptance rate, status)."""


class Variance(NamedTuple):
    """What one run says of its Monte Carlo error.

    ``log_evidence`` is the variance that the log evidence has gained since the last move, ``mean`` that of the means of
    the unconstrained hyperparameters after this one.
    """

    log_evidence: Float[np.ndarray, " s"]
    mean: Float[np.ndarray, "z s"]

    def after(self, earlier: Variance | None) -> Variance:
        """Of two rungs together: what the evidence gained adds up."""
        return self if earlier is None else self._replace(log_evidence=earlier.log_evidence + self.log_evidence)


class Moved(NamedTuple):
    """How well a population was moved, per series; acceptance is a sum over sweeps.

    ``variance`` is there where the kernel can tell it.
    """

    acceptance: Float[np.ndarray, " s"]
    correlation: Float[np.ndarray, " s"]
    distinct: Int[np.ndarray, " s"]
    sweeps: Int[np.ndarray, " s"]
    status: Int[np.ndarray, " s"]
    variance: Variance | None = None


def decorrelate(
    smc: SMC2, population: Population, sweep: Sweep, due: Bool[np.ndarray, " s"], max_sweeps: int
) -> tuple[Population, Moved]:
    """Sweep until no component correlates with its value before and 99% have moved (or ``max_sweeps``).

    Of less than 1,000 particles all but 10 have to have moved, of less than 200 95%.
    The correlation alone is not enough: at small N its noise hides a share of particles that never moved, and those
    bias the evidence (measured: -0.11 nats against -0.05 at N = 250 after 20 moves; after an outlier, two modes,
    N = 1000: -0.25 nats with 95%, within error with 99%).
    """
    start, n = population.z, population.z.shape[-1]
    none, zero = np.zeros(due.shape, int), np.zeros(due.shape)
    told = Moved(zero, zero, none, none, none)
    for number in range(max_sweeps):
        population, rate, status = sweep(population, due, number)
        correlation, stayed, distinct = jax.device_get(compiled(mixing, smc)(start, population))
        told = Moved(
            acceptance=told.acceptance + np.where(due, rate, 0.0),
            correlation=np.where(due, correlation, told.correlation),
            distinct=np.where(due, distinct, told.distinct),
            sweeps=told.sweeps + due,
            status=np.maximum(told.status, np.where(due, status, Status.OK)),
        )
        due = due & remembers(correlation, stayed, n)
        if not due.any():
            return population, told
    slow = np.where(due, Status.SLOW_MIXING, Status.OK)
    return population, told._replace(status=np.maximum(told.status, slow))


def remembers(
    correlation: Float[np.ndarray, " s"], stayed: Float[np.ndarray, " s"], n: int
) -> Bool[np.ndarray, " s"]:
    """Whether n particles still tell where they were, beyond the noise of their correlation."""
    return (correlation >= max(0.1, 3 / n**0.5)) | (stayed >= min(0.05, max(0.01, 10 / n)))
