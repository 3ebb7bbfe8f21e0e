"""What a step of a fleet reported: one number per series, or per series and channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from smcssm.core import Status
from smcssm.fleets.runtime import State, Told
from smcssm.readout.scores import Forecasts, running
from smcssm.record import StepInfo, StepInfos


@dataclass(frozen=True)
class FleetInfo:
    """What observations of every series said: of one row, arrays ``[s]``; of several, ``[t, s]``.

    Series are in the order of ``names``; of a model with several channels predictive and PIT have one more axis. Where
    a series did not report, or its row was refused, ``taken`` is False and numbers are NaN.

    Attributes:
        names: the series.
        taken: which series took an observation.
        t: how many observations each has taken.
        log_predictive: log p(y_t | y_1:t-1).
        predictive_mean: of the one-step predictive.
        predictive_sd: its standard deviation.
        pit: probability integral transform of y_t.
        ess: effective sample size after y_t, before any move.
        moved: which series were resampled and moved.
        acceptance: mean acceptance rate of the move; NaN without one.
        status: the worst thing that happened to each: an ``ss.Status``.
    """

    names: tuple[Any, ...]
    taken: np.ndarray
    t: np.ndarray
    log_predictive: np.ndarray
    predictive_mean: np.ndarray
    predictive_sd: np.ndarray
    pit: np.ndarray
    ess: np.ndarray
    moved: np.ndarray
    acceptance: np.ndarray
    status: np.ndarray

    def __repr__(self) -> str:
        worst, shape = Status(int(self.status.max(initial=0))).name, " x ".join(map(str, self.taken.shape))
        return f"FleetInfo({shape}: {self.taken.sum()} taken, {self.moved.sum()} moved, worst status {worst})"

    def __len__(self) -> int:
        """How many rows; of one row, how many series."""
        return len(self.taken)

    def __getitem__(self, name: Any) -> StepInfo | StepInfos:
        """Of one series, as its own engine would tell it: of several rows those that it has taken."""
        if name not in self.names:
            raise KeyError(f"no series {name!r}")
        i = self.names.index(name)
        if self.taken.ndim == 2:
            kept = self.taken[:, i]
            return StepInfos(**{f.name: getattr(self, f.name)[kept, i] for f in fields(StepInfos)})
        return StepInfos(**{f.name: getattr(self, f.name)[None, i] for f in fields(StepInfos)})[0]


def of_step(state: State, told: Told) -> FleetInfo:
    """What is told of one row after which the fleet is in this state."""
    row, taken = told.row, told.taken

    def known(a: np.ndarray) -> np.ndarray:
        a = np.where(taken, a, np.nan)
        return a if a.ndim == 1 else a[0] if len(a) == 1 else a.T

    return FleetInfo(
        names=state.names,
        taken=taken,
        t=state.taken.copy(),
        log_predictive=known(told.log_predictive),
        predictive_mean=known(row.predictive_mean),
        predictive_sd=known(row.predictive_sd),
        pit=known(row.pit),
        ess=known(row.ess),
        moved=told.moved,
        acceptance=told.acceptance,
        status=row.status,
    )


def stacked(infos: Sequence[FleetInfo], names: tuple[Any, ...], n_channels: int) -> FleetInfo:
    """Several rows, or none."""
    if not infos:
        flat = np.zeros((0, len(names)))
        wide = flat if n_channels == 1 else np.zeros((0, len(names), n_channels))
        none = flat.astype(bool), flat.astype(int)
        return FleetInfo(names, *none, flat, wide, wide, wide, flat, none[0], flat, none[1])
    parts = [columns(info) for info in infos]
    return FleetInfo(names, **{a: np.stack([part[a] for part in parts]) for a in parts[0]})


def joined(infos: Sequence[FleetInfo], names: tuple[Any, ...], axis: int) -> FleetInfo:
    """Of several parts, in time (0) or series (1)."""
    parts = [columns(info) for info in infos]
    return FleetInfo(names, **{a: np.concatenate([part[a] for part in parts], axis=axis) for a in parts[0]})


def columns(info: FleetInfo) -> dict[str, np.ndarray]:
    """All but the names."""
    return {f.name: getattr(info, f.name) for f in fields(FleetInfo) if f.name != "names"}


def scored(sums: dict[str, np.ndarray], y: np.ndarray, told: Told) -> dict[str, np.ndarray]:
    """Running sums of scores after a row ``y [channel, s]``, NaN missing: those of ``readout.scores``, per series."""
    row, s = told.row, told.taken
    seen = np.where(s & (row.status != Status.IMPOSSIBLE), y, np.nan)
    each = (row.predictive_mean, row.predictive_sd, row.pit, row.crps)
    forecasts = Forecasts(*(np.ravel(a)[None] for a in each))
    after = running(np.ravel(seen)[None], forecasts, sums["scores"].reshape(1, y.size, -1))
    return {
        "scores": after.reshape(*y.shape, -1),
        "log_score": sums["log_score"] + np.where(s, told.log_predictive, 0.0),
        "scored": sums["scored"] + (~np.isnan(seen)).any(axis=0),
    }

