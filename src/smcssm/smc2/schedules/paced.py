"""Move with a bounded amount of work at every observation; the target stays the exact posterior.

At a trigger challengers are drawn (see `smc2.cycle`); with each later observation they advance by at most `budget`
rows of history, and when they have caught up they are judged. The work of a step is at most N (1 + sets * budget)
filter steps, however long the stream. While history is short, moves are immediate.

Catching up from row s takes about s / (budget - 1) observations, over which the effective sample size falls by about
exp(-d / (budget - 1)) for d hyperparameters: the budget grows with d.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Array, Bool

from smcssm.core import AbstractFilter, AbstractKernel, AbstractProposal, AbstractSchedule, Observation, Status
from smcssm.errors import ImpossibleObservationError, ModelError
from smcssm.history import History
from smcssm.smc2 import exchange
from smcssm.smc2.adapt import compiled
from smcssm.smc2.cycle import (
    CLOSED,
    Cycle,
    Feed,
    Twins,
    Verdict,
    finish,
    follow,
    idle,
    judge,
    remember,
    settled,
    start,
    twins,
)
from smcssm.smc2.kernels.metropolis import Metropolis
from smcssm.smc2.population import SMC2, Population
from smcssm.smc2.report import Row
from smcssm.smc2.schedules.immediate import Immediate, MoveReport, wants_move

SHORT = 4  # histories of up to SHORT * budget rows are moved over at once
FAINT = 1e-6  # a surprise of which so little could enter would be pending for ever

_TOO_FAR = (
    "lies beyond what model and prior can explain: at first only a fraction {0:.1e} of its likelihood could be taken in"
)


class Paced(AbstractSchedule):
    """Bounded work per observation.

    Args:
        budget: rows of history per observation and challenger, at least 2. "auto" takes 16, or 4 for each
            hyperparameter if that is more, and up to four times that for a population that lags behind.
        sets: how many sets of N challengers are drawn at a trigger, so many sweeps there are at catch-up.
        share: of the series of a fleet, how many may have challengers on their way at a time (or 8, if that is more);
            the others wait for their turn. 1.0: none waits.
    """

    budget: int | str = "auto"
    sets: int = 3
    share: float = 0.25
    tempering: bool = True
    remembers: None = None
    immediate: Immediate = Immediate()

    def __check_init__(self) -> None:
        if self.budget != "auto" and not (isinstance(self.budget, (int, np.integer)) and self.budget >= 2):
            raise ModelError(f'budget={self.budget!r}: expected "auto", or how many rows of history: at least 2')
        if not (isinstance(self.sets, int) and self.sets >= 1):
            raise ModelError(f"sets={self.sets!r}: expected a whole number >= 1")
        if not (isinstance(self.share, (int, float)) and 0 < self.share <= 1):
            raise ModelError(f"share={self.share!r}: expected a share of the series of a fleet, above 0 and up to 1.0")

    def check(self, move: AbstractKernel | None, filter: AbstractFilter) -> None:
        """Challengers are drawn long before they are judged: only an independence proposal can do that."""
        if move is not None and not (isinstance(move, Metropolis) and _independent(move)):
            raise ModelError(
                f"schedule=Paced() with move={move!r}: challengers are drawn long before they are judged, so their "
                'proposal must not depend on where a particle is: move=Metropolis("independent") or "auto", or '
                "schedule=Immediate()"
            )

    def budgets(self, smc: SMC2) -> tuple[int, int]:
        """At first, and at most."""
        if not isinstance(self.budget, str):
            return int(self.budget), int(self.budget)
        least = max(16, 4 * smc.prior.size)
        return least, 4 * least

    def init(self, smc: SMC2, population: Population) -> Cycle:
        """No challengers."""
        return compiled(idle, smc, _proposal(smc), self.sets, self.budgets(smc)[0])(population)

    def feed(
        self, smc: SMC2, pending: Cycle, history: History, block: Observation, count: int, known: int = 0
    ) -> Feed:
        """The rows of history that challengers will take with each row of the block."""
        length, (_, most) = len(block.dt), self.budgets(smc)
        total = len(history) - known + 1 + np.arange(length)[:, None] + np.zeros(block.dt.shape[1:], np.int64)
        active, at, budget, since = jax.device_get((pending.active, pending.at, pending.budget, pending.since))
        rows = jax.tree.map(lambda leaf: np.zeros((length, most, *leaf.shape[1:]), leaf.dtype), block)
        pooled = np.zeros((length, most, block.dt.shape[1]), bool)
        if active.any():
            ahead = np.arange(count)[:, None, None] * budget + np.arange(most)[:, None]
            taken, marks = history.take((at + ahead).reshape(-1, len(at)), since, block)
            for target, leaf in zip(jax.tree.leaves((rows, pooled)), jax.tree.leaves((taken, marks)), strict=True):
                target[:count] = leaf.reshape(count, most, *leaf.shape[1:])
        return Feed(rows, pooled, total)

    def advance(self, smc: SMC2, pending: Cycle, population: Population, row: Row, feed: Feed) -> Cycle:
        """Challengers follow."""
        return follow(smc, pending, row, feed)

    def due(self, smc: SMC2, pending: Cycle, population: Population) -> Bool[Array, " s"]:
        """Where challengers have caught up or are wanted, or a surprise changed what they have to take."""
        caught_up = pending.active & (pending.at == settled(smc, pending.rows))
        wanted = wants_move(smc, population) | (pending.waiting > 0)
        return caught_up | pending.fresh | (~pending.active & wanted)

    def turns(self, smc: SMC2) -> tuple[int, ...]:
        """From immediate moves to challengers."""
        return (SHORT * self.budgets(smc)[0],)

    def act(
        self, smc: SMC2, pending: Cycle, population: Population, history: History, due: Bool[np.ndarray, " s"]
    ) -> tuple[Cycle, Population, MoveReport | None]:
        """Judge challengers that have caught up; draw new ones where they are wanted."""
        return self.act_where(smc, pending, population, history, due, np.ones_like(due))

    def act_where(
        self,
        smc: SMC2,
        pending: Cycle,
        population: Population,
        history: History,
        due: Bool[np.ndarray, " s"],
        may_start: Bool[np.ndarray, " s"],
    ) -> tuple[Cycle, Population, MoveReport | None]:
        """The same; new challengers only where there is room for them, elsewhere they wait for their turn.

        Histories may differ in length, unless they are short ones.
        """
        if len(history) <= self.turns(smc)[0]:
            return self._at_once(smc, pending, population, history, due)
        active, at, rows, phi = jax.device_get((pending.active, pending.at, pending.rows, population.phi))
        if history.newest_is_late and phi.min() < 1:
            return self.close(smc, pending, population, history)
        if (faint := phi < FAINT).any():
            raise ImpossibleObservationError(_TOO_FAR.format(phi.min()), faint)
        ready, report = active & (at == np.asarray(settled(smc, rows))), None
        wanted = ~active & due
        if ready.any() and isinstance(pending, Twins):
            population, status = exchange.judged(smc, population, pending.challengers)
            kept = dict(budget=pending.budget, since=pending.since)  # a pool may have opened meanwhile
            pending, report = replace(self.init(smc, population), **kept), _exchanged(population, ready, status)
            wanted = np.ones_like(ready)
        elif ready.any():
            pending, population, verdict = self._judge(smc, pending, population, history, ready)
            report = _report(population, ready, verdict, self.sets)
            if exchange.suspected(smc, verdict.acceptance, ready) and phi.min() == 1:
                return compiled(twins, smc)(pending, population, history.first), population, report
            short = np.asarray(compiled(_wants_move, smc)(population))
            wanted = wanted | (ready & (verdict.again | short))
        waiting = np.where(wanted & ~may_start, np.maximum(pending.waiting, 1), 0)
        pending = replace(pending, fresh=np.zeros(due.shape, bool), waiting=waiting)
        if (wanted & may_start).any() and not isinstance(pending, Twins):
            begin = compiled(start, smc, _proposal(smc), self.sets)
            pending = begin(pending, population, history.first, wanted & may_start)
        return pending, population, report

    def _at_once(
        self, smc: SMC2, pending: Cycle, population: Population, history: History, due: Bool[np.ndarray, " s"]
    ) -> tuple[Cycle, Population, MoveReport]:
        """While history is short."""
        before = smc.filter.inner(population.belief)
        _, population, report = self.immediate.act(smc, (), population, history, due)
        if smc.filter.inner(population.belief) != before:
            return self.init(smc, population), population, report
        return replace(pending, since=np.full(due.shape, CLOSED)), population, report

    def close(
        self, smc: SMC2, pending: Cycle, population: Population, history: History
    ) -> tuple[Cycle, Population, MoveReport | None]:
        """Climb at once, over all of history; challengers that knew of the pool are given up."""
        phi, since = jax.device_get((population.phi, pending.since))
        bridging, last = phi < 1, len(history) - 1
        if not bridging.any():
            return pending, population, None
        since = np.where(bridging, np.minimum(since, last), last + 1)
        population, report = self.immediate.climb(smc, population, history, bridging, since, first_rung=self.sets)
        closed = dict(active=np.asarray(pending.active) & ~bridging, since=np.where(bridging, CLOSED, pending.since))
        return replace(pending, **closed, fresh=np.asarray(pending.fresh) & ~bridging), population, report

    def _judge(
        self, smc: SMC2, pending: Cycle, population: Population, history: History, ready: Bool[np.ndarray, " s"]
    ) -> tuple[Cycle, Population, Verdict]:
        if smc.horizon:
            pending = compiled(remember, smc)(pending)
            for chunk in history.chunks(np.asarray(pending.since), start=max(len(history) - smc.horizon, 0)):
                pending = compiled(finish, smc)(pending, chunk, ready)
        pending, population, verdict = compiled(judge, smc, _proposal(smc), self.sets)(pending, population, ready)
        budget = np.minimum(np.asarray(pending.budget), self.budgets(smc)[1])
        return replace(pending, budget=budget), population, Verdict(*map(np.asarray, verdict))

    def warmup(self, smc: SMC2, pending: Cycle, population: Population, history: History) -> None:
        """An immediate move and a cycle, thrown away."""
        self.immediate.warmup(smc, (), population, history)
        due = np.ones(population.t.shape, bool)
        pending = compiled(start, smc, _proposal(smc), self.sets)(pending, population, history.first, due)
        _, population, _ = self._judge(smc, pending, population, history, due)
        compiled(_wants_move, smc)(population)


def _independent(kernel: Metropolis) -> AbstractProposal | None:
    return next((p for p in kernel.proposals if p.independent), None)


def _proposal(smc: SMC2) -> AbstractProposal:
    assert isinstance(smc.kernel, Metropolis)
    proposal = _independent(smc.kernel)
    assert proposal is not None
    return proposal


def _wants_move(smc: SMC2, population: Population) -> Bool[Array, " s"]:
    return wants_move(smc, population)


def _exchanged(population: Population, ready: Bool[np.ndarray, " s"], status: Status) -> MoveReport | None:
    """An exchange is no move, and reported only where it was wanted but not allowed."""
    told = MoveReport.start(population, ready)
    return None if status == Status.OK else told._replace(status=np.where(ready, status, Status.OK))


def _report(population: Population, ready: Bool[np.ndarray, " s"], verdict: Verdict, sets: int) -> MoveReport:
    start = MoveReport.start(population, ready)
    chosen = {
        name: np.where(ready, getattr(verdict, name), getattr(start, name))
        for name in ("acceptance", "correlation", "distinct", "status", "correction")
    }
    check = {name: np.where(ready, getattr(verdict, name), np.nan) for name in ("pareto_k", "gap", "gap_sd")}
    return start._replace(**chosen, **check, sweeps=np.where(ready, sets, 0), rungs=1)
