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
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from smcssm.core import Observation, Status
from smcssm.errors import ImpossibleObservationError, ModelError
from smcssm.history import History, pad
from smcssm.ingest import Clock, Layout
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, Population, init, prior_draws
from smcssm.smc2.report import Row, recorded_quantiles, unpack
from smcssm.smc2.step import advance, reported, with_stepped

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
    """What a call reported, observation by observation: leaves of ``row`` are ``[t, ..., s]``."""

    row: Row
    log_evidence: np.ndarray
    moved: np.ndarray
    acceptance: np.ndarray
    moves: tuple


class Runtime:
    """Committed state, history and programs of one configuration."""

    def __init__(self, smc: SMC2, n_series: int, n_particles: int, seed: int, history: History) -> None:
        self.smc, self.n_series, self.n_particles, self.history = smc, n_series, n_particles, history
        self.lock = threading.RLock()
        self._busy = False
        self.model, self.schedule, self.channels = smc.filter.model, smc.schedule, smc.filter.model.channel_names
        self._run = compiled(advance, smc)
        with jax.enable_x64(True):
            self.state = self._fresh(seed)

    def _fresh(self, seed: int) -> Committed:
        key = self._keys(seed)
        z, log_weight = prior_draws(self.smc, key, self.n_particles)
        if not np.isfinite(z).all():
            raise ModelError(f"{np.mean(~np.isfinite(z)):.1%} of the prior's draws are not finite")
        population = compiled(init, self.smc)(key, z, log_weight, self.blank())
        if not np.isfinite(np.asarray(population.log_weight)).any(axis=-1).all():
            raise ModelError("no draw from the prior gives an admissible model: the prior and its support disagree")
        return Committed(population, self.schedule.init(self.smc, population), np.zeros(self.n_series))

    def _keys(self, seed: int) -> Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(self.n_series))
        return jax.random.key_data(keys)

    def blank(self, noise_sd: bool = False) -> Observation:
        """A record of nothing, with room for a ``noise_sd`` or without."""
        model, dtype = self.model, np.dtype(self.smc.dtype)
        ny, nv, s = len(model.channel_names), len(model.input_names), self.n_series
        return Observation(
            y=np.zeros((ny, s), dtype),
            mask=np.zeros((ny, s), bool),
            dt=np.zeros(s, dtype),
            index=np.zeros(s, np.int64),
            inputs=np.zeros((nv, s), dtype) if nv else None,
            noise_sd=np.zeros((ny, s), dtype) if noise_sd else None,
        )

    def assimilate[T](
        self,
        block: Observation,
        clock: Clock,
        layout: Layout | None,
        progress: AbstractContextManager[Callable[[int], None] | None],
        report: Callable[[Rows], T],
    ) -> T:
        """Take a block of at least one observation, all of it or none; ``report`` runs just before it is committed."""
        with self._alone(), jax.enable_x64(True):
            state = self.state
            self.history.truncate(state.length)  # rows of a call that failed never were
            population, pending, reports = state.population, state.pending, []
            start, total, last_move = 0, len(block.dt), state.last_move
            evidence = [state.log_evidence[None]]
            with progress as tick:
                while start < total:
                    part = jax.tree.map(lambda leaf, a=start: leaf[a : a + BLOCK], block)
                    population, pending, rows, move = self._advance(population, pending, part)
                    start += len(rows.ess)
                    reports.append((rows, move))
                    evidence.append(rows.log_evidence)
                    last_move = last_move if move is None else move
                    if tick is not None:
                        tick(len(rows.ess))
            if not np.isfinite(evidence[-1]).all():
                raise FloatingPointError("the evidence is not finite: the engine is unchanged")
            published = report(_join(reports, np.concatenate(evidence), self.n_series))
            length = len(self.history)
            try:
                self.history.commit(length)
                self.state = Committed(population, pending, evidence[-1][-1], clock, layout, length, last_move)
            finally:
                self.history.truncate(self.state.length)
        return published

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The lock, also against a signal handler that calls the engine in the middle of a call."""
        with self.lock:
            if self._busy:
                raise RuntimeError("the engine is in the middle of a call: it cannot be called from within")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _advance(
        self, population: Population, pending: PyTree, part: Observation
    ) -> tuple[Population, PyTree, Row, Any]:
        """Rows of a part up to the first that needs the host, and what the host then does."""
        count, length = len(part.dt), len(self.history)
        take = pad(part, BLOCK)
        feed = self.schedule.feed(self.smc, pending, self.history, take, count)
        state, following, report = self._run(population, pending, take, feed, np.int64(count))
        taken = with_stepped(population, state)
        rows, due = unpack(np.asarray(report), len(self.channels), self.n_series)
        done, last = len(rows.ess), rows.status[-1]
        if self.smc.impossible == "error" and (last == Status.IMPOSSIBLE).any():
            self._refuse(part, done - 1, "has likelihood zero for every particle")
        self.history.append(_without(part, rows.status == Status.IMPOSSIBLE), self._kept(done), rows.pooled)
        if not due.any():
            return taken, following, rows, None
        try:
            following, taken, move = self.schedule.act(self.smc, following, taken, self.history, due)
        except ImpossibleObservationError as error:
            if self.smc.impossible == "error":
                self._refuse(part, done - 1, str(error))
            self.history.truncate(length)
            return self._advance_without(population, pending, part, done - 1)
        rows.log_evidence[-1], rows.quantiles[-1] = map(np.asarray, compiled(_after_move, self.smc)(taken))
        rows.status[-1] = np.maximum(_settled(last, taken), 0 if move is None else move.status)
        return taken, following, rows, move

    def _advance_without(
        self, population: Population, pending: PyTree, part: Observation, i: int
    ) -> tuple[Population, PyTree, Row, Any]:
        """The same with row i taken as missing; the rows before it needed nothing from the host, nor do they now."""
        part = _without(part, np.arange(i + 1)[:, None] == i)
        population, pending, rows, move = self._advance(population, pending, part)
        rows.status[i] = Status.IMPOSSIBLE
        return population, pending, rows, move

    def _kept(self, done: int) -> int:
        """How many of these rows go into history: all, but for a schedule that forgets and has no journal."""
        needed = self.schedule.remembers
        if needed is None or self.history.path is not None:
            return done
        return min(done, max(0, needed - len(self.history)))

    def _refuse(self, part: Observation, i: int, why: str) -> None:
        taken = int(part.index[i].max())
        row = f" (row {taken - self.state.clock.taken})" if taken > self.state.clock.taken or len(part.dt) > 1 else ""
        values = ", ".join(f"{v:g}" for v in part.y[i, :, 0][part.mask[i, :, 0]])
        raise ImpossibleObservationError(
            f"observation {taken + 1}{row} with value {values} {why}. The engine is unchanged: give NaN for a value "
            'that is wrong, or build the engine with impossible="missing" to treat such values as missing'
        )

    def copy(self, seed: int | None) -> Runtime:
        """An independent runtime with the same past, held in memory, and with other keys if a seed is given."""
        new = copy.copy(self)
        new.lock, new.history = threading.RLock(), self.history.copy()
        if seed is not None:
            with jax.enable_x64(True):
                population = eqx.tree_at(lambda p: p.key, self.state.population, self._keys(seed))
            new.state = self.state._replace(population=population)
        return new

    def reset(self, seed: int) -> None:
        """Back to the prior."""
        if self.history.path is not None:
            raise ModelError(f"reset would give up what {self.history.path} holds: build a new engine, or reset a copy")
        with self._alone(), jax.enable_x64(True):
            self.state, self.history = self._fresh(seed), History()

    def warmup(self, noise_sd: bool) -> None:
        """Compile everything that a stream will need, without touching the state."""
        with self.lock, jax.enable_x64(True):
            state = self.state
            blank = self.blank(noise_sd if state.layout is None else state.layout.noise_sd)
            part = jax.tree.map(lambda leaf: leaf[None], blank)
            history = History()
            history.append(part, 1)
            take = pad(part, BLOCK)
            feed = self.schedule.feed(self.smc, state.pending, history, take, 1)
            self._run(state.population, state.pending, take, feed, np.int64(0))
            self.schedule.warmup(self.smc, state.pending, state.population, history)
            compiled(_after_move, self.smc)(state.population)


def _after_move(smc: SMC2, population: Population) -> Any:
    del smc
    return reported(population)[0], recorded_quantiles(population)


def _settled(status: np.ndarray, population: Population) -> np.ndarray:
    """The status of a step after its move: no longer bridging where phi is back at 1."""
    bridging = np.asarray(population.phi) < 1
    return np.where((status == Status.BRIDGING) & ~bridging, Status.OK, status)


def _without(part: Observation, refused: np.ndarray) -> Observation:
    """The part with the values that were refused made missing, as the population has taken it."""
    if not refused.any():
        return part
    gone = np.zeros(part.dt.shape, bool)
    gone[: len(refused)] = refused
    mask = part.mask & ~gone[:, None]
    return eqx.tree_at(lambda o: (o.y, o.mask), part, (np.where(mask, part.y, 0.0).astype(part.y.dtype), mask))


def _join(reports: list, evidence: np.ndarray, n_series: int) -> Rows:
    """The rows of all parts; of at least one."""
    total = len(evidence) - 1
    moved, acceptance = np.zeros((total, n_series), bool), np.full((total, n_series), np.nan)
    start = 0
    for rows, move in reports:
        start += len(rows.ess)
        if move is not None:
            moved[start - 1], acceptance[start - 1] = move.due, np.where(move.due, move.acceptance, np.nan)
    row = reports[0][0]
    if len(reports) > 1:
        row = Row(*(np.concatenate(leaves) for leaves in zip(*(r for r, _ in reports), strict=True)))
    return Rows(row, evidence, moved, acceptance, tuple(m for _, m in reports if m is not None))
