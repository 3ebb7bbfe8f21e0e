"""The fleet: many independent series in one program, each with its own posterior, clock and randomness."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from smcssm import assemble
from smcssm.core import AbstractKernel, AbstractModel, AbstractPrior, AbstractSchedule, Status
from smcssm.engine import Engine
from smcssm.errors import ModelError
from smcssm.fleets import durable, readout
from smcssm.fleets.assembly import check_different, check_may_change, configured, names_of, some_of
from smcssm.fleets.frames import block_of_many
from smcssm.fleets.infos import FleetInfo, of_step, scored, stacked
from smcssm.fleets.ledger import Outcome, check_columns, columns, release_of
from smcssm.fleets.membership import engine_of, joined, kept
from smcssm.fleets.pooling import pooled
from smcssm.fleets.rows import Block, Recorder, block_of_one, unseen
from smcssm.fleets.runtime import FleetRuntime, listed, named
from smcssm.fleets.times import times_kept
from smcssm.journal import Journal
from smcssm.runtime import alone

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

LOG = logging.getLogger("smcssm")


class Fleet:
    """Exact online Bayes for many series of one model: S independent engines that run as one program.

    Args:
        model: a state-space model, ``smcssm.models``, with an exact filter.
        prior: of each series, as for ``Engine``.
        series: names of the series, or how many there are (then they are 0, 1, ...).
        n_particles: how many hyperparameter particles each series has.
        move: how particles are moved: ``ss.moves.Metropolis``.
        schedule: when they are moved: ``ss.Immediate()``, ``ss.Paced()``, where series take turns so that no step is
            long, or ``ss.Jitter()``.
        ess_threshold: a series is moved when its effective sample size falls below this share of the particles.
        impossible: what becomes of an observation that model and prior cannot explain. "quarantine" refuses it, and
            all that follow in that series, until ``release``; "missing" takes it as missing.
        time_unit: the unit of time that hyperparameters are per, where times are dates: "1D", "1h", a timedelta.
        journal: a new folder, or an ``smcssm.journal.Journal``, that keeps every row: ``Fleet.open`` resumes it.
        dtype: "float64" or "float32".
        seed: of all randomness; series k of a fleet draws what ``fleet.engine(name)`` would.
        first: the number of its first series, where this is a part of a larger fleet: what a series draws hangs on
            its number and the seed.

    Raises:
        ModelError: if model, prior and options do not fit each other.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: AbstractModel,
        prior: Any = None,
        *,
        series: int | Iterable[Any],
        n_particles: int = 256,
        move: AbstractKernel | None = None,
        schedule: AbstractSchedule | None = None,
        ess_threshold: float = 0.5,
        impossible: str = "quarantine",
        time_unit: Any = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        dtype: str = "float64",
        seed: int = 0,
        first: int = 0,
    ) -> None:
        names = names_of(series)
        if not (isinstance(first, (int, np.integer)) and first >= 0):
            raise ModelError(f"first={first!r}: expected the number of a series, 0 or more")
        options: dict[str, Any] = dict(move=move, schedule=schedule, ess_threshold=ess_threshold, impossible=impossible)
        options |= dict(n_particles=n_particles, time_unit=time_unit, dtype=dtype, seed=seed)
        smc, self._timing = configured(model, prior, **options)
        self._runtime = FleetRuntime(smc, n_particles, seed, names, int(first))
        self._keeper = durable.begin(self, journal)  # last: it holds a lock

    def __repr__(self) -> str:
        model, n = self.model, self._runtime.n_particles
        return f"Fleet({type(model).__name__}: {', '.join(model.names)}; {len(self)} series x {n} particles)"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def names(self) -> tuple[Any, ...]:
        """The series."""
        return self._runtime.state.names

    @property
    def model(self) -> AbstractModel:
        """The state-space model."""
        return self._runtime.smc.filter.model

    @property
    def prior(self) -> AbstractPrior:
        """The prior of the hyperparameters of each series."""
        return self._runtime.smc.prior

    @property
    def t(self) -> np.ndarray:
        """How many observations each series has taken, missing ones included."""
        return self._runtime.state.taken.copy()

    @property
    def rows(self) -> int:
        """How many rows it was given, whoever reported in them: from there on a source is read after ``Fleet.open``."""
        return self._runtime.state.rows

    @property
    def log_evidence(self) -> np.ndarray:
        """log p(y_1:t) of each series."""
        return self._runtime.state.log_evidence.copy()

    def step(
        self, ys: Any, reported: Any = None, *, time: Any = None, inputs: Any = None, noise_sd: Any = None
    ) -> FleetInfo:
        """Take one observation of every series that reported.

        Args:
            ys: an array, a number (or a row of channels) per series; or a mapping from names, and series that are
                absent did not report. NaN: time passed, the value is missing.
            reported: which series did, booleans or names: of the others clock, randomness and state stay as they are.
            time: one time stamp, one per series, or a mapping.
            inputs: one row for all, one per series, or a mapping.
            noise_sd: likewise, where observations come with known noise.

        Raises:
            InputError: the fleet is unchanged.
        """
        with alone(self._runtime):
            given = dict(time=time, inputs=inputs, noise_sd=noise_sd)
            return self._take(block_of_one(self.model, self.names, ys, reported, **given))[0]

    def update(
        self,
        ys: Any,
        *,
        series: str | None = None,
        reported: Any = None,
        time: Any = None,
        inputs: Any = None,
        noise_sd: Any = None,
    ) -> FleetInfo:
        """Take several rows, all or none: bit for bit what stepping through them gives.

        Args:
            ys: an array (time, series) or (time, series, channel); or a pandas, polars, arrow or xarray object: wide,
                a column for each series (NaN: the value is missing); or, with ``series``, long: a line for each
                observation, and a series that has none at some time did not report.
            series: the column of a long frame that has the names. Channels and inputs are columns by name.
            reported: which series did, booleans (time, series); not for long frames.
            time: time stamps, (time,) or (time, series); or the column that has them. Of a long frame each series'
                lines are put in their order; in a model in steps they do nothing else.
            inputs: rows for all, (time, input), or (time, series, input); of a long frame they are columns.
            noise_sd: likewise, where observations come with known noise; of a long frame the name of a column.

        Returns:
            Arrays with time first. Row j of a long frame is the j-th line of each series.
        """
        with alone(self._runtime):
            given = dict(series=series, reported=reported, time=time, inputs=inputs, noise_sd=noise_sd)
            return self._taken(block_of_many(self.model, self.names, ys, **given))

    def _taken(self, block: Block) -> FleetInfo:
        """What all rows of a block said."""
        return stacked(self._take(block), self.names, len(self.model.channel_names))

    def _take(self, block: Block) -> list[FleetInfo]:
        """Every row of a block, or none."""
        runtime, infos, outcomes = self._runtime, [], []
        state, store = runtime.state, runtime.store
        if store is not None:
            check_columns(store, block, state.zone)
        recorder = Recorder(block, state.names, runtime.smc.dtype, self._timing)
        with jax.enable_x64(True):
            for i in range(len(recorder)):
                before, (observation, state) = state.last, recorder.row(i, state)
                state, told = runtime.step(state, observation)
                last = times_kept(before, state.last, told.taken)
                state = state._replace(last=last, sums=scored(state.sums, block.y[i].T, told))
                infos.append(of_step(state, told))
                outcomes.append(Outcome(told.taken, told.mask, observation.dt, told.row.pooled))
        state = state._replace(rows=state.rows + len(infos), length=state.length + len(infos))
        new = (state.quarantine > 0) & (runtime.state.quarantine == 0)
        runtime.commit(state, columns(block, outcomes) if store is not None and infos else None, block.zone)
        if self._keeper is not None:
            self._keeper.after(state.length, partial(durable.moment, self))
        if new.any():
            which = named(state.names, new)
            LOG.warning("series %s: an observation was refused; in quarantine until fleet.release()", which)
        return infos

    def summary(self) -> pd.DataFrame:
        """The posterior of the hyperparameters of each series: mean, sd, q05, q50, q95, mcse."""
        return readout.summaries(self._runtime)

    def state(self) -> xr.Dataset:
        """Filtered mean and sd of the state of each series, hyperparameters integrated out."""
        return readout.states(self._runtime)

    def scores(self) -> pd.DataFrame:
        """How good the one-step forecasts of each series were; columns as for ``Engine.scores``."""
        return readout.score_table(self._runtime.state, self.model.channel_names)

    def status(self) -> pd.DataFrame:
        """Of each series: observations taken, log evidence, effective sample size, why it is in quarantine if it is."""
        return readout.status_table(self._runtime)

    def forecast(
        self,
        h: int,
        *,
        inputs: Any = None,
        noise_sd: Any = None,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    ) -> xr.Dataset:
        """Mean, sd and quantiles of the next h observations of each series, one unit of time apart.

        Args:
            h: how many.
            inputs: a row for each of them, (h, input) or (h, series, input), where the model reads any.
            noise_sd: likewise, where observations came with one.
            quantiles: levels, of the exact mixture over particles.
        """
        levels, h = assemble.levels(quantiles), assemble.horizon(h)
        with self._runtime.lock:
            future = unseen(self._runtime, h, inputs, noise_sd)
            return readout.forecasts(self._runtime, future, levels)

    def to_arviz(self, names: Iterable[Any] | None = None, draws: int | None = None, seed: int = 0) -> xr.DataTree:
        """``Engine.to_arviz`` of some series, or of all: a tree with a branch for each, called by its name."""
        import xarray as xr

        chosen = self.names if names is None else tuple(names)
        if slashed := [name for name in chosen if "/" in str(name)]:
            raise ModelError(f"to_arviz: {listed(slashed)}: a branch of a tree has no / in its name; take engine(name)")
        return xr.DataTree(children={str(name): self.engine(name).to_arviz(draws, seed) for name in chosen})

    def engine(self, name: Any) -> Engine:
        """An independent ``Engine`` with the past of one series, which goes on as that series would.

        Its record begins there.
        """
        with self._runtime.lock:
            return engine_of(self._runtime, self._timing, self._runtime.place(name))

    def add(self, series: Any) -> None:
        """Further series, at the prior: a name, or several. Programs are compiled anew for the new size.

        A fleet with a journal refuses: its folder is of the series it began with.
        """
        names = names_of(some_of(series))
        with alone(self._runtime):
            check_may_change(self._runtime.store)
            check_different(self.names + names)
            self._runtime.state = joined(self._runtime, names)

    def remove(self, series: Any) -> None:
        """Give up a series, or several. Programs are compiled anew for the new size; with a journal as ``add``."""
        gone = {self._runtime.place(name) for name in some_of(series)}
        with alone(self._runtime):
            check_may_change(self._runtime.store)
            places = np.asarray([i for i in range(len(self)) if i not in gone], int)
            if not len(places):
                raise ModelError("remove: a fleet has at least one series")
            self._runtime.state = kept(self._runtime, places)

    def release(self, series: Any = None) -> None:
        """Take observations again of series in quarantine: of one, several, or (by default) all.

        The rows that were refused meanwhile never were: where time passed, step over it with NaN.
        """
        runtime = self._runtime
        with alone(runtime):
            chosen = np.full(len(self), series is None)
            chosen[[runtime.place(name) for name in some_of(series)]] = True
            if (chosen & (runtime.state.quarantine != Status.OK)).any():
                self._release(chosen)

    def _release(self, chosen: np.ndarray) -> None:
        """One record in the journal, of whichever series."""
        runtime, state = self._runtime, self._runtime.state
        quarantine = np.where(chosen, Status.OK, state.quarantine)
        record = None if runtime.store is None else release_of(runtime.store, chosen)
        runtime.commit(state._replace(quarantine=quarantine, length=state.length + 1), record)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | Journal, model: AbstractModel, prior: Any = None, **options: Any
    ) -> Fleet:
        """Resume a journal, whatever ended the fleet that wrote it: bit for bit as if it had never been interrupted.

        ``fleet.rows`` says how many rows are in it: a source is read on from that one.

        Args:
            path: the folder, or an ``smcssm.journal.Journal``.
            model: the same one.
            prior: the same one.
            **options: of the fleet. They are in the journal; those that are given have to be the same.

        Raises:
            JournalError, CheckpointError: there is no journal, it was altered, is of another fleet, or another fleet
                is writing to it.
        """
        return durable.open_journal(cls, path, model, prior, options)

    def checkpoint(self) -> None:
        """Write a checkpoint into the journal's folder now, and wait for it. A stream of rows writes them by itself.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self._keeper is None:
            raise ModelError("checkpoint: this fleet has no journal: Fleet(journal=folder) keeps one")
        with self._runtime.lock:
            self._keeper.now(partial(durable.moment, self))

    def close(self) -> None:
        """Let the journal go, safe on the disk, for another fleet to open; this one can be read, but takes no more."""
        if self._keeper is not None and self._runtime.store is not None:
            with self._runtime.lock:
                self._keeper.wait()
                self._runtime.store.close()

    def refresh_prior(self) -> AbstractPrior:
        """The prior, refitted to all series by empirical Bayes: for further series, ``Fleet(model, prior, ...)``.

        A normal law of the unconstrained hyperparameters, the one that makes the data of this fleet most probable. The
        series of this fleet keep the prior that they began with. Experimental: the fit is checked against a closed
        form, how it does on few series or with outliers among them is not known yet.
        """
        with self._runtime.lock:
            return pooled(self._runtime)

    def copy(self) -> Fleet:
        """An independent fleet with the same past, which goes on bit for bit as this one would, without a journal."""
        new = object.__new__(Fleet)
        new._timing, new._runtime, new._keeper = self._timing, self._runtime.copy(), None
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Fleet:
        return self.copy()

    __copy__ = copy

    def __reduce__(self) -> Any:
        raise TypeError(
            "a fleet is not pickled, for its model and prior hold functions: journal= and ss.Fleet.open(path, model, "
            "prior) take it to another process, fleet.copy() copies it in this one, fleet.engine(name).save(path) "
            "keeps one series"
        )
