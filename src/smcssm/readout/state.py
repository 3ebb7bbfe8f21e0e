"""The filtered state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr


def state(snapshot: Snapshot) -> xr.Dataset:
    """Mean and sd of x_t given y_1:t, hyperparameters integrated out; dimension ``state``."""
    import xarray as xr

    m, s = snapshot.states()
    mean = snapshot.average(m)
    sd = np.sqrt(snapshot.average(s**2 + (m - mean[:, None, None]) ** 2))
    names = list(snapshot.smc.filter.model.state_names)
    return xr.Dataset({"mean": ("state", mean), "sd": ("state", sd)}, {"state": names}, {"t": snapshot.t})
