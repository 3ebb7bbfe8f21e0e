"""Can these numbers be trusted? One verdict per item, with its remedy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from smcssm.core import Status
from smcssm.errors import SmcssmWarning
from smcssm.readout.error import by_lineage, log_evidence_sd
from smcssm.readout.export import record
from smcssm.readout.prior import prior
from smcssm.readout.summary import labels, weighted_quantiles
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

LEAST_OBSERVATIONS = 20  # fewer say nothing about calibration


class Item(NamedTuple):
    """One line of the table; ``verdict`` is "ok", "check", "info", "unknown" or "n/a"."""

    name: str
    value: float
    threshold: str
    verdict: str
    remedy: str = ""


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What ``engine.diagnose()`` found.

    Attributes:
        t: how many observations there were.
        items: the lines of the table.
    """

    t: int
    items: tuple[Item, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing has to be checked."""
        return not self._failed()

    @property
    def table(self) -> pd.DataFrame:
        """Rows are items; columns value, threshold, verdict and remedy.

        Verdicts are "ok", "check" (with a remedy), "info" (worth knowing, no fault), "unknown" (the remedy says what
        would tell) and "n/a" (too early).
        """
        import pandas as pd

        names, columns = [i.name for i in self.items], list(Item._fields[1:])
        return pd.DataFrame([i[1:] for i in self.items], index=names, columns=columns)

    def warn(self, told: set[str]) -> Diagnosis:
        """Warn of failed items that are not in ``told`` yet, and put them there."""
        new = [item for item in self._failed() if item.name not in told]
        told.update(item.name for item in new)
        for item in new:
            text = f"{item.name} is {_short(item.value)}, expected {item.threshold}: {item.remedy}"
            warnings.warn(text, SmcssmWarning, stacklevel=3)
        return self

    def __repr__(self) -> str:
        text = self.table.drop(columns="remedy").to_string(formatters={"value": _short}, na_rep="")
        told: dict[str, list[str]] = {}  # what several items have in common is said once
        for item in self.items:
            if item.remedy:
                told.setdefault(f"{item.verdict}: {item.remedy}", []).append(item.name)
        return "\n".join([self._headline(), text, *(f"{', '.join(names)}: {what}" for what, names in told.items())])

    def _repr_html_(self) -> str:
        return f"<p>{self._headline()}</p>{self.table.to_html(formatters={'value': _short}, na_rep='')}"

    def _failed(self) -> list[Item]:
        return [item for item in self.items if item.verdict == "check"]

    def _headline(self) -> str:
        count = len(self._failed())
        return f"Diagnosis at t = {self.t}: {'ok' if self.ok else f'{count} item{"s" * (count > 1)} to check'}"


def diagnose(snapshot: Snapshot) -> Diagnosis:
    """Every check that the population, the last move and the record allow.

    Moves, effective sample size, weights, calibration of the one-step forecasts, what the data say beyond the prior,
    and the spread between independent runs. Where there are several runs the worst one counts.
    """
    steps = None if snapshot.record is None else record(snapshot)
    items = [
        *_moves(snapshot),
        *_weights(snapshot, steps),
        *_calibration(snapshot, steps),
        *_information(snapshot),
        *_spread(snapshot),
    ]
    return Diagnosis(snapshot.t, tuple(items))


def _judge(name: str, value: float, sign: str, threshold: float, remedy: str) -> Item:
    """Compare a value that should be ``sign`` (">=" or "<=") its threshold; NaN fails."""
    good = value >= threshold if sign == ">=" else value <= threshold
    return Item(name, value, f"{sign} {_short(threshold)}", "ok" if good else "check", "" if good else remedy)


def _absent(name: str, verdict: str = "n/a", remedy: str = "") -> Item:
    return Item(name, math.nan, "", verdict, remedy)


def _short(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def _moves(snapshot: Snapshot) -> Iterator[Item]:
    """How well the last move mixed, and how many particles are not copies of another."""
    names = "distinct particles", "correlation with the start", "slow mixing", "acceptance"
    move, z = snapshot.last_move, np.asarray(snapshot.population.z)
    if move is None:
        yield from map(_absent, names)
        return
    n, moved = z.shape[-1], np.asarray(move.due)
    distinct = float(min(len(np.unique(run, axis=-1).T) for run in np.moveaxis(z, 1, 0)))
    few = "the last move left too many copies: more n_particles"
    yield _judge(names[0], distinct, ">=", float(math.ceil(n / 4)), few)
    slow = (
        "the last move stopped before its particles had left their places: schedule=Immediate(max_sweeps=100), or more "
        "n_particles, to which proposals fit better"
    )
    correlation, most = float(np.max(np.asarray(move.correlation)[moved])), max(0.1, 3 / n**0.5)
    judged = _judge(names[1], correlation, "<=", most, slow)
    yield judged if move.pareto_k is None else judged._replace(verdict="info", remedy="")  # the next cycle goes on
    yield _judge(names[2], float(np.max(np.asarray(move.status)) >= Status.SLOW_MIXING), "<=", 0.0, slow)
    yield _judge(
        names[3],
        float(np.min(np.asarray(move.acceptance)[moved])),
        ">=",
        0.1,
        'proposals hardly fit the posterior: more n_particles, or move=moves.Metropolis("random_walk")',
    )
    if move.pareto_k is not None:
        yield from _challengers(move, moved)


def _challengers(move: Any, moved: np.ndarray) -> Iterator[Item]:
    """The challengers of a paced move as an importance sample of the posterior."""
    off = float(np.max(np.abs(move.gap[moved]) / move.gap_sd[moved]))
    why = "importance sampling by the last challengers contradicts the evidence: more n_particles, or runs=4 to see"
    k = float(np.max(move.pareto_k[moved]))
    judged = _judge("evidence against challengers", off, "<=", 4.0, why)
    yield judged if k <= 0.7 else judged._replace(verdict="info", remedy="")  # too heavy a tail to say
    yield Item("pareto k of challengers", k, "<= 0.7", "info")


def _weights(snapshot: Snapshot, steps: xr.Dataset | None) -> Iterator[Item]:
    """Effective sample sizes, tempering and particles that the data excluded."""
    size = snapshot.smc.prior.size
    w = snapshot.weights()
    floor, more = 10.0 * size, f"more n_particles: at least {40 * size} for {size} hyperparameters"
    yield _judge("ess now", float(np.min(1 / np.sum(w**2, axis=-1))), ">=", floor, more)
    yield _least(snapshot, steps, floor, more)
    phi = float(np.min(np.asarray(snapshot.population.phi)))
    absorbed = "a surprise is still being absorbed: wait, and mind info.ess until then; Immediate() absorbs it at once"
    yield _judge("tempering exponent", phi, ">=", 1.0, absorbed)
    excluded = float(np.max(np.mean(~np.isfinite(np.asarray(snapshot.population.log_weight)), axis=-1)))
    why = "the model is impossible or singular for these particles: a prior that stays away from there"
    yield _judge("share at weight zero", excluded, "<=", 0.5, why)
    if steps is None:
        yield _absent("steps in trouble", "unknown", "build the engine with record=10_000")
        return
    bad = steps["status"].values >= Status.SLOW_MIXING
    worst = Status(int(steps["status"].values.max(initial=0))).name
    note = f"{worst} at worst, last at t = {int(steps['time'].values[bad][-1])}" if bad.any() else ""
    yield Item("steps in trouble", float(bad.sum()), "<= 0", "info" if bad.any() else "ok", note)


def _least(snapshot: Snapshot, steps: xr.Dataset | None, floor: float, more: str) -> Item:
    """The least effective sample size on record: a move fitted to fewer than 10 d points goes astray."""
    name = "least ess on record"
    if steps is None:
        return _absent(name, "unknown", "build the engine with record=10_000")
    if not steps.sizes["time"]:
        return _absent(name)
    ess = steps["least_ess"].values
    worst = int(np.argmin(ess))
    how = more if snapshot.smc.schedule.tempering else "leave tempering on, schedule=Immediate()"
    why = f"the move at t = {int(steps['time'].values[worst])} was fitted to too few particles; evidence and posterior "
    return _judge(name, float(ess[worst]), ">=", floor, f"{why}may be wrong from there on: {how}, and start again")


def _calibration(snapshot: Snapshot, steps: xr.Dataset | None) -> Iterator[Item]:
    """Whether PIT values are uniform and independent, channel by channel."""
    channels = snapshot.smc.filter.model.channel_names
    for i, channel in enumerate(channels):
        names = [f"{what}{f' of {channel}' if len(channels) > 1 else ''}" for what in ("calibration", "dependence")]
        if steps is None:
            yield from (_absent(n, "unknown", "build the engine with record=10_000") for n in names)
            continue
        pit = steps["pit"].values[:, i]
        if np.sum(~np.isnan(pit)) < LEAST_OBSERVATIONS:
            yield from map(_absent, names)
            continue
        yield _judge(
            names[0],
            uniformity(pit),
            ">=",
            0.01,
            "one-step forecasts are not calibrated (p-value of Kolmogorov and Smirnov, too small under serial "
            "dependence): see plots.pit_histogram; heavier tails, other noise or missing structure",
        )
        r, pairs = lag_one(pit)
        yield _judge(
            names[1],
            abs(r),
            "<=",
            max(0.1, 3 / max(pairs, 1) ** 0.5),
            "forecast errors are correlated from one observation to the next: the model lacks dynamics, such as a "
            "trend, a season or an AR component",
        )


def uniformity(pit: np.ndarray) -> float:
    """p-value of the Kolmogorov-Smirnov test of a uniform law, missing values left out."""
    from scipy import stats

    return float(stats.kstest(pit[~np.isnan(pit)], "uniform").pvalue)


def lag_one(pit: np.ndarray) -> tuple[float, int]:
    """Correlation of successive normal scores, and of how many pairs."""
    from scipy import stats

    score = stats.norm.ppf(np.clip(pit, 1e-6, 1 - 1e-6))
    a, b = score[:-1], score[1:]
    both = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[both], b[both]
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return 0.0, len(a)
    return float(np.corrcoef(a, b)[0, 1]), len(a)


def _information(snapshot: Snapshot) -> Iterator[Item]:
    """Width of the posterior over that of the prior; 90% intervals, because heavy-tailed priors have no sd."""
    before, prior_weight = prior(snapshot)
    after, weight = snapshot.theta(), snapshot.weights()
    for name, entry, index in _entries(snapshot):
        what = f"posterior / prior width, {name}"
        if snapshot.t == 0:
            yield _absent(what)
            continue
        ratio = _width(after[entry][index], weight) / _width(before[entry][index], prior_weight)
        vague = "the data say nothing about it yet: what you see is the prior" if ratio > 0.9 else ""
        yield Item(what, ratio, "<= 0.9", "info" if vague else "ok", vague)


def _width(values: np.ndarray, w: np.ndarray) -> float:
    low, high = weighted_quantiles(values.ravel(), (w / len(w)).ravel(), np.array([0.05, 0.95]))
    return float(high - low)


def _entries(snapshot: Snapshot) -> Iterable[tuple[str, str, tuple[int, ...]]]:
    """Label, name and index of every scalar hyperparameter of the model."""
    shapes = dict(zip(snapshot.smc.prior.names, snapshot.smc.prior.shapes, strict=True))
    for name in snapshot.smc.filter.model.names:
        for label, index in labels(snapshot.smc.prior, name, shapes[name]):
            yield label, name, index


def _spread(snapshot: Snapshot) -> Iterator[Item]:
    """Monte Carlo error as independent runs show it."""
    names = "spread of log evidence", "spread of means"
    w = snapshot.weights()
    more = "more n_particles"
    yield from _lineages(snapshot)
    if len(w) == 1:
        sd, how = log_evidence_sd(snapshot), "too few particles for groups, and one run: runs=4 shows its error"
        known = _judge("sd of log evidence", sd, "<=", 0.5, f"between groups of particles, in nats: {more}")
        yield _absent("sd of log evidence", "unknown", how) if math.isnan(sd) else known
        return
    yield _judge(names[0], float(snapshot.log_evidence().std(ddof=1)), "<=", 0.5, f"sd between runs, in nats: {more}")
    theta = snapshot.theta()
    worst = max(_between(theta[entry][index], w) for _, entry, index in _entries(snapshot))
    yield _judge(names[1], worst, "<=", 0.2, f"sd of a mean between runs over the posterior sd: {more}")


def _lineages(snapshot: Snapshot) -> Iterator[Item]:
    """The other estimate of the evidence's error, and what it rests on."""
    if snapshot.smc.resampling != "multinomial":
        return
    sd, survive = by_lineage(snapshot)
    yield Item("surviving ancestors", float(survive.min()), ">= 20", "ok" if survive.min() >= 20 else "info")
    yield Item("sd of log evidence, by lineage", float(sd.max()), "", "info")


def _between(values: np.ndarray, w: np.ndarray) -> float:
    """Standard deviation of the runs' means over that of the posterior within runs."""
    values = np.where(w > 0, values, 0.0)
    means = np.sum(w * values, axis=-1)
    within = np.sqrt(np.mean(np.sum(w * (values - means[:, None]) ** 2, axis=-1)))
    return float(means.std(ddof=1) / within) if within > 0 else 0.0
