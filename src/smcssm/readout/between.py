"""Observations that were never made, between those that were: the exact mixture over particles.

    put rows of missing values at these times among the observations; filter and smooth them all
    at such a row, for each particle:   y ~ N(H m + d, H P H' + chol_R chol_R')   by the smoothed m and P

The mixture of these over particles is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from smcssm.core import Observation
from smcssm.errors import InputError, ModelError
from smcssm.filters import Kalman
from smcssm.gaussian import Gaussian
from smcssm.kalman import whitened
from smcssm.readout.backwards_gaussian import ahead, observed
from smcssm.readout.forecast import forecast, mixture
from smcssm.readout.smooth import Share, all_observations, going_back, in_order, room, share_of
from smcssm.smc2.adapt import compiled
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr


Place = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def between(
    snapshot: Snapshot,
    rows: Observation,
    place: Place,
    inside: int,
    quantiles: Sequence[float],
) -> xr.Dataset:
    """Mean, sd and quantiles of what would be observed, given all that was; dims (step, channel).

    Args:
        snapshot: of an engine with the Kalman filter.
        rows: records of missing values, in the order of times.
        place: says, from the time before each observation, how many observations come before each row that lies among
            them, and the time before each of these rows and observations.
        inside: how many rows these are; the others come after the last observation.
        quantiles: levels.
    """
    import xarray as xr

    check(snapshot)
    data, w = all_observations(snapshot), snapshot.weights()
    after, dt = place(data.dt[:, 0])
    there, size = after + np.arange(inside), min(room(snapshot), w.shape[-1])
    together = merged(data, jax.tree.map(lambda leaf: leaf[:inside], rows), after, dt)
    with jax.enable_x64(True):
        shares = (np.resize(n, size) for n in np.split(np.arange(w.shape[-1]), range(size, w.shape[-1], size)))
        found = [_predictives(share_of(snapshot, together, np.broadcast_to(n, (len(w), size))), there) for n in shares]
        m, s = (np.concatenate(parts, axis=-1)[..., : w.shape[-1]] for parts in zip(*found, strict=True))
        table = mixture(snapshot, m, s, np.asarray(quantiles, float))
    if inside == len(rows.dt):
        return table
    beyond = forecast(snapshot, jax.tree.map(lambda leaf: leaf[inside:], rows), quantiles)
    return xr.concat([table, beyond.assign_coords(step=beyond["step"] + inside)], "step")


def check(snapshot: Snapshot) -> None:
    """Raise a ``ModelError`` where nothing can be said of the time between observations."""
    inner, model = snapshot.smc.filter, snapshot.smc.filter.model
    if not isinstance(inner, Kalman):
        raise ModelError(
            f"times before the last observation need the Kalman filter, this engine has {type(inner).__name__}: "
            "engine.smooth() has the state at each observation, missing ones too"
        )
    if "t" in getattr(model, "reads", ()):
        raise ModelError("times before the last observation: this model reads step.t, which counts observations")


def merged(data: Observation, rows: Observation, after: np.ndarray, dt: np.ndarray) -> Observation:
    """Observations and rows in the order of times."""

    def merge(a: Any, b: Any) -> np.ndarray:
        return np.insert(np.asarray(a), after, np.asarray(b), axis=0)

    merged = jax.tree.map(merge, data, rows)
    if merged.exposure is not None:
        _check_apart(merged.exposure.max(axis=(1, 2)), dt, after + np.arange(len(after)))
    return Observation(**{**vars(merged), "dt": np.repeat(dt[:, None], data.dt.shape[1], axis=1).astype(data.dt.dtype)})


def _check_apart(exposure: np.ndarray, dt: np.ndarray, there: np.ndarray) -> None:
    """Raise an ``InputError`` where a row's exposure begins before the row before it, or contains one of ``there``.

    Times are sums of the time between rows: an overlap of a hundred-thousandth is none.
    """
    over = exposure > dt + 1e-5 * exposure
    for j, place in enumerate(there):
        if over[place]:
            raise InputError(
                f"times: row {j} is an average over the last {exposure[place]:g}, but what comes before it was "
                f"{dt[place]:g} earlier. Exposures of an engine must not overlap; ss.gp.condition takes any"
            )
        if over[place + 1 : place + 2].any():
            raise InputError(
                f"times: row {j} lies within the exposure of an observation. In an engine nothing may come between; "
                "ss.gp.condition takes any times"
            )


def _predictives(share: Share, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of every channel ``[k, y, s, n]`` at the rows asked for."""

    def step(first: int, kept: Any, law: Gaussian) -> tuple[Gaussian, tuple]:
        rows, _ = share.chunk(first, share.smc.chunk)
        law, told = compiled(observed, share.smc)(share.params, kept, rows, law)
        here = there[(there >= first) & (there < first + share.smc.chunk)] - first
        return law, jax.tree.map(lambda leaf: np.asarray(leaf)[here], told)

    return in_order(going_back(share, ahead, whitened.end, step), len(there))
