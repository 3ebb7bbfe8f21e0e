"""The shell around the programs of a fleet: compute from committed state, commit by one assignment.

At each step all series that reported take their row in one program. Those that need their schedule then are gathered
into batches, moved, and put back. What one series cannot take is refused for it alone: the step is computed once more
without its row, which changes nothing for the others.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from smcssm import forks
from smcssm.core import Observation, Status
from smcssm.errors import ImpossibleObservationError, ModelError
from smcssm.fleets.histories import Histories
from smcssm.fleets.pacing import followed, put_back, some_of, turn
from smcssm.history import Columns, History, Store
from smcssm.ingest import Layout
from smcssm.readout.scores import none as no_scores
from smcssm.runtime import after_move, blank, fresh, series_keys, settled
from smcssm.smc2.adapt import compiled
from smcssm.smc2.batch import Batch, batches, put, take
from smcssm.smc2.population import SMC2, Population
from smcssm.smc2.report import Row, unpack
from smcssm.smc2.schedules import Immediate, Paced
from smcssm.smc2.step import advance, with_stepped


class State(NamedTuple):
    """All of a fleet, replaced as a whole or not at all.

    Of each series: its name, how many observations it has ``taken``, how many of them its history keeps (``lengths``),
    the time of its ``last`` observation, and why it is in quarantine, ``OK`` if it is not. ``sums`` are those of its
    scores. ``born`` series there have been: the next one's number makes its key. The fleet was given so many ``rows``;
    with releases from quarantine they are ``length`` records of its journal.
    """

    names: tuple[Any, ...]
    born: int
    population: Population
    pending: PyTree
    histories: Histories
    log_evidence: Float[np.ndarray, " s"]
    taken: Int[np.ndarray, " s"]
    lengths: Int[np.ndarray, " s"]
    quarantine: Int[np.ndarray, " s"]
    sums: dict[str, np.ndarray]
    last: np.ndarray | None = None
    zone: str | None = None
    layout: Layout | None = None
    rows: int = 0
    length: int = 0


class Told(NamedTuple):
    """What one row said of each series; only where it was ``taken`` does it mean anything, but for the status."""

    row: Row
    taken: Bool[np.ndarray, " s"]
    mask: Bool[np.ndarray, "y s"]
    log_predictive: Float[np.ndarray, " s"]
    moved: Bool[np.ndarray, " s"]
    acceptance: Float[np.ndarray, " s"]


class _Refused(Exception):
    """The row of some series cannot be taken: found out when more than a filter step had been done."""

    def __init__(self, series: Bool[np.ndarray, " s"], status: Status) -> None:
        super().__init__()
        self.series, self.status = series, status


class FleetRuntime:
    """Committed state and programs of one configuration."""

    store: Store | None = None
    """The journal, if there is one."""

    def __init__(self, smc: SMC2, n_particles: int, seed: int, names: tuple[Any, ...], first: int = 0) -> None:
        self.smc, self.n_particles, self.seed, self.first = smc, n_particles, seed, first
        self._filtering = replace(smc, schedule=Immediate(smc.schedule.tempering))  # all else is done for few series
        self.lock, self.busy = forks.guarded(self, threading.RLock()), False
        self.n_channels = len(smc.filter.model.channel_names)
        self.state = self.fresh(names, first)

    def fresh(self, names: tuple[Any, ...], born: int) -> State:
        """Series at their prior, when others were born before them."""
        n = len(names)
        with jax.enable_x64(True):
            keys = series_keys(self.seed, np.arange(born, born + n))
            population = fresh(self.smc, keys, self.n_particles)
            pending = self.smc.schedule.init(self.smc, population)
        none, zero = np.zeros(n, np.int64), np.zeros(n)
        sums = {"scores": no_scores(self.n_channels, n), "log_score": zero, "scored": none}
        return State(names, born + n, population, pending, Histories(), zero, none, none, none, sums)

    def step(self, state: State, row: Observation) -> tuple[State, Told]:
        """The state after a row of every series that reported; nothing is committed."""
        found, offered = np.zeros(len(state.taken), np.int64), np.asarray(row.reported)
        while True:
            try:
                after, told = self._attempt(state, row)
                break
            except _Refused as refusal:
                again = (found[refusal.series] != Status.OK).any()  # without its value too
                found[refusal.series] = refusal.status
                missing = self.smc.impossible == "missing" and refusal.status == Status.IMPOSSIBLE and not again
                row = without(row, refusal.series, reported=missing)
        told.row.status[:] = np.maximum(told.row.status, found)
        quarantine = np.where(offered & ~told.taken, told.row.status, state.quarantine)
        told.row.status[:] = np.maximum(told.row.status, quarantine)
        return after._replace(quarantine=quarantine), told

    def _attempt(self, state: State, row: Observation) -> tuple[State, Told]:
        smc, n = self.smc, len(state.taken)
        changed, rows, wants = self._observe(state, row)
        population, reported = with_stepped(state.population, changed), np.asarray(row.reported)
        rows.status[~reported] = Status.OK
        impossible = rows.status == Status.IMPOSSIBLE
        taken = reported if smc.impossible == "missing" else reported & ~impossible
        _check_finite(taken, rows.log_evidence)
        kept = without(row, impossible, reported=True)
        lengths = self._append(state, kept, taken, rows.pooled)
        moved, acceptance, correction = np.zeros(n, bool), np.full(n, np.nan), np.zeros(n)
        pending = followed(smc, state.pending, state.histories, lengths, taken, rows)
        pending, now = turn(smc, pending, lengths, taken, rows.pooled, wants)
        turns = smc.schedule.turns(smc)
        for some in (*batches(now.due, lengths, turns), *batches(now.surprised, lengths, turns)):
            parts = take(population, some.series), some_of(pending, some.series)
            *parts, report = self._act(*parts, state.histories, lengths, some, now.may_start, rows)
            back = some.back(n)
            population, pending = put(population, back, parts[0]), put_back(pending, back, parts[1])
            if report is not None:
                here = some.due & report.due
                moved[some.series[here]], acceptance[some.series[here]] = True, report.acceptance[here]
                correction[some.series[here]] = report.correction[here]
        gain = np.where(taken, rows.log_evidence - correction - state.log_evidence, 0.0)
        after = state._replace(
            population=population,
            pending=pending,
            log_evidence=np.where(taken, rows.log_evidence, state.log_evidence),
            taken=state.taken + taken,
            lengths=lengths,
        )
        return after, Told(rows, taken, np.asarray(kept.mask), gain, moved, acceptance)

    def _observe(self, state: State, row: Observation) -> tuple[tuple, Row, Bool[np.ndarray, " s"]]:
        """What a row changes in all populations, what it says, and which of them want to be moved."""
        block = jax.tree.map(lambda leaf: leaf[None], row)
        changed, _, report = compiled(advance, self._filtering)(state.population, (), block, (), np.int64(1), None)
        rows, wants = unpack(np.asarray(report), self.n_channels, len(state.names))
        return changed, Row(*(leaf[0] for leaf in rows)), wants

    def _append(
        self, state: State, row: Observation, taken: Bool[np.ndarray, " s"], pooled: Bool[np.ndarray, " s"]
    ) -> Int[np.ndarray, " s"]:
        """Put the row into histories, where the schedule needs it; their lengths then."""
        needed = self.smc.schedule.remembers
        wanted = taken if needed is None else taken & (state.lengths < needed)
        state.histories.append(row, wanted, state.lengths, pooled)
        return state.lengths + wanted

    def _act(
        self,
        population: Population,
        pending: PyTree,
        histories: Histories,
        lengths: Int[np.ndarray, " s"],
        some: Batch,
        may_start: Bool[np.ndarray, " s"],
        rows: Row,
    ) -> tuple[Population, PyTree, Any]:
        """Let the schedule act on a batch; what is reported of its series then goes into ``rows``."""
        smc, here = self.smc, some.series[some.due]
        history = History(histories.of(some.series, lengths[some.series]))
        act = smc.schedule.act
        if isinstance(smc.schedule, Paced):
            act = partial(smc.schedule.act_where, may_start=may_start[some.series])
        try:
            pending, part, report = act(smc, pending, population, history, some.due)
        except ImpossibleObservationError as error:
            hopeless = np.zeros(len(lengths), bool)
            hopeless[some.series[some.due if error.series is None else error.series]] = True
            raise _Refused(hopeless, Status.IMPOSSIBLE) from None
        evidence, quantiles = map(np.asarray, compiled(after_move, smc)(part))
        rows.log_evidence[here], rows.quantiles[..., here] = evidence[some.due], quantiles[..., some.due]
        status = np.maximum(settled(rows.status[some.series], part), 0 if report is None else report.status)
        rows.status[here] = status[some.due]
        due = np.isin(np.arange(len(lengths)), here)
        _check_finite(due, rows.log_evidence)
        return part, pending, report

    def commit(self, state: State, columns: Columns | None, zone: str | None = None) -> None:
        """Make a state the present one, once the journal has what led to it. Without any, ``columns`` are not read."""
        if self.store is None or columns is None:
            self.state = state
            return
        self.store.truncate(self.state.length)  # rows of a call that failed never were
        try:
            self.store.append(columns)
            self.store.note(zone=zone)
            self.store.commit(state.length)
            self.state = state
        finally:
            self.store.truncate(self.state.length)

    def foretold(self) -> np.ndarray:
        """Mean and sd of a next observation of every series, as ``Runtime.foretold``: nothing is committed."""
        with self.lock, jax.enable_x64(True):
            state = self.state
            row = blank(self.smc, len(state.names), state.layout is not None and state.layout.noise_sd)
            row = replace(row, dt=np.ones_like(row.dt), index=state.taken, reported=np.ones(len(state.names), bool))
            _, rows, _ = self._observe(state, row)
            return np.stack([rows.predictive_mean, rows.predictive_sd])

    def copy(self) -> FleetRuntime:
        """An independent one with the same past."""
        new = copy.copy(self)
        new.store, new.busy = None, False
        with self.lock:
            state, new.lock = self.state, forks.guarded(new, threading.RLock())
            new.state = state._replace(histories=state.histories.chosen(np.arange(len(state.names))))
        return new

    def place(self, name: Any) -> int:
        """Of a series."""
        if name not in self.state.names:
            raise ModelError(f"the fleet has no series {name!r}; it has {listed(self.state.names)}")
        return self.state.names.index(name)


def listed(names: Sequence[Any]) -> str:
    """Some of many names."""
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f", ... ({len(names)} in all)" if len(names) > 5 else "")


def without(row: Observation, series: Bool[np.ndarray, " s"], *, reported: bool) -> Observation:
    """The row with what some series said made missing; or with them not reported at all."""
    if not series.any():
        return row
    mask = row.mask & ~series
    changed = replace(row, mask=mask, y=np.where(mask, row.y, 0.0).astype(row.y.dtype))
    return changed if reported else replace(changed, reported=np.asarray(row.reported) & ~series)


def _check_finite(taken: Bool[np.ndarray, " s"], log_evidence: Float[np.ndarray, " s"]) -> None:
    broken = taken & ~np.isfinite(log_evidence)
    if broken.any():
        raise _Refused(broken, Status.NOT_FINITE)


def named(names: Sequence[Any], some: Bool[np.ndarray, " s"]) -> str:
    """Series by name, as many as one wants to read."""
    return listed([name for name, one in zip(names, some.tolist(), strict=True) if one])
