"""The shell around the compiled programs: validate, compute, commit.

Everything is computed from committed state without donating it and without touching it; the new state is committed by
one assignment under a lock. An exception or an interrupt on the way leaves population, history and randomness as they
were. All programs run in float64 contexts of their own; the caller's JAX settings are neither read nor changed.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from smcssm import forks, not_a_number
from smcssm.clock import Clock, Elapsed
from smcssm.core import Observation, Status
from smcssm.errors import ImpossibleObservationError, ModelError
from smcssm.history import History, pad
from smcssm.ingest import Layout
from smcssm.late import check_place
from smcssm.resampling import sums
from smcssm.smc2.adapt import compiled
from smcssm.smc2.late import revise
from smcssm.smc2.population import SMC2, Population, at_full_exponent, init, prior_draws
from smcssm.smc2.report import Row, recorded_quantiles, unpack
from smcssm.smc2.step import advance, row_at, whole_evidence, with_stepped
from smcssm.smc2.warm import warm_start

BLOCK = 64


class Committed(NamedTuple):
    """All of an engine's state but its history: replaced as a whole, or not at all."""

    population: Population
    pending: PyTree
    log_evidence: np.ndarray
    clock: Clock = Clock()
    layout: Layout | None = None
    length: int = 0
    last_move: Any = None


class Rows(NamedTuple):
    """What a call reported, observation by observation: leaves of ``row`` are ``[t, ..., s]``.

    ``log_evidence`` has one value more, from before the first; ``correction`` is what moves have changed it by.
    """

    row: Row
    log_evidence: np.ndarray
    correction: np.ndarray
    moved: np.ndarray
    acceptance: np.ndarray
    moves: tuple


