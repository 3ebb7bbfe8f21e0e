"""The filtered state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr


def state(snapshot: Snapshot) -> xr.Dataset:
    """Mean and sd of x_t given y_1:t, hyperparameters integrated out; dimension ``state``.

    Of a model with regimes also their ``probability``; dimension ``regime``.
    """
    import xarray as xr

    m, s = snapshot.states()
    mean = snapshot.average(m)
    sd = np.sqrt(snapshot.average(s**2 + (m - mean[:, None, None]) ** 2))
    model: Any = snapshot.smc.filter.model
    told = xr.Dataset(
        {"mean": ("state", mean), "sd": ("state", sd)}, {"state": list(model.state_names)}, {"t": snapshot.t}
    )
    regimes = snapshot.regimes()
    if regimes is None:
        return told
    return told.assign(probability=("regime", snapshot.average(regimes))).assign_coords(regime=list(model.regime_names))
