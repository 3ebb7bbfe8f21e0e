"""Is the model still right? Surprises, drifts and changes, with a known rate of false alarms.

If model and prior are right, the PIT values u_t of the one-step forecasts are independent and uniform (Rosenblatt 1952,
doi:10.1214/aoms/1177729394; Dawid 1984, doi:10.2307/2981683), from the first observation on, because hyperparameters
are integrated out. So both of these are sequences of independent standard normal numbers:

    location  z_t = Phi^-1(u_t)               drifts when forecasts are off in one direction
    scale     s_t = Phi^-1(|2 u_t - 1|)       up when forecasts are too narrow, down when they are too wide

and how often an alarm is false does not depend on model, prior or data. That is why the chart here is the cumulative
sum of Page (1954, doi:10.1093/biomet/41.1-2.100), whose mean time between false alarms is known for a given law;
detectors that estimate the mean as they go (Page-Hinkley and ADWIN of river, ``pip install 'smcssm[monitor]'``) are
taken in its place, with a rate of false alarms that has to be found by simulation: ``benchmarks/monitor.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from smcssm.engine import Engine
from smcssm.errors import InputError, ModelError
from smcssm.record import StepInfo, StepInfos

if TYPE_CHECKING:
    import pandas as pd

_DRIFTS = ("location", "scale")
_LARGEST = 8.0  # normal scores of PIT values that are 0 or 1 to rounding


class Detector(Protocol):
    """What river calls a drift detector."""

    drift_detected: bool

    def update(self, x: float) -> Any:
        """Take one number; after a detection begin anew."""
        ...


class Alarm(NamedTuple):
    """One alarm.

    Attributes:
        t: the observation that raised it, as ``info.t``.
        kind: "surprise", one observation far in the tails of its forecast; "location" or "scale", many that are
            slightly off; "change", forecasts of another engine that have become better.
        channel: number of the channel; 0 for a change, which is of all channels together.
        value: what crossed the threshold: a tail probability, a cumulative sum, or a log Bayes factor.
        threshold: what it crossed.
        since: the first observation of the run that led to it, an estimate of when the change began.
    """

    t: int
    kind: str
    channel: int
    value: float
    threshold: float
    since: int


def surprise(source: Any) -> pd.DataFrame:
    """How surprising each observation was under the forecast that was made for it.

    ``source`` is an engine, or what ``step`` or ``update`` returned.

    A row for each observation and channel, those of an engine as far as its record goes back. ``pit``; ``tail`` =
    2 min(u, 1 - u), the probability of something at least as far out, uniform if the model is right; ``location`` and
    ``scale``, standard normal; ``excess``, the log score less its expectation under a normal forecast with the same
    mean and sd, with mean 0 and variance 1/2: negative for worse than expected. It is NaN with several channels, where
    the log score is of all together.
    """
    import pandas as pd

    t, pit, sd, log_score = _columns(source)
    z, s = _scores(pit)
    excess = np.full(pit.shape, np.nan)
    if pit.shape[1] == 1:
        with np.errstate(divide="ignore"):
            excess = log_score[:, None] + 0.5 * np.log(2 * np.pi * np.e * sd**2)
    values = {"pit": pit, "tail": _tails(pit), "location": z, "scale": s}
    values["excess"] = np.where(np.isnan(pit), np.nan, excess)
    index = pd.MultiIndex.from_product([t.tolist(), range(pit.shape[1])], names=["t", "channel"])
    return pd.DataFrame({name: a.ravel() for name, a in values.items()}, index=index)


def _columns(source: Any) -> tuple[np.ndarray, ...]:
    """Number, PIT ``[t, channel]``, predictive sd ``[t, channel]`` and log predictive of each observation."""
    if isinstance(source, Engine):
        steps = source.record
        names = "time", "pit", "predictive_sd", "log_predictive"
        return tuple(steps[name].values for name in names)
    if not isinstance(source, StepInfo | StepInfos):
        raise InputError(f"expected an engine, or what step or update returned; got {type(source).__name__}")
    t = np.atleast_1d(source.t)
    pit, sd = (np.asarray(a, float).reshape(len(t), -1) for a in (source.pit, source.predictive_sd))
    return t, pit, sd, np.atleast_1d(source.log_predictive)


def _tails(pit: np.ndarray) -> np.ndarray:
    """Both of them; a PIT may be above 1 by rounding."""
    return np.maximum(1 - np.abs(2 * pit - 1), 0.0)


def _scores(pit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal for a calibrated forecast: location, and spread."""
    from scipy.special import ndtri

    return tuple(np.clip(ndtri(u), -_LARGEST, _LARGEST) for u in (pit, np.abs(2 * pit - 1)))