class Runtime:
    """Committed state, history and programs of one configuration."""

    def __init__(
        self,
        smc: SMC2,
        n_series: int,
        n_particles: int,
        seed: int,
        history: History,
        state: Committed | None = None,
    ) -> None:
        self.smc, self.n_series, self.n_particles, self.history = smc, n_series, n_particles, history
        self.lock = forks.guarded(self, threading.RLock())
        self.busy = False
        self.model, self.schedule, self.channels = smc.filter.model, smc.schedule, smc.filter.model.channel_names
        self._run, self._revise = compiled(advance, smc), compiled(revise, smc)
        with jax.enable_x64(True):
            self.state = self._fresh(seed) if state is None else state

    def _fresh(self, seed: int) -> Committed:
        keys = series_keys(seed, np.arange(self.n_series))
        population = fresh(self.smc, keys, self.n_particles)
        return Committed(population, self.schedule.init(self.smc, population), np.zeros(self.n_series))

    def blank(self, noise_sd: bool = False, exposure: bool = False) -> Observation:
        """A record of nothing, with room for a ``noise_sd`` and an ``exposure`` or without."""
        return blank(self.smc, self.n_series, noise_sd, exposure)

    def assimilate[T](
        self,
        block: Observation,
        clock: Clock,
        layout: Layout | None,
        passed: Elapsed,
        progress: AbstractContextManager[Callable[[int], None] | None],
        report: Callable[[Rows], T],
    ) -> T:
        """Take a block of at least one observation, all of it or none; ``report`` runs just before it is committed."""
        with alone(self), jax.enable_x64(True):
            state = self.state
            self.history.truncate(state.length)  # rows of a call that failed never were
            try:
                with progress as tick:
                    population, pending, reports = self._through(block, passed, tick)
                evidence = np.concatenate([state.log_evidence[None], *(rows.log_evidence for rows, _ in reports)])
                if not np.isfinite(evidence[-1]).all():
                    raise FloatingPointError("the evidence is not finite: the engine is unchanged")
                published = report(_join(reports, evidence, self.n_series))
                length = len(self.history)
                last_move = next((move for _, move in reversed(reports) if move is not None), state.last_move)
                self.history.commit(length, zone=clock.zone)
                self.state = Committed(population, pending, evidence[-1], clock, layout, length, last_move)
            finally:
                self.history.truncate(self.state.length)
        return published

    def _through(
        self, block: Observation, passed: Elapsed, tick: Callable[[int], None] | None
    ) -> tuple[Population, PyTree, list]:
        """All rows of a block from the committed state, in parts: of rows in time, or one late row."""
        population, pending, reports = self.state.population, self.state.pending, []
        start, late = 0, np.append(np.flatnonzero(passed.late), len(block.dt))
        while start < len(block.dt):
            following = int(late[np.searchsorted(late, start)])  # late row
            step = self._put_in_place if following == start else self._advance
            stop = start + 1 if following == start else min(start + BLOCK, following)
            part, times = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], (block, passed.stamps))
            population, pending, rows, move = step(population, pending, part, times)
            start += len(rows.ess)
            reports.append((rows, move))
            if tick is not None:
                tick(len(rows.ess))
        return population, pending, reports

    def adopt(
        self, z: np.ndarray, block: Observation, clock: Clock, layout: Layout | None, times: np.ndarray | None
    ) -> None:
        """Start from draws z ``[z, s, n]`` of the posterior after a block, instead of from the prior."""
        with alone(self), jax.enable_x64(True):
            state, total = self.state, len(block.dt)
            self.history.truncate(state.length)
            try:
                self.history.append(block, total, times=times)
                population, move = warm_start(self.smc, state.population, z, self.history)
                pending = self.schedule.init(self.smc, population)
                self.history.commit(total, zone=clock.zone, warm=True)
                evidence = np.asarray(population.log_evidence)
                self.state = Committed(population, pending, evidence, clock, layout, total, move)
            finally:
                self.history.truncate(self.state.length)

    def _advance(
        self, population: Population, pending: PyTree, part: Observation, times: np.ndarray | None
    ) -> tuple[Population, PyTree, Row, Any]:
        """Rows of a part up to the first that needs the host, and what the host then does."""
        count, length = len(part.dt), len(self.history)
        take = pad(part, BLOCK)
        feed = type(self.schedule).feed(self.schedule, self.smc, pending, self.history, take, count)  # binding is slow
        trailing = self._trailing(part)
        state, following, report = self._run(population, pending, take, feed, np.int64(count), trailing)
        taken = with_stepped(population, state)
        rows, due = unpack(np.asarray(report), len(self.channels), self.n_series)
        done, last = len(rows.ess), rows.status[-1]
        if (lost := np.isnan(rows.log_evidence[-1])).any():
            self._complain(part, done - 1, taken, taken.belief, [row_at(part, done - 1)], lost)
        if self.smc.impossible == "error" and (last == Status.IMPOSSIBLE).any():
            self._refuse(part, done - 1, "has likelihood zero for every particle")
        self.history.append(without(part, rows.status == Status.IMPOSSIBLE), self._kept(done), rows.pooled, times)
        try:
            return self._act(following, taken, rows, due)
        except ImpossibleObservationError as error:
            if self.smc.impossible == "error":
                self._refuse(part, done - 1, str(error))
        self.history.truncate(length)  # once more without it: the rows before it needed nothing from the host
        part = without(part, np.arange(done)[:, None] == done - 1)
        population, pending, rows, move = self._advance(population, pending, part, times)
        rows.status[done - 1] = Status.IMPOSSIBLE
        return population, pending, rows, move

    def _act(
        self, pending: PyTree, population: Population, rows: Row, due: np.ndarray
    ) -> tuple[Population, PyTree, Row, Any]:
        """What the host does after a row, and what is reported of it then."""
        if not due.any():
            return population, pending, rows, None
        pending, population, move = self.schedule.act(self.smc, pending, population, self.history, due)
        rows.log_evidence[-1], rows.quantiles[-1] = map(np.asarray, compiled(after_move, self.smc)(population))
        rows.status[-1] = np.maximum(settled(rows.status[-1], population), 0 if move is None else move.status)
        return population, pending, rows, move

    def _trailing(self, part: Observation) -> tuple[Observation, np.ndarray] | None:
        """The rows that become too old for late ones to come before them, while a part is taken."""
        if not self.smc.horizon:
            return None
        places = len(self.history) + np.arange(len(part.dt)) - self.smc.horizon
        since = np.zeros(self.n_series, np.int64)
        numbers = np.repeat(np.maximum(places, 0)[:, None], self.n_series, axis=1)
        rows, _ = self.history.take(numbers, since, part)
        return pad(rows, BLOCK), np.append(places >= 0, np.zeros(BLOCK - len(places), bool))

    def _put_in_place(
        self, population: Population, pending: PyTree, part: Observation, times: np.ndarray
    ) -> tuple[Population, PyTree, Row, Any]:
        """A late row."""
        length, history, smc = len(self.history), self.history, self.smc
        check_place(history.timeline, times[0], smc.horizon)
        pending, population, closing = self.schedule.close(smc, pending, population, history)
        history.append(part, 1, times=times)
        settled = max(length - smc.horizon, 0)
        rows, _, _ = history.replayed(settled, settled + smc.horizon + 1)
        feed = self.schedule.feed(smc, pending, history, part, 1, known=1)
        counts = np.int64(length + 1 - settled), np.bool_(length + 1 - smc.horizon > settled)
        state, following, report = self._revise(population, pending, rows, *counts, feed)
        taken = with_stepped(population, state)
        row, due = unpack(np.asarray(report), len(self.channels), self.n_series)
        impossible, why = row.status == Status.IMPOSSIBLE, "has likelihood zero for every particle"
        if (lost := np.isnan(row.log_evidence[-1])).any():
            assert population.lag is not None
            each = [row_at(rows, j) for j in range(int(counts[0]))]
            self._complain(part, 0, population, population.lag.belief, each, lost)
        history.truncate(length)
        history.append(part, 1, row.pooled, times)
        if not impossible.any():
            try:
                return _begun_with(closing, *self._act(following, taken, row, due))
            except ImpossibleObservationError as error:
                impossible, why = np.ones_like(impossible), str(error)
        if smc.impossible == "error":
            self._refuse(part, 0, why)
        history.truncate(length)
        population, pending, row, move = self._put_in_place(population, pending, without(part, impossible), times)
        row.status[:] = np.where(impossible, Status.IMPOSSIBLE, row.status)
        return _begun_with(closing, population, pending, row, move)

    def _kept(self, done: int) -> int:
        """How many of these rows go into history: all, but for a schedule that forgets and has no journal."""
        needed = self.schedule.remembers
        if needed is None or self.history.path is not None:
            return done
        return min(done, max(0, needed - len(self.history)))

    def _refuse(self, part: Observation, i: int, why: str) -> None:
        raise ImpossibleObservationError(
            f"{self._told(part, i)} {why}. The engine is unchanged: give NaN for a value that is wrong, or build the "
            'engine with impossible="missing" to treat such values as missing'
        )

    def _complain(self, part: Observation, i: int, *how: Any) -> None:
        """Of a likelihood that is no number: of a model of the user's own functions that is no matter of the value."""
        if not hasattr(self.model, "function_named"):
            self._refuse(part, i, "has a likelihood of zero or NaN for every particle")
        raise ModelError(
            f"{self._told(part, i)} {not_a_number.told(self.smc, *how)}. The engine is unchanged. This says nothing of "
            "the observation: let log densities be -inf where they are zero, and leave hyperparameters for which the "
            "model makes no sense to the prior"
        )

    def _told(self, part: Observation, i: int) -> str:
        """Which observation, and its values."""
        taken = int(part.index[i].max())
        row = f" (row {taken - self.state.clock.taken})" if taken > self.state.clock.taken or len(part.dt) > 1 else ""
        values = ", ".join(f"{v:g}" for v in part.y[i, :, 0][part.mask[i, :, 0]])
        return f"observation {taken + 1}{row} with value {values}"

    def foretold(self) -> np.ndarray:
        """Mean and sd of a next observation, one unit of time ahead and without inputs: what model and state say.

        By the program of every step, on the side: nothing is committed.
        """
        with self.lock, jax.enable_x64(True):
            state = self.state
            blank = self.blank(*(state.layout or ()))
            one = dict(dt=np.ones_like(blank.dt), index=np.full_like(blank.index, state.clock.taken))
            part = jax.tree.map(lambda leaf: leaf[None], replace(blank, **one))
            take = pad(part, BLOCK)
            feed = self.schedule.feed(self.smc, state.pending, self.history, take, 1)
            _, _, report = self._run(state.population, state.pending, take, feed, np.int64(1), self._trailing(part))
            rows, _ = unpack(np.asarray(report), len(self.channels), self.n_series)
            return np.stack([rows.predictive_mean[0], rows.predictive_sd[0]])

    def copy(self, seed: int | None) -> Runtime:
        """An independent runtime with the same past, held in memory, and with other keys if a seed is given."""
        new = copy.copy(self)
        new.busy = False  # a call that this one is in the middle of is none of the copy's
        new.lock, new.history = forks.guarded(new, threading.RLock()), self.history.copy()
        if seed is not None:
            with jax.enable_x64(True):
                keys = series_keys(seed, np.arange(self.n_series))
                population = eqx.tree_at(lambda p: p.key, self.state.population, keys)
            new.state = self.state._replace(population=population)
        return new

    def reset(self, seed: int) -> None:
        """Back to the prior."""
        if self.history.path is not None:
            raise ModelError(f"reset would give up what {self.history.path} holds: build a new engine, or reset a copy")
        with alone(self), jax.enable_x64(True):
            self.state, self.history = self._fresh(seed), self.history.blank()

    def warmup(self, noise_sd: bool, exposure: bool) -> None:
        """Compile everything that a stream will need, without touching the state."""
        with self.lock, jax.enable_x64(True):
            state = self.state
            blank = self.blank(*(state.layout or (noise_sd, exposure)))
            part = jax.tree.map(lambda leaf: leaf[None], blank)
            history = History()
            history.append(part, 1)
            take = pad(part, BLOCK)
            feed = self.schedule.feed(self.smc, state.pending, history, take, 1)
            trailing = (take, np.zeros(BLOCK, bool)) if self.smc.horizon else None
            self._run(state.population, state.pending, take, feed, np.int64(0), trailing)
            if self.smc.horizon:
                rows, _, _ = history.replayed(0, 1)
                rows = pad(rows, self.smc.horizon + 1)
                feed = self.schedule.feed(self.smc, state.pending, history, part, 1, known=1)
                self._revise(state.population, state.pending, rows, np.int64(1), np.bool_(False), feed)
            self.schedule.warmup(self.smc, state.pending, state.population, history)
            compiled(after_move, self.smc)(state.population)


