"""The engine: one stream, the whole posterior, current after every observation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm import assemble, clock, durable, persist, readout, sharding
from smcssm.clock import Clock, Elapsed
from smcssm.core import (
    AbstractFilter,
    AbstractKernel,
    AbstractModel,
    AbstractPrior,
    AbstractSchedule,
    Observation,
    Status,
)
from smcssm.errors import InputError, ModelError
from smcssm.history import History
from smcssm.ingest import future, one, to_block
from smcssm.journal import Journal
from smcssm.late import Policy, Refuse
from smcssm.over_runs import across, log_mean, over_runs
from smcssm.readout.scores import Forecasts, running
from smcssm.record import Ring, StepInfo, StepInfos
from smcssm.runtime import Rows, Runtime
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class Engine:
    """Exact online Bayes for one series: the joint posterior of hyperparameters and state at every moment.

    Args:
        model: a state-space model, ``smcssm.models``.
        prior: a ``pm.Model`` of priors, or a prior of ``smcssm.priors``; the names must include the model's
            hyperparameters. Default: ``model.default_prior(1.0)``.
        n_particles: how many hyperparameter particles each run has.
        filter: the inner filter; chosen from the model.
        move: how particles are moved, ``smcssm.moves``.
        schedule: when they are moved, ``smcssm.schedules``.
        ess_threshold: move when the effective sample size falls below this share of the particles.
        runs: independent populations, for an honest Monte Carlo error and as chains for ArviZ.
        record: how many past steps are kept for plots and scores; None keeps none.
        journal: a new folder in which every observation is kept before the call that takes it returns; or an
            ``smcssm.journal.Journal``, which says when they are synced. By default they are kept in memory.
        impossible: "error" refuses an observation that model and prior cannot explain, because no particle gives it a
            positive likelihood or tempering cannot bridge the distance; "missing" takes it as missing.
        late: what becomes of observations older than the newest one: ``smcssm.late``.
        time_unit: the unit of time that hyperparameters are per, where times are dates: "1D", "1h", a timedelta.
            Without one, dates have to lie on a regular grid, and one step of it is the unit.
        origin: the time at which the initial law holds; by default that of the first observation.
        resampling: "systematic"; or "multinomial", noisier, for which lineages tell the variance of the evidence.
        forgetting: a factor below 1 changes the target: at each observation the log-likelihood of everything before is
            multiplied by it, so that hyperparameters may drift, and ``log_evidence`` is the sum of one-step log
            predictives. About 1 / (1 - forgetting) observations count.
        solver: how moves and smoothing go through history: "sequential", row by row; "parallel", in blocks side by
            side, more work in fewer steps; "auto": blocks on a GPU, rows on a CPU. Results are the same to rounding.
        dtype: "float64" or "float32", of observations, states and parameters; likelihoods are added up in float64.
            float32 has 7 digits: centre data whose level is large against its noise, or the posterior is wrong.
        seed: of all randomness.

    Raises:
        ModelError: if model, prior and options do not fit each other.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: AbstractModel,
        prior: Any = None,
        *,
        n_particles: int = 1024,
        filter: AbstractFilter | None = None,
        move: AbstractKernel | None = None,
        schedule: AbstractSchedule | None = None,
        solver: str = "auto",
        ess_threshold: float = 0.5,
        runs: int = 1,
        record: int | None = 10_000,
        impossible: str = "error",
        late: Policy = Refuse(),  # noqa: B008
        time_unit: Any = None,
        origin: Any = None,
        resampling: str = "systematic",
        forgetting: float = 1.0,
        journal: str | os.PathLike[str] | Journal | None = None,
        dtype: str = "float64",
        seed: int = 0,
    ) -> None:
        assemble.check_counts(n_particles=n_particles, runs=runs, record=record, seed=seed)
        smc = assemble.smc2(
            model,
            prior,
            filter=filter,
            move=move,
            schedule=schedule,
            solver=solver,
            ess_threshold=ess_threshold,
            impossible=impossible,
            record=record is not None,
            dtype=dtype,
            n_particles=n_particles,
            series=runs,
            resampling=resampling,
            forgetting=forgetting,
            late=late,
        )
        self._seed = seed
        self._timing = clock.timing(model.continuous_time, time_unit, origin, late)
        timeline = clock.timeline(self._timing)
        self._runtime = Runtime(smc, runs, n_particles, seed, History(timeline=timeline))
        self._ring = None if record is None else Ring(record)
        self._told: set[str] = set()
        assemble.warn_of_signs(self.snapshot())
        self._runtime.history = assemble.history(journal, smc, runs, timeline)  # last: it holds a lock
        self._keeper = durable.keeper(self, journal)

    @classmethod
    def from_pymc(cls, pm_model: Any, assimilate: bool = True, **options: Any) -> Engine:
        """An engine for a ``pm.Model`` with one ``ss.LinearGaussianSSM``: what ``pm.sample`` would sample, online.

        Args:
            pm_model: see ``ss.from_pymc``.
            assimilate: stream the observations of the model first.
            **options: of the engine.
        """
        from smcssm.bridges.pymc_model import from_pymc

        model, prior, observations = from_pymc(pm_model)
        engine = cls(model, prior, **options)
        if assimilate:
            engine.update(observations)
        return engine

    @classmethod
    def from_statespace(
        cls,
        statespace_model: Any,
        pymc_model: Any,
        assimilate: bool = True,
        *,
        fold: Any = True,
        **options: Any,
    ) -> Engine:
        """An engine for a model of pymc-extras and its PyMC model of priors.

        Args:
            statespace_model: of ``pymc_extras.statespace``.
            pymc_model: its priors and data.
            fold: see ``ss.from_statespace``.
            assimilate: stream the observations of the PyMC model first, if it has any.
            **options: of the engine.
        """
        from smcssm.bridges.pymc_extras import from_statespace

        model, prior, observations = from_statespace(statespace_model, pymc_model, fold=fold)
        engine = cls(model, prior, **options)
        if assimilate and observations is not None:
            engine.update(observations)
        return engine

    @classmethod
    def from_posterior(
        cls,
        model: AbstractModel,
        prior: Any,
        idata: Any,
        observations: Any,
        *,
        time: Any = None,
        inputs: Any = None,
        noise_sd: Any = None,
        **options: Any,
    ) -> Engine:
        """Go on online from draws of the posterior of these observations, of ``pm.sample`` or any sampler.

        The draws become the particles; one pass over history gives their beliefs and likelihoods, and a proposal
        fitted to them, whose draws are judged by the exact posterior, an importance sampling estimate of the evidence
        (its error is in ``log_evidence_sd``) and a check of the draws: where they do not fit the observations, those
        draws replace them, properly weighted, with a warning; where these do not reach the posterior either,
        ``ModelError``. A move follows. Of the steps taken so there is no record.

        Args:
            model: as for an engine.
            prior: as for an engine.
            idata: an ArviZ tree with a group ``posterior``, or a dataset, with dims chain and draw, in which the
                free variables of the prior have their names, dims and constrained values.
            observations: all that the draws have seen, as for ``update``.
            time: their time stamps, as for ``update``.
            inputs: their inputs.
            noise_sd: their given noise.
            **options: of the engine.

        Raises:
            ModelError: draws that lack a variable, have other dims, lie outside the support, or do not fit.
            InputError: observations that cannot be taken.
        """
        from smcssm.bridges.posterior import unconstrained_draws

        engine = cls(model, prior, **options)
        runtime, smc = engine._runtime, engine._runtime.smc
        assemble.check_warm_start(smc)
        z = unconstrained_draws(smc, idata, runtime.n_series, runtime.n_particles, engine._seed)
        given = dict(time=time, inputs=inputs, noise_sd=noise_sd, timing=engine._timing)
        before, n_series = runtime.state.clock, runtime.n_series
        block, now, layout, passed = to_block(engine.model, n_series, smc.dtype, before, None, observations, **given)
        if len(block.dt) == 0:
            raise InputError("from_posterior: there are no observations; what the draws have seen is needed")
        if passed.late.any():
            raise InputError(
                f"from_posterior: row {np.argmax(passed.late)} is late; sort what the draws have seen by time"
            )
        runtime.adopt(z, block, now, layout, passed.stamps)
        if engine._ring is not None:
            engine._ring = Ring(engine._ring.capacity, unseen=engine.t)
        if engine._keeper is not None:
            engine.checkpoint()  # the journal has the observations, but not the draws
        return engine

    def __repr__(self) -> str:
        names = ", ".join(self.model.names)
        return f"Engine({type(self.model).__name__}: {names}; {self._runtime.n_particles} particles, t={self.t})"

    @property
    def model(self) -> AbstractModel:
        """The state-space model."""
        return self._runtime.model

    @property
    def prior(self) -> AbstractPrior:
        """The prior of the hyperparameters."""
        return self._runtime.smc.prior

    @property
    def t(self) -> int:
        """How many observations have been taken, missing ones included."""
        return self._runtime.state.clock.taken

    @property
    def log_evidence(self) -> float:
        """log p(y_1:t), relative to the normalised prior; averaged over runs on the scale of the evidence."""
        return float(log_mean(self._runtime.state.log_evidence))

    @property
    def log_evidence_sd(self) -> float:
        """Monte Carlo standard deviation of ``log_evidence``: between runs, or between groups of particles of one run.

        NaN for one run of too few particles to be split into groups (4 x 250, or 4 x 20 per hyperparameter), and where
        too few particles carry the weight, while a surprise is bridged for instance.
        """
        return readout.log_evidence_sd(self.snapshot())

    def step(
        self,
        y: Any,
        *,
        time: Any = None,
        inputs: Any = None,
        noise_sd: Any = None,
        exposure: Any = None,
        sequence: int | None = None,
    ) -> StepInfo:
        """Take one observation: a number, one value per channel, or a mapping by channel name; NaN is missing.

        ``sequence`` is its number, counted from 0: one below ``engine.t`` was taken before and is dropped, status
        ``DROPPED``, so that a source may repeat itself; one above it raises ``InputError``.

        Raises:
            InputError, ImpossibleObservationError: the engine is unchanged.
        """
        ny, nv = len(self.model.channel_names), len(self.model.input_names)
        rows = {"inputs": one(inputs, nv, "inputs"), "noise_sd": one(noise_sd, ny, "noise_sd")}
        time = None if time is None else np.atleast_1d(np.asarray(time))
        exposure = one(exposure, ny, "exposure")
        return self._take(one(y, ny, "y"), time=time, exposure=exposure, sequence=sequence, **rows)[0]

    def update(
        self,
        ys: Any,
        *,
        time: Any = None,
        inputs: Any = None,
        noise_sd: Any = None,
        exposure: Any = None,
        sequence: int | None = None,
        progress: bool | None = None,
    ) -> StepInfos:
        """Take a block of observations, all or none: bit for bit what stepping through them gives.

        ``ys`` is an array (time first), or a pandas, polars, arrow or xarray object whose columns are matched to
        channels and inputs by name. ``sequence`` is the number of the first, as in ``step``. ``progress`` shows a bar;
        by default for long blocks on a terminal.
        """
        fields = dict(inputs=inputs, noise_sd=noise_sd, exposure=exposure, sequence=sequence)
        return self._take(ys, time=time, progress=progress, **fields)

    def stream(self, observations: Iterable[Any]) -> Iterator[StepInfo]:
        """Step through an iterable as it comes: of numbers, or of mappings that name channels and inputs."""
        return (self.step(y) for y in observations)

    def _take(self, ys: Any, *, progress: bool | None = False, **fields: Any) -> StepInfos:
        runtime, ny = self._runtime, len(self.model.channel_names)
        with runtime.lock:
            state, smc = runtime.state, runtime.smc
            block, now, layout, passed = to_block(
                self.model, runtime.n_series, smc.dtype, state.clock, state.layout, ys, timing=self._timing, **fields
            )
            if len(block.dt) == 0:
                return StepInfos.empty(ny).spread(passed.kept, state.clock.taken)
            bar = assemble.progress_bar(len(block.dt), progress)
            infos = self._assimilate(block, now, layout, passed, bar)
            if self._keeper is not None:
                self._keeper.after(self.t, partial(durable.moment, self))
            return infos.spread(passed.kept, state.clock.taken)

    def _assimilate(self, block: Observation, now: Clock, layout: Any, passed: Elapsed, bar: Any = None) -> StepInfos:
        report = partial(self._report, block, self.t, passed.stamps)
        bar = assemble.progress_bar(len(block.dt), False) if bar is None else bar
        return self._runtime.assimilate(block, now, layout, passed, bar, report)

    def _report(self, block: Observation, t: int, stamps: np.ndarray | None, rows: Rows) -> StepInfos:
        """What a call tells, and its place in the record; before the call is committed."""
        infos, quantiles = over_runs(rows, t, len(self.model.channel_names))
        if self._ring is not None:
            seen = block.mask[..., 0] & (rows.row.status[:, None, 0] != Status.IMPOSSIBLE)
            y, least = np.where(seen, block.y[..., 0], np.nan), across(np.min, rows.row.least_ess)
            sums = self._scored(t, y, infos, across(np.mean, rows.row.crps))
            columns = {**vars(infos), "y": y, "least_ess": least, "quantiles": quantiles, **sums}
            self._ring.write(t, columns if stamps is None else {**columns, "when": stamps})
        return infos

    def _scored(self, t: int, y: np.ndarray, infos: StepInfos, crps: np.ndarray) -> dict[str, np.ndarray]:
        """Running sums of scores after each row, which go on from the row before."""
        last = self._ring.row(t) if self._ring is not None else {}
        each = (infos.predictive_mean, infos.predictive_sd, infos.pit, crps)
        told = Forecasts(*(a.reshape(y.shape) for a in each))
        return {
            "scores": running(y, told, last.get("scores")),
            "log_score": np.cumsum([*last.get("log_score", np.zeros(1)), *infos.log_predictive])[1:],
            "scored": last.get("scored", np.zeros(1, int)) + np.cumsum(~np.isnan(y).all(axis=1)),
        }

    def scores(self, since: int = 0) -> pd.DataFrame:
        """How good the one-step forecasts were, over the whole stream or from observation ``since`` + 1 on.

        Log score, CRPS, RMSE, coverage of central intervals and calibration of the PIT; see the columns in
        ``smcssm.readout.scores``. With ``since``, what leave-future-out cross-validation would give.
        """
        return readout.scores(self.snapshot(), since)

    def snapshot(self, order: str | None = None) -> Snapshot:
        """An immutable view of this moment; of exchangeable regimes in the order of one of their hyperparameters."""
        with self._runtime.lock:
            state = self._runtime.state
            record = None if self._ring is None else self._ring.columns(state.clock.taken)
            whole = state.clock.taken  # a schedule may keep less of history
            history = self._runtime.history
            data = partial(self._observations, history, state.length) if 0 < state.length == whole else None
            when = partial(history.stamps, state.length)
            smc, t = self._runtime.smc, state.clock.taken
            now = Snapshot(smc, state.population, t, record, data, when, state.last_move, state.log_evidence)
        return now if order is None else now.in_order(order)

    def _observations(self, history: History, length: int) -> Observation:
        """The first ``length`` rows, whatever has come since; a call that is running may move them."""
        with self._runtime.lock:
            return history.in_order(length)

    def summary(self, *, order: str | None = None) -> pd.DataFrame:
        """The posterior of the hyperparameters: mean, sd, q05, q50, q95, mcse.

        ``order`` names a hyperparameter that exchangeable regimes are put in ascending order of, particle by particle.
        """
        return readout.summary(self.snapshot(order))

    def state(self, *, order: str | None = None) -> xr.Dataset:
        """Filtered mean and sd of the state, hyperparameters integrated out; ``order`` as in ``summary``."""
        return readout.state(self.snapshot(order))

    def posterior(self, draws: int = 1000, seed: int = 0, *, order: str | None = None) -> xr.Dataset:
        """Equally weighted draws of the hyperparameters, dims (chain, draw); ``order`` as in ``summary``."""
        assemble.check_counts(draws=draws, seed=seed)
        return readout.posterior(self.snapshot(order), draws, seed)

    def forecast(  # noqa: PLR0913
        self,
        h: int | None = None,
        *,
        times: Any = None,
        inputs: Any = None,
        noise_sd: Any = None,
        exposure: Any = None,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        draws: int = 0,
        seed: int | None = None,
        components: bool = False,
        covariance: bool = False,
    ) -> xr.Dataset:
        """Mean, sd and quantiles of observations to come, or never made; hyperparameters and state integrated out.

        What came with the observations is needed for the future as well: as many rows of inputs, noise_sd, exposure.

        Args:
            h: the next h observations, one unit of time apart.
            times: or those at these times, in order; equal times are equal moments. In continuous time some may lie
                between the observations: what would have been observed there, given all that was.
            inputs: a row for each of them, where the model reads any.
            noise_sd: likewise, where observations came with one.
            exposure: likewise.
            quantiles: levels, of the exact mixture over particles.
            draws: how many joint paths of future observations and states: ``draws`` (draw, step, channel) and
                ``state_draws`` (draw, step, state). Between the observations see ``smooth(draws=)``.
            seed: of the paths; by default the same as long as the engine is.
            components: whether to tell what each component of a sum adds: ``component_mean``, ``component_sd`` and
                ``component_quantiles``, dimension ``component``.
            covariance: whether to tell the joint ``covariance`` of all of them, given all observations, dims (step,
                channel, other_step, other_channel).

        Raises:
            ModelError, InputError: h or times, levels, or the rows do not fit.
        """
        if (h is None) == (times is None):
            raise ModelError("forecast: give h, a number of steps, or times=")
        levels = assemble.levels(quantiles)
        assemble.check_paths(draws, seed)
        runtime = self._runtime
        with runtime.lock:
            state = runtime.state
            if times is None:
                (stamps, dt), inside = clock.ahead(self._timing, state.clock, assemble.horizon(h)), 0
            else:
                stamps, dt, inside = clock.forecast_times(self._timing, state.clock, times)
            rows = future(
                self.model,
                runtime.n_series,
                runtime.smc.dtype,
                state.layout,
                state.clock.taken,
                dt,
                inside=inside,
                inputs=inputs,
                noise_sd=noise_sd,
                exposure=exposure,
            )
            now = self.snapshot()
        seen = readout.in_parts(now, rows) if components else (now, rows)
        if stamps is not None and inside:
            assemble.check_beyond(draws)
            place = partial(clock.among, self._timing, state.clock, stamps=stamps[:inside])
            table = readout.between(*seen, place, inside, levels)
            jointly = partial(readout.together, now, rows, place, inside)
        else:
            table, jointly = readout.forecast(*seen, levels), partial(readout.covariance, now, rows)
        table = readout.apart(table) if components else table
        table = table.merge(readout.paths(now, rows, draws, seed)) if draws else table
        table = table.assign(covariance=jointly()) if covariance else table
        return table if stamps is None else table.assign_coords(time=("step", stamps))

    def smooth(
        self,
        lag: int | None = None,
        *,
        draws: int = 0,
        seed: int = 0,
        covariance: bool = False,
        order: str | None = None,
    ) -> xr.Dataset:
        """Mean and sd of the state at every observation so far, given all of them; hyperparameters integrated out.

        Args:
            lag: how many later observations each state is told by; None for all, or for 50 where inner particles are
                traced back. Hyperparameters have their present posterior all the same.
            draws: how many joint trajectories to draw from each run, each with the hyperparameters of one particle:
                ``trajectory``, dims (chain, draw, time, state). Exact filters alone draw them.
            seed: of the draws, and of inner particles.
            covariance: whether to add the covariances of each state, ``covariance``, and with the state at the
                observation before, ``lag_one``; dims (time, state, other_state). Of the Kalman filter, given all.
            order: of exchangeable regimes, as in ``summary``.

        Of regimes also their ``probability``, dims (time, regime). Where observations came with a time the coordinate
        ``when`` has it, dates in UTC.
        """
        assemble.check_smoothing(lag, draws, seed)
        return readout.smooth(self.snapshot(order), lag, draws, seed, covariance)

    @property
    def record(self) -> xr.Dataset:
        """The last steps, by time: forecasts, PIT, effective sample sizes, moves, quantiles of the hyperparameters.

        ``time`` counts observations from 1; ``when`` is their time stamp, if they had one, dates in UTC.
        """
        return readout.record(self.snapshot())

    def diagnose(self) -> readout.Diagnosis:
        """One verdict per item, with its remedy; warns of each failed item once."""
        return readout.diagnose(self.snapshot()).warn(self._told)

    def to_arviz(
        self,
        draws: int | None = None,
        seed: int = 0,
        *,
        predictive: bool | None = None,
        order: str | None = None,
    ) -> xr.DataTree:
        """Everything as an ``xarray.DataTree`` for ArviZ: posterior, prior, data, one-step forecasts.

        A chain is a run; by default it has as many draws as the run has particles, and at most 1000. Draws are copies
        of weighted particles, and ArviZ takes them for the sample: the ESS and MCSE that it computes count draws, not
        particles. Those of the posterior are in ``summary()``.

        Args:
            draws: of each run.
            seed: of them.
            predictive: also what each draw says of every observation given those before it: groups ``log_likelihood``
                and ``posterior_predictive``, one pass over history. By default of exact filters, up to 2^24 numbers.
            order: of exchangeable regimes, as in ``summary``; the record keeps the names that there were.
        """
        draws = min(1000, self._runtime.n_particles) if draws is None else draws
        assemble.check_counts(draws=draws, seed=seed)
        return readout.to_arviz(self.snapshot(order), draws, seed, predictive)

    def warmup(self, noise_sd: bool = False, exposure: bool = False) -> None:
        """Compile everything a stream needs, so that no later step waits for the compiler.

        Args:
            noise_sd: whether observations will come with a ``noise_sd``; once there is one, the engine knows.
            exposure: likewise.
        """
        self._runtime.warmup(noise_sd, exposure)

    def shard(self, devices: Sequence[Any] | None = None) -> None:
        """Spread the particles over several devices, which then work on every observation together.

        Numbers stay the same to rounding. Programs are compiled anew; after ``load``, ``open`` and ``reset`` particles
        are on one device again.

        Args:
            devices: such as ``jax.devices()``, all of them by default; ``n_particles`` is a multiple of their number.
        """
        sharding.shard(self._runtime, devices)

    def copy(self, seed: int | None = None) -> Engine:
        """An independent engine with the same past; with a seed, its future randomness differs.

        It keeps its observations in memory, and never writes to a journal.
        """
        with self._runtime.lock:
            ring = None if self._ring is None else self._ring.copy()
            seed_of_new = self._seed if seed is None else seed
            return Engine._around(self._runtime.copy(seed), self._timing, ring, seed_of_new, set(self._told))

    @classmethod
    def _around(
        cls, runtime: Runtime, timing: clock.Timing, ring: Ring | None, seed: int, told: Iterable[str] = ()
    ) -> Engine:
        """An engine in any state."""
        new = object.__new__(cls)
        new._runtime, new._timing, new._ring, new._seed, new._told = runtime, timing, ring, seed, set(told)
        new._keeper = None
        return new

    def save(self, path: str | os.PathLike[str], *, hmac_key: bytes | None = None) -> None:
        """Write everything to one file, whole or not at all: ``Engine.load`` goes on from there bit for bit.

        Args:
            path: a file; what was there is replaced once the new one is safe on the disk.
            hmac_key: signs the file, so that nobody without the key can forge one.

        Raises:
            CheckpointError: it cannot be written.
        """
        persist.save(self, Path(path), hmac_key)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: AbstractModel,
        prior: Any = None,
        *,
        hmac_key: bytes | None = None,
        **options: Any,
    ) -> Engine:
        """The engine of a file, in memory, where it was when it was saved.

        Args:
            path: what ``save`` has written.
            model: the same one; a file holds numbers, no code.
            prior: the same one.
            hmac_key: of a signed file.
            **options: of the engine. They are in the file; those that are given have to be the same.

        Raises:
            CheckpointError: the file is not whole, was altered, or is of another engine; the text says what differs.
        """
        return persist.load(cls, Path(path), model, prior, hmac_key, options)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | Journal, model: AbstractModel, prior: Any = None, **options: Any
    ) -> Engine:
        """Resume a journal, whatever ended the engine that wrote it: bit for bit as if it had never been interrupted.

        It starts from the newest good checkpoint, and the rows after that are taken once more. ``engine.t`` says how
        many observations are in it: a source is read on from that one.

        Args:
            path: the folder, or an ``smcssm.journal.Journal``.
            model: the same one.
            prior: the same one.
            **options: of the engine. They are in the journal; those that are given have to be the same.

        Raises:
            JournalError, CheckpointError: there is no journal, it was altered, is of another engine, or another engine
                is writing to it.
        """
        return durable.open_journal(cls, path, model, prior, options)

    def checkpoint(self) -> None:
        """Write a checkpoint into the journal's folder now, and wait for it. A stream writes them by itself.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self._keeper is None:
            raise ModelError("checkpoint: this engine has no journal, engine.save(path) writes a file")
        with self._runtime.lock:
            self._keeper.now(partial(durable.moment, self))

    def close(self) -> None:
        """Let the journal go, safe on the disk, for another engine to open; this one can be read, but takes no more."""
        if self._keeper is not None:
            with self._runtime.lock:
                self._keeper.wait()
                self._runtime.history.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self.copy()

    __copy__ = copy

    def __reduce__(self) -> Any:
        raise TypeError(
            "an engine is not pickled, for its model and prior hold functions: engine.save(path) and "
            "ss.Engine.load(path, model, prior) take it to another process, engine.copy() copies it in this one"
        )

    def reset(self) -> None:
        """Back to the prior, as if newly built. An engine with a journal refuses: its folder is of one stream."""
        with self._runtime.lock:
            self._runtime.reset(self._seed)
            self._ring = None if self._ring is None else Ring(self._ring.capacity)
            self._told = set()
