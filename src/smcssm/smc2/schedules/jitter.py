"""Resample, and jitter the hyperparameters instead of moving them: constant time and memory, no history, a bias.

    when ESS < threshold * N:   resample;  theta_i <- a draw near theta_i;  beliefs stay

A belief was filtered under another theta than the one it is paired with from then on, and nothing corrects for that.

`CrisanMiguez`  theta' ~ N(theta, factor² / N times the covariance of the population). Crisan & Miguez (2018,
                doi:10.3150/17-BEJ954) let the mean square of the jitter shrink like 1 / N, and the error does so too.
`LiuWest`       theta' ~ N(a theta + (1 - a) mean, (1 - a²) covariance), a = (3 discount - 1) / (2 discount): mean and
                covariance of the population are kept, but the bias does not vanish with N (Liu & West 2001).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from smcssm.arguments import whole
from smcssm.core import AbstractFilter, AbstractKernel, AbstractSchedule, Observation, at_each_particle
from smcssm.errors import ModelError
from smcssm.history import History
from smcssm.smc2.adapt import compiled, from_folds, in_folds, mixing, move_key, resample
from smcssm.smc2.population import SMC2, Population, fold_in, log_prior, select, sort_marginals
from smcssm.smc2.proposals.points import clean
from smcssm.smc2.report import Row
from smcssm.smc2.schedules.immediate import Immediate, MoveReport, wants_move


class CrisanMiguez(eqx.Module):
    """Jitter of standard deviation ``factor`` / sqrt(N), in standard deviations of the population."""

    factor: float = 2.0

    def __check_init__(self) -> None:
        if not self.factor > 0:
            raise ModelError(f"CrisanMiguez(factor={self.factor}): expected a positive number, such as 2.0")

    def shrinkage(self, n: int) -> tuple[float, float]:
        """How much of a particle's distance from the mean is kept, and the sd of the noise."""
        return 1.0, self.factor / n**0.5


class LiuWest(eqx.Module):
    """Shrinkage towards the mean by as much as the noise widens; ``discount`` in (1/3, 1), near 1 for little."""

    discount: float = 0.98

    def __check_init__(self) -> None:
        if not 1 / 3 < self.discount < 1:
            raise ModelError(f"discount={self.discount}: expected a number between 1/3 and 1, such as 0.98")

    def shrinkage(self, n: int) -> tuple[float, float]:
        """How much of a particle's distance from the mean is kept, and the sd of the noise."""
        a = (3 * self.discount - 1) / (2 * self.discount)
        return a, (1 - a**2) ** 0.5


class Jitter(AbstractSchedule):
    """Constant time and memory at the price of a bias. The first ``exact`` observations are moved over exactly.

    Surprises enter whole: without history there is nothing to climb back with. For streams that stay what they are: a
    jitter is small beside the posterior, and does not follow hyperparameters that change.
    """

    kernel: Any = CrisanMiguez()
    exact: int = 64
    tempering: bool = False

    def __check_init__(self) -> None:
        if not isinstance(self.kernel, (CrisanMiguez, LiuWest)):
            raise ModelError(
                f"Jitter(kernel={self.kernel!r}): expected ss.schedules.CrisanMiguez() or ss.schedules.LiuWest(0.98)"
            )
        whole("Jitter(exact)", self.exact, 0)

    @property
    def remembers(self) -> int:
        """The first rows only."""
        return self.exact

    def turns(self, smc: SMC2) -> tuple[int, ...]:
        """From exact moves to jitter."""
        return (self.exact,)

    def check(self, move: AbstractKernel | None, filter: AbstractFilter) -> None:
        """Jitter takes the place of a move."""
        if move is not None:
            raise ModelError(f"schedule=Jitter() with move={move!r}: jitter takes the place of moves: leave move= out")

    def init(self, smc: SMC2, population: Population) -> PyTree[Array]:
        """Nothing is ever pending."""
        return ()

    def feed(
        self, smc: SMC2, pending: PyTree[Array], history: History, block: Observation, count: int, known: int = 0
    ) -> PyTree[Array]:
        """Nothing is needed."""
        return ()

    def advance(
        self, smc: SMC2, pending: PyTree[Array], population: Population, row: Row, feed: PyTree[Array]
    ) -> PyTree[Array]:
        """Nothing to do."""
        return pending

    def due(self, smc: SMC2, pending: PyTree[Array], population: Population) -> Bool[Array, " s"]:
        """Where the ESS is low."""
        return wants_move(smc, population)

    def act(
        self, smc: SMC2, pending: PyTree[Array], population: Population, history: History, due: Bool[np.ndarray, " s"]
    ) -> tuple[PyTree[Array], Population, MoveReport]:
        """Resample and jitter."""
        if int(np.max(population.t)) <= self.exact:
            return Immediate(tempering=False).act(smc, pending, population, history, due)
        report = MoveReport.start(population, due)
        population, correlation, distinct = compiled(jitter, smc, self.kernel)(population, due)
        report = report._replace(correlation=np.asarray(correlation), distinct=np.asarray(distinct), sweeps=0 + due)
        return pending, population, report._replace(acceptance=np.where(due, 1.0, 0.0))

    def warmup(self, smc: SMC2, pending: PyTree[Array], population: Population, history: History) -> None:
        """An exact move and a jitter, thrown away."""
        Immediate(tempering=False).warmup(smc, pending, population, history)
        compiled(jitter, smc, self.kernel)(population, np.ones(population.t.shape, bool))


def jitter(
    smc: SMC2, kernel: CrisanMiguez | LiuWest, population: Population, due: Bool[Array, " s"]
) -> tuple[Population, Float[Array, " s"], Array]:
    """Resample and jitter the series that are due; what would leave the prior's support stays where it is."""
    z, w, n_series = in_folds(smc, population.z), in_folds(smc, population.log_weight), len(population.t)
    of_prior = (jnp.repeat(a[..., 0].T, len(z) // n_series, axis=0) for a in (population.centre, population.scale))
    points = jax.vmap(clean)(z, w, *of_prior)
    population = resample(smc, population, due, jnp.zeros((), jnp.int64))
    z = in_folds(smc, population.z)
    keep, spread = kernel.shrinkage(population.z.shape[-1])
    keys = fold_in(move_key(population, 0, 1), 1)
    noise = jax.vmap(lambda k: jax.random.normal(k, population.z[:, 0].shape, z.dtype), out_axes=1)(keys)
    centre = keep * z + (1 - keep) * points.mean[..., None]
    new = from_folds(centre + spread * points.chol @ in_folds(smc, noise), n_series)
    inside = jnp.isfinite(log_prior(smc, new)) & due[:, None]
    new = jnp.where(inside[None], new, population.z)
    theta = at_each_particle(smc.prior.constrain)(new)
    params = at_each_particle(smc.filter.model.params)(theta)
    params = jax.tree.map(lambda a, old: a.astype(old.dtype), params, population.params)
    moved = eqx.tree_at(lambda p: (p.z, p.params), population, (new, params))
    moved = select(due, moved, population)
    correlation, _, distinct = mixing(smc, population.z, moved)
    return sort_marginals(smc, moved), correlation, distinct
