"""The fleet: many independent series in one program, each with its own posterior, clock and randomness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from smcssm import assemble, clock
from smcssm.core import AbstractKernel, AbstractModel, AbstractPrior, AbstractSchedule
from smcssm.engine import Engine
from smcssm.errors import ModelError
from smcssm.fleets.rows import listed
from smcssm.fleets.assembly import check_supported, names_of
from smcssm.fleets.infos import FleetInfo, of_step, scored, stacked
from smcssm.fleets.membership import engine_of, joined, kept
from smcssm.fleets.rows import Block, Recorder, block_of_one
from smcssm.fleets.runtime import FleetRuntime
from smcssm.late import Refuse

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class Fleet:
    """Exact online Bayes for many series of one model: S independent engines that run as one program.

    Args:
        model: a state-space model, ``smcssm.models``, with an exact filter.
        prior: of each series, as for ``Engine``.
        series: names of the series, or how many there are (then they are 0, 1, ...).
        n_particles: how many hyperparameter particles each series has.
        move: how particles are moved: ``ss.moves.Metropolis``.
        schedule: when they are moved: ``ss.Immediate()`` or ``ss.Jitter()``.
        ess_threshold: a series is moved when its effective sample size falls below this share of the particles.
        impossible: what becomes of an observation that model and prior cannot explain. "quarantine" refuses it, and
            all that follow in that series, until ``release``; "missing" takes it as missing.
        time_unit: the unit of time that hyperparameters are per, where times are dates: "1D", "1h", a timedelta.
        dtype: "float64" or "float32".
        seed: of all randomness; series k of a fleet draws what ``fleet.engine(name)`` would.

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
        dtype: str = "float64",
        seed: int = 0,
    ) -> None:
        names = names_of(series)
        assemble.check_counts(n_particles=n_particles, seed=seed)
        if impossible not in ("quarantine", "missing"):
            raise ModelError(f'impossible={impossible!r}: expected "quarantine" or "missing"')
        timing = clock.timing(getattr(model, "continuous_time", False), time_unit, None, Refuse())
        smc = assemble.smc2(
            model,
            prior,
            filter=None,
            move=move,
            schedule=schedule,
            ess_threshold=ess_threshold,
            impossible="error" if impossible == "quarantine" else impossible,
            record=False,
            dtype=dtype,
            n_particles=n_particles,
            resampling="systematic",
            forgetting=1.0,
            late=Refuse(),
        )
        check_supported(smc)
        self._timing, self._names = timing, names
        self._runtime = FleetRuntime(smc, n_particles, seed, len(names))
        self._next = len(names)

    def __repr__(self) -> str:
        smc, n = self._runtime.smc, self._runtime.n_particles
        name = type(smc.filter.model).__name__
        return f"Fleet({name}: {', '.join(smc.filter.model.names)}; {len(self)} series x {n} particles)"

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> tuple[Any, ...]:
        """The series."""
        return self._names

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
        with self._runtime.alone():
            block = block_of_one(
                self.model, self._names, ys, reported, time=time, inputs=inputs, noise_sd=noise_sd
            )
            return self._take(block)[0]

    def _take(self, block: Block) -> list[FleetInfo]:
        """Every row of a block, or none."""
        runtime, infos = self._runtime, []
        state = runtime.state
        with jax.enable_x64(True):
            recorder = Recorder(block, self._names, runtime.smc.dtype, self._timing)
            for i in range(len(recorder)):
                observation, state = recorder.row(i, state)
                state, told = runtime.step(state, observation)
                state = state._replace(sums=scored(state.sums, block.y[i].T, told))
                infos.append(of_step(self._names, state, told))
        runtime.state = state
        return infos

    def engine(self, name: Any) -> Engine:
        """An independent ``Engine`` with the past of one series, which goes on as that series would."""
        place = self._place(name)
        with self._runtime.lock:
            return engine_of(self._runtime, self._timing, place)

    def _place(self, name: Any) -> int:
        if name not in self._names:
            raise ModelError(f"the fleet has no series {name!r}; it has {listed(self._names)}")
        return self._names.index(name)