class Cusum:
    """Two-sided cumulative sums of standard normal numbers.

        up   = max(0, up + x - slack)            down = max(0, down - x - slack)

    An alarm is a sum above the threshold, after which both begin anew. The mean time between false alarms of one sum is
    (exp(2 k b) - 1 - 2 k b) / (2 k²), b = threshold + 1.166, k = slack (Siegmund 1985,
    doi:10.1007/978-1-4757-1862-1), half of it for both. ``slack`` is half of the drift, in standard deviations, that
    is found soonest: after about threshold / slack observations.

    Args:
        run_length: mean number of observations between false alarms.
        slack: see above.
        clip: no number counts for more, so that one outlier is no drift. It makes false alarms a little rarer than
            computed.
    """

    def __init__(self, run_length: int = 10_000, slack: float = 0.5, clip: float = 3.0) -> None:
        if not (run_length > 1 and 0 < slack < clip):
            raise ModelError(
                f"Cusum: expected run_length > 1 and 0 < slack < clip, got {run_length}, {slack:g} and {clip:g}"
            )
        self.slack, self.clip, self.threshold = slack, clip, _threshold(run_length, slack)
        self.up = self.down = 0.0
        self.since_up = self.since_down = 0

    @property
    def value(self) -> float:
        """The larger sum."""
        return max(self.up, self.down)

    @property
    def length(self) -> int:
        """How many numbers it is made of: since it was last zero."""
        return self.since_up if self.up >= self.down else self.since_down

    @property
    def drift_detected(self) -> bool:
        """Whether the last number raised an alarm."""
        return self.value > self.threshold

    def update(self, x: float) -> None:
        """Take one number."""
        if self.drift_detected:
            self.up = self.down = 0.0
        x = min(max(x, -self.clip), self.clip)
        self.up, self.down = max(0.0, self.up + x - self.slack), max(0.0, self.down - x - self.slack)
        self.since_up = self.since_up + 1 if self.up else 0
        self.since_down = self.since_down + 1 if self.down else 0


def _threshold(run_length: int, k: float) -> float:
    """Where the formula of Siegmund gives the run length for two sums: fixed point in 2 k b, a contraction."""
    a = 1.0
    for _ in range(200):
        a = math.log1p(a + 4 * k**2 * run_length)
    return max(a / (2 * k) - 1.166, 0.0)


