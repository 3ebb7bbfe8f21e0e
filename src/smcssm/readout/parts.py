"""What each component of a sum adds to observations: forecasts of a model that has these as channels, never seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from smcssm.core import Observation
from smcssm.errors import ModelError
from smcssm.filters import Kalman
from smcssm.models.parts import InParts
from smcssm.models.structural import Structural
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr


def in_parts(snapshot: Snapshot, rows: Observation) -> tuple[Snapshot, Observation]:
    """The same population of the model in parts, and rows with its channels, which are missing but for ``y``."""
    inner = snapshot.smc.filter
    if not (isinstance(inner, Kalman) and isinstance(inner.model, Structural)):
        raise ModelError(
            f"forecast(components=True): {type(inner.model).__name__} is not a sum of components, as Level() + AR(2)"
        )
    model, data = InParts(inner.model), snapshot.data
    smc = replace(snapshot.smc, filter=replace(inner, model=model))
    past = None if data is None else lambda: widened(data(), model)
    return snapshot._replace(smc=smc, data=past), widened(rows, model)


def widened(rows: Observation, model: InParts) -> Observation:
    """Rows ``[t, 1, s]`` of observations with the channels of a model in parts."""
    missing = [(0, 0), (0, len(model.channel_names) - 1), (0, 0)]
    return replace(rows, y=np.pad(np.asarray(rows.y), missing), mask=np.pad(np.asarray(rows.mask), missing))


def apart(table: xr.Dataset) -> xr.Dataset:
    """A forecast in parts, those of the components with a dimension and names of their own."""
    names = {name: f"component_{name}" for name in ("mean", "sd", "quantiles")}
    parts = table[list(names)].isel(channel=slice(1, None)).rename({"channel": "component"} | names)
    return table.sel(channel=table["channel"][:1]).merge(parts)