@contextlib.contextmanager
def alone(shell: Any) -> Iterator[None]:
    """A shell's lock, also against a signal handler that calls it in the middle of a call."""
    with shell.lock:
        if shell.busy:
            raise RuntimeError("the engine is in the middle of a call: it cannot be called from within")
        shell.busy = True
        try:
            yield
        finally:
            shell.busy = False


def series_keys(seed: int, numbers: np.ndarray) -> Array:
    """Keys of the series with these numbers."""
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers))


def fresh(smc: SMC2, keys: Array, n_particles: int) -> Population:
    """Draws from the prior, for a series with each of these keys."""
    z, log_weight = prior_draws(smc, keys, n_particles)
    if not np.isfinite(z).all():
        raise ModelError(f"{np.mean(~np.isfinite(z)):.1%} of the prior's draws are not finite")
    population = compiled(init, smc)(keys, z, log_weight, blank(smc, len(keys)))
    if not np.isfinite(np.asarray(population.log_weight)).any(axis=-1).all():
        raise ModelError("no draw from the prior gives an admissible model: the prior and its support disagree")
    return population


def blank(smc: SMC2, n_series: int, noise_sd: bool = False, exposure: bool = False) -> Observation:
    """A record of nothing, with room for a ``noise_sd`` and an ``exposure`` or without."""
    model, dtype = smc.filter.model, np.dtype(smc.dtype)
    ny, nv, s = len(model.channel_names), len(model.input_names), n_series
    return Observation(
        y=np.zeros((ny, s), dtype),
        mask=np.zeros((ny, s), bool),
        dt=np.zeros(s, dtype),
        index=np.zeros(s, np.int64),
        inputs=np.zeros((nv, s), dtype) if nv else None,
        noise_sd=np.zeros((ny, s), dtype) if noise_sd else None,
        exposure=np.zeros((ny, s), dtype) if exposure else None,
    )