class Monitor:
    """Watches the calibration of an engine: ``alarms = monitor.update(engine.step(y))``.

    In each channel it watches for single observations in the tails (surprise) and for drifts of location and scale.
    The rate of false alarms is shared out among them: ``run_length`` is for all together.

    Args:
        run_length: mean number of observations between false alarms, if model and prior are right.
        detector: makes a detector of river's kind for location and scale of each channel, in place of ``Cusum``; its
            rate of false alarms is then its own.
    """

    def __init__(self, run_length: int = 10_000, detector: Callable[[], Detector] | None = None) -> None:
        if not run_length > 1:
            raise ModelError(f"run_length={run_length}: expected a mean number of observations, above 1")
        self.run_length, self._make, self.alarms = run_length, detector, []
        self._charts: list[dict[str, Any]] = []

    def update(self, infos: Any) -> list[Alarm]:
        """Take what ``engine.step`` or ``engine.update`` returned; the alarms that it raises."""
        t, pit, _, _ = _columns(infos)
        channels = pit.shape[1]
        rarer = self.run_length * (1 + len(_DRIFTS)) * channels
        if not self._charts:
            make = self._make or (lambda: Cusum(rarer))
            self._charts = [{kind: make() for kind in _DRIFTS} for _ in range(channels)]
        if len(self._charts) != channels:
            raise InputError(f"this monitor watches {len(self._charts)} channels, and got {channels}")
        tails, (location, scale) = _tails(pit), _scores(pit)
        scores: dict[str, np.ndarray] = {"location": location, "scale": scale}
        new = []
        for row, i in np.argwhere(~np.isnan(pit)).tolist():
            if tails[row, i] < 1 / rarer:
                new.append(Alarm(int(t[row]), "surprise", i, float(tails[row, i]), 1 / rarer, int(t[row])))
            for kind, chart in self._charts[i].items():
                chart.update(float(scores[kind][row, i]))
                if chart.drift_detected:
                    new.append(_drift(int(t[row]), kind, i, chart))
        self.alarms += new
        return new

    @property
    def table(self) -> pd.DataFrame:
        """All alarms so far."""
        import pandas as pd

        return pd.DataFrame(self.alarms, columns=list(Alarm._fields))


def _drift(t: int, kind: str, channel: int, chart: Any) -> Alarm:
    known = isinstance(chart, Cusum)
    value, threshold = (chart.value, chart.threshold) if known else (math.nan, math.nan)
    return Alarm(t, kind, channel, value, threshold, max(t - chart.length + 1, 1) if known else t)


class Change:
    """Watches two engines on the same stream for a change that one of them takes in its stride.

    ``old`` believes in constant hyperparameters; ``new`` forgets (``forgetting=0.98``), or was started later, or has
    another model. The running Bayes factor of "new, from some observation on" against "old throughout", summed over
    when that was (Shiryaev 1963, Roberts 1966):

        R_t = (1 + R_{t-1}) p_new(y_t | y_1:t-1) / p_old(y_t | y_1:t-1)

    If the observations are as ``old`` forecasts them, R_t - t is a martingale, as both forecasts are densities,
    whatever they were fitted to. So the mean time to a false alarm at R_t >= run_length is at least run_length
    (Pollak 1985, doi:10.1214/aos/1176346587; e-detectors: Shin, Ramdas & Rinaldo 2024, doi:10.51387/23-NEJSDS51).

    Args:
        run_length: a lower bound of the mean number of observations to a false alarm.
    """

    def __init__(self, run_length: int = 10_000) -> None:
        if not run_length > 1:
            raise ModelError(f"run_length={run_length}: expected a mean number of observations, above 1")
        self.threshold, self.alarms = math.log(run_length), []
        self.log_bayes_factor = -math.inf
        self._best, self._length = 0.0, 0

    def update(self, old: Any, new: Any) -> list[Alarm]:
        """Take what both engines said of the same observation, or block; the alarms that it raises.

        ``log_bayes_factor`` is log R_t after it. At an alarm it begins anew.
        """
        t, _, _, before = _columns(old)
        _, _, _, after = _columns(new)
        if len(before) != len(after):
            raise InputError(f"the first engine took {len(before)} observations, the second {len(after)}")
        found = []
        for number, gain in zip(t.tolist(), (after - before).tolist(), strict=True):
            self.log_bayes_factor = float(np.logaddexp(0.0, self.log_bayes_factor)) + gain
            self._best = max(0.0, self._best + gain)
            self._length = self._length + 1 if self._best else 0
            if self.log_bayes_factor >= self.threshold:
                since = max(number - max(self._length, 1) + 1, 1)
                found.append(Alarm(number, "change", 0, self.log_bayes_factor, self.threshold, since))
                self.log_bayes_factor, self._best, self._length = -math.inf, 0.0, 0
        self.alarms += found
        return found
