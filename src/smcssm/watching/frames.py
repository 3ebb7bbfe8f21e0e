"""What a live view shows at one moment, read from an engine: arrays of the last so many observations."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from smcssm.core import Status
from smcssm.engine import Engine
from smcssm.errors import SmcssmError
from smcssm.monitor import Alarm, Monitor
from smcssm.over_runs import log_mean
from smcssm.readout.export import record
from smcssm.readout.prior import prior_quantiles
from smcssm.record import StepInfos

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class Frame(NamedTuple):
    """One moment of an engine.

    Attributes:
        t: how many observations there are.
        x: places of the last of them on the time axis: their numbers, or datetime64.
        steps: the record of these, as ``engine.record``.
        ahead_x: places of the forecasts ahead.
        ahead: their quantiles ``[h, channel, level]``, or None where the model needs to be told more for them.
        prior: quantiles of each hyperparameter before any observation.
        status: of the last observation.
        log_evidence: of all observations.
        floors: effective sample sizes below which particles are moved, and which a move needs; and the most there is.
        alarms: the last ones.
        alarmed: how many there were since the view was made.
    """

    t: int
    x: np.ndarray
    steps: xr.Dataset
    ahead_x: np.ndarray
    ahead: np.ndarray | None
    prior: dict[str, np.ndarray]
    status: str
    log_evidence: float
    floors: tuple[float, float, float]
    alarms: tuple[Alarm, ...]
    alarmed: int


class Reader:
    """Reads frames. What it keeps, and the work of a frame, do not grow with the stream.

    Args:
        engine: with a record.
        last: how many observations a frame goes back.
        h: how many steps it looks ahead; 0 for none.
        monitor: whose alarms are shown, fed by somebody else; by default one of its own, fed from the record.
    """

    def __init__(self, engine: Engine, last: int, h: int, monitor: Monitor | None = None) -> None:
        self.engine, self.last, self.h = engine, last, h
        self._monitor, self._fed = Monitor() if monitor is None else monitor, monitor is not None
        self._alarms: deque[Alarm] = deque(maxlen=last)
        self._alarmed, self._seen = 0, 0
        self._stamps: deque[tuple[int, Any]] = deque(maxlen=last)
        self._prior: dict[str, np.ndarray] | None = None

    def note(self, t: int, stamp: Any) -> None:
        """When observation t was made: datetime64, or a number."""
        self._stamps.append((t, stamp))

    def read(self) -> Frame | None:
        """The engine as it is now; None before the first observation."""
        shot = self.engine.snapshot()
        steps = record(shot)
        if not steps.sizes["time"]:
            return None
        self._watch(steps)
        if self._prior is None:
            self._prior = prior_quantiles(shot, (0.05, 0.5, 0.95))
        upto = self._stamps[-1][0] if self._stamps else shot.t  # a step may be told before its time is
        steps = steps.isel(time=steps["time"].values <= upto).isel(time=slice(-self.last, None))
        ahead = self._ahead()
        x, ahead_x = self._places(steps, ahead)
        smc, n = shot.smc, shot.population.log_weight.shape[-1]
        return Frame(
            t=int(steps["time"].values[-1]),
            x=x,
            steps=steps,
            ahead_x=ahead_x,
            ahead=None if ahead is None else ahead["quantiles"].values,
            prior=self._prior,
            status=Status(int(steps["status"].values[-1])).name,
            log_evidence=float(log_mean(shot.log_evidence())),
            floors=(smc.ess_threshold * n, 10.0 * smc.prior.size, float(n)),
            alarms=tuple(self._alarms),
            alarmed=self._alarmed,
        )

    def _watch(self, steps: xr.Dataset) -> None:
        """Rows that the monitor has not seen; of those that have left the record meanwhile nothing is known."""
        if self._fed:
            self._alarms.extend(self._monitor.alarms[self._alarmed :])
            self._alarmed = len(self._monitor.alarms)
            return
        new = steps.isel(time=steps["time"].values > self._seen)
        self._seen = int(steps["time"].values[-1])
        if not new.sizes["time"]:
            return
        names = ("log_predictive", "predictive_mean", "predictive_sd", "pit", "ess", "moved", "acceptance", "status")
        found = self._monitor.update(StepInfos(new["time"].values, **{name: new[name].values for name in names}))
        self._monitor.alarms.clear()
        self._alarms.extend(found)
        self._alarmed += len(found)

    def _places(self, steps: xr.Dataset, ahead: xr.Dataset | None) -> tuple[np.ndarray, np.ndarray]:
        """Stamps where there is one of each observation, in order, else numbers; and those of the forecasts.

        An engine that holds for any gap knows the times it forecasts; one on a grid was not told of any.
        """
        known, t = dict(self._stamps), steps["time"].values
        x = steps["when"].values if "when" in steps.coords else np.asarray([known[i] for i in t.tolist() if i in known])
        further = np.arange(1, self.h + 1)
        if len(x) < len(t) or not (x[1:] >= x[:-1]).all():
            return t, t[-1] + further
        if ahead is not None and "time" in ahead:
            return x, ahead["time"].values
        return x, x[-1] + further * (np.median(np.diff(x)) if len(x) > 1 else 0 * (x[-1] - x[-1]))

    def _ahead(self) -> xr.Dataset | None:
        if not self.h:
            return None
        try:
            return self.engine.forecast(self.h, quantiles=LEVELS)
        except SmcssmError:  # it reads inputs, say, which nobody knows yet
            return None