def after_move(smc: SMC2, population: Population) -> Any:
    """What is reported of a population anew, once it has been moved."""
    del smc
    part, whole = sums(population.log_weight), sums(at_full_exponent(population))
    return whole_evidence(population, part, whole), recorded_quantiles(population, whole)


def settled(status: np.ndarray, population: Population) -> np.ndarray:
    """The status of a step after its move: no longer bridging where phi is back at 1."""
    bridging = np.asarray(population.phi) < 1
    return np.where((status == Status.BRIDGING) & ~bridging, Status.OK, status)


def without(part: Observation, refused: np.ndarray) -> Observation:
    """The part with the values that were refused made missing, as the population has taken it."""
    if not refused.any():
        return part
    gone = np.zeros(part.dt.shape, bool)
    gone[: len(refused)] = refused
    mask = part.mask & ~gone[:, None]
    return eqx.tree_at(lambda o: (o.y, o.mask), part, (np.where(mask, part.y, 0.0).astype(part.y.dtype), mask))


def _begun_with(closing: Any, population: Population, pending: PyTree, row: Row, move: Any) -> tuple:
    """What came of a row, and the end of a climb that was made before it."""
    if closing is None:
        return population, pending, row, move
    row.status[-1] = np.maximum(row.status[-1], closing.status)
    return population, pending, row, closing if move is None else move.following(closing)


def _join(reports: list, evidence: np.ndarray, n_series: int) -> Rows:
    """The rows of all parts; of at least one."""
    total = len(evidence) - 1
    moved, acceptance = np.zeros((total, n_series), bool), np.full((total, n_series), np.nan)
    start, correction = 0, np.zeros((total, n_series))
    for rows, move in reports:
        start += len(rows.ess)
        if move is not None:
            moved[start - 1], acceptance[start - 1] = move.due, np.where(move.due, move.acceptance, np.nan)
            correction[start - 1] = move.correction
    row = reports[0][0]
    if len(reports) > 1:
        row = Row(*(np.concatenate(leaves) for leaves in zip(*(r for r, _ in reports), strict=True)))
    return Rows(row, evidence, correction, moved, acceptance, tuple(m for _, m in reports if m is not None))
