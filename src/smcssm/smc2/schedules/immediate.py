"""Move when the effective sample size asks for it, over all of history, at once.

    when ESS < threshold * N, or a surprise entered with phi < 1:
        resample and move; while phi < 1: raise phi, and resample and move again

As the posterior settles, triggers come at geometrically spaced times and the amortised cost per observation is O(1);
where the data keep contradicting constant hyperparameters they do not. The worst step is O(t).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.arguments import whole
from smcssm.core import AbstractFilter, AbstractKernel, AbstractSchedule, Observation, Status
from smcssm.errors import ImpossibleObservationError
from smcssm.history import History
from smcssm.resampling import effective_sample_size
from smcssm.smc2 import exchange
from smcssm.smc2.adapt import climb, compiled, mixing
from smcssm.smc2.population import SMC2, Population, sort_marginals
from smcssm.smc2.report import Row
from smcssm.smc2.sweeps import Moved, Variance

_TOO_FAR = (
    "lies beyond what model and prior can explain: after {0} tempering steps only a fraction {1:.1e} of its likelihood "
    "could be taken in"
)
PACE = 10  # rungs over which the pace of a climb is measured


class MoveReport(NamedTuple):
    """What a move did, per series: mean acceptance over its sweeps, and how well its last rung mixed.

    ``correction`` is what candidates have changed the log evidence by (see `smc2.evidence`). Paced moves add the Pareto
    k of their importance weights, and the log evidence by these less the running one, with the sd of that gap.
    """

    t: Int[np.ndarray, " s"]
    due: Bool[np.ndarray, " s"]
    acceptance: Float[np.ndarray, " s"]
    correlation: Float[np.ndarray, " s"]
    distinct: Int[np.ndarray, " s"]
    status: Int[np.ndarray, " s"]
    sweeps: Int[np.ndarray, " s"]
    rungs: int = 0
    pareto_k: Float[np.ndarray, " s"] | None = None
    gap: Float[np.ndarray, " s"] | None = None
    gap_sd: Float[np.ndarray, " s"] | None = None
    variance: Variance | None = None
    correction: Float[np.ndarray, " s"] | float = 0.0

    @classmethod
    def start(cls, population: Population, due: Bool[np.ndarray, " s"]) -> MoveReport:
        """Before the first rung."""
        zero = np.zeros(due.shape)
        none = zero.astype(int)
        return cls(np.asarray(population.t), due, zero, zero, none, none, none, correction=zero)

    def rung(
        self, moved: Moved, due: Bool[np.ndarray, " s"], before: Float[Array, " s"], after: Float[Array, " s"]
    ) -> MoveReport:
        """After one more rung in the series that are due, and its log evidences; acceptance is a sum until ``end``."""
        return self._replace(
            acceptance=self.acceptance + moved.acceptance,
            correlation=np.where(due, moved.correlation, self.correlation),
            distinct=np.where(due, moved.distinct, self.distinct),
            status=np.maximum(self.status, moved.status),
            sweeps=self.sweeps + moved.sweeps,
            correction=self.correction + (np.asarray(after) - np.asarray(before)),
            rungs=self.rungs + 1,
            variance=None if moved.variance is None else moved.variance.after(self.variance),
        )

    def end(self) -> MoveReport:
        """After the last rung."""
        return self._replace(acceptance=self.acceptance / np.maximum(self.sweeps, 1))

    def following(self, earlier: MoveReport) -> MoveReport:
        """As the last part of one move, which started with an ``earlier`` one."""
        return self._replace(
            due=self.due | earlier.due,
            acceptance=np.where(self.due, self.acceptance, earlier.acceptance),
            correlation=np.where(self.due, self.correlation, earlier.correlation),
            distinct=np.where(self.due, self.distinct, earlier.distinct),
            status=np.maximum(self.status, earlier.status),
            sweeps=self.sweeps + earlier.sweeps,
            correction=self.correction + earlier.correction,
            rungs=earlier.rungs + 1 + self.rungs,
            variance=None if self.variance is None else self.variance.after(earlier.variance),
        )


class Immediate(AbstractSchedule):
    """Everything at the trigger. ``tempering=False`` lets surprises in whole (to see what tempering is for)."""

    tempering: bool = True
    remembers: None = None
    max_sweeps: int = 30
    max_rungs: int = 200

    def __check_init__(self) -> None:
        whole("Immediate(max_sweeps)", self.max_sweeps, 1)
        whole("Immediate(max_rungs)", self.max_rungs, 1)

    def init(self, smc: SMC2, population: Population) -> PyTree[Array]:
        """Nothing is ever pending between observations."""
        return ()

    def check(self, move: AbstractKernel | None, filter: AbstractFilter) -> None:
        """Every kernel and filter will do."""

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
        """Where the ESS is low or a surprise is waiting."""
        return wants_move(smc, population)

    def act(
        self, smc: SMC2, pending: PyTree[Array], population: Population, history: History, due: Bool[np.ndarray, " s"]
    ) -> tuple[PyTree[Array], Population, MoveReport]:
        """Resample, move, and climb to phi = 1; with more inner particles where noise stood in the way."""
        since = np.where(np.asarray(population.phi) < 1, len(history) - 1, len(history))
        population, report = self.climb(smc, population, history, due, since)
        again = True
        while again and exchange.suspected(smc, report.acceptance, due):
            population, report, again = self._refine(smc, population, history, due, report)
        return pending, population, report

    def _refine(
        self, smc: SMC2, population: Population, history: History, due: Bool[np.ndarray, " s"], report: MoveReport
    ) -> tuple[Population, MoveReport, bool]:
        """Twice the inner particles if noise was the reason, and another move where the exchange has cost ESS."""
        population, status = exchange.refine(smc, population, history, report.rungs)
        report = report._replace(status=np.maximum(report.status, np.where(due, status, Status.OK)))
        short = np.asarray(compiled(wants_move, smc)(population))
        if not short.any():
            return population, report, False
        everything = np.full(due.shape, len(history))
        population, after = self.climb(smc, population, history, short, everything, first_rung=report.rungs + 1)
        return population, after.following(report), True

    def climb(
        self,
        smc: SMC2,
        population: Population,
        history: History,
        due: Bool[np.ndarray, " s"],
        since: Int[np.ndarray, " s"],
        first_rung: int = 0,
    ) -> tuple[Population, MoveReport]:
        """The same where surprises from row ``since`` on are pending; rungs count from ``first_rung``, for the keys."""
        report, climbed = MoveReport.start(population, due), [_log_phi(population)]
        while due.any():
            if (hopeless := due & self._out_of_reach(climbed)).any():
                taken_in = np.exp(climbed[-1][hopeless].min())
                raise ImpossibleObservationError(_TOO_FAR.format(report.rungs, taken_in), hopeless)
            before = population.log_evidence
            population, moved = smc.kernel.move(
                smc, population, history, since, due, rung=first_rung + report.rungs, max_sweeps=self.max_sweeps
            )
            report = report.rung(moved, due, before, population.log_evidence)
            population, due = compiled(climb, smc)(population, due)
            due = np.asarray(due)
            climbed.append(_log_phi(population))
        return compiled(sort_marginals, smc)(population), report.end()

    def _out_of_reach(self, climbed: list[Float[np.ndarray, " s"]]) -> Bool[np.ndarray, " s"]:
        """Whether log phi, given after each rung, would not be 0 at the last rung at four times its present pace.

        Each rung goes over all of history, so that hopeless ones are dear. Paces fall, but may pick up again under a
        prior with an upper bound: fourfold is more than outliers of up to 1e9 sd needed in trials.
        """
        left = self.max_rungs - (len(climbed) - 1)
        if left == 0 or len(climbed) <= PACE:
            return np.full(climbed[-1].shape, left == 0)
        return -climbed[-1] > 4 * left * (climbed[-1] - climbed[-1 - PACE]) / PACE

    def warmup(self, smc: SMC2, pending: PyTree[Array], population: Population, history: History) -> None:
        """A move, thrown away."""
        due = np.ones(population.t.shape, bool)
        moved = smc.kernel.warmup(smc, population, history)
        compiled(mixing, smc)(population.z, moved)
        compiled(climb, smc)(moved, due)
        compiled(sort_marginals, smc)(moved)


def wants_move(smc: SMC2, population: Population) -> Bool[Array, " s"]:
    """Where the ESS is low or a surprise is waiting."""
    low = effective_sample_size(population.log_weight) < smc.ess_threshold * population.log_weight.shape[-1]
    return low | (population.phi < 1)


def _log_phi(population: Population) -> Float[np.ndarray, " s"]:
    return np.log(np.asarray(population.phi))
