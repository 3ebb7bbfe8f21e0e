"""Read-outs of a whole fleet at once: tables with a row, and datasets with an entry, for every series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from smcssm.core import Observation, Status
from smcssm.errors import ModelError
from smcssm.fleets.runtime import FleetRuntime, State
from smcssm.readout import folded
from smcssm.readout import summary as summary_of_one
from smcssm.readout.error import are_known
from smcssm.readout.forecast import predictives, told
from smcssm.readout.scores import COLUMNS as SCORES
from smcssm.readout.scores import line as score_line
from smcssm.readout.summary import COLUMNS, labels, line
from smcssm.resampling import effective_sample_size
from smcssm.smc2.adapt import compiled
from smcssm.smc2.batch import take
from smcssm.smc2.population import SMC2, Population, at_full_exponent
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

AT_ONCE = 1024  # series of a forecast


def of_fleet(runtime: FleetRuntime, places: np.ndarray | None = None) -> Snapshot:
    """The populations of all series, or of some, where a snapshot of an engine has independent runs."""
    state = runtime.state
    population, evidence, t = state.population, state.log_evidence, int(state.taken.max())
    if places is not None:
        with jax.enable_x64(True):
            population, evidence = take(population, places), evidence[places]
    return Snapshot(runtime.smc, population, t, None, None, lambda: None, None, evidence)


def summaries(runtime: FleetRuntime) -> pd.DataFrame:
    """``readout.summary`` of each series; rows are (series, hyperparameter)."""
    import pandas as pd

    names, whole = runtime.state.names, of_fleet(runtime)
    if folded.variables(whole):
        each = [summary_of_one(of_fleet(runtime, np.asarray([i]))) for i in range(len(names))]
        return pd.concat(each, keys=names, names=["series", "hyperparameter"])
    w, groups, prior = whole.weights(), whole.smc.groups, whole.smc.prior
    known, rows = are_known(whole, w), {}
    entries = [
        (label, values[index])
        for name, values in whole.theta().items()
        for label, index in labels(prior, name, values.shape[:-2])
    ]
    for i, name in enumerate(names):
        for label, values in entries:
            *law, mcse = line(values[i : i + 1], w[i : i + 1], groups)
            rows[name, label] = [*law, mcse if known[i] else np.nan]
    table = pd.DataFrame(list(rows.values()), columns=COLUMNS)
    return table.set_index(pd.MultiIndex.from_tuples(rows, names=["series", "hyperparameter"]))


def states(runtime: FleetRuntime) -> xr.Dataset:
    """Filtered mean and sd of the state of each series, hyperparameters integrated out."""
    import xarray as xr

    whole = of_fleet(runtime)
    w, (m, s) = whole.weights(), whole.states()
    mean = _average(w, m)
    sd = np.sqrt(_average(w, s**2 + (m - mean[..., None]) ** 2))
    model: Any = runtime.smc.filter.model
    laws = {"mean": (("state", "series"), mean), "sd": (("state", "series"), sd)}
    coords = {"series": list(runtime.state.names), "state": list(model.state_names)}
    dataset = xr.Dataset({**laws, "t": ("series", runtime.state.taken)}, coords).transpose("series", "state")
    regimes = whole.regimes()
    if regimes is None:
        return dataset
    probability = (("series", "regime"), _average(w, regimes).T)
    return dataset.assign(probability=probability).assign_coords(regime=list(model.regime_names))


def _average(w: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted mean over the particles of each series; a particle of weight zero may be NaN."""
    return np.sum(np.where(w > 0, w * values, 0.0), axis=-1)


def forecasts(runtime: FleetRuntime, future: Observation, levels: Sequence[float]) -> xr.Dataset:
    """``readout.forecast`` of each series, where the predictive of each particle is Gaussian."""
    import xarray as xr

    if not runtime.smc.filter.gaussian:
        kind = type(runtime.smc.filter).__name__
        raise ModelError(f"forecast: those of {kind} are no mixture of Gaussians: take fleet.engine(name).forecast(h)")
    names, h = runtime.state.names, len(future.dt)
    parts = [
        _forecast(runtime, jax.tree.map(lambda leaf, p=places: leaf[..., p], future), places, levels)
        for places in np.array_split(np.arange(len(names)), -(-len(names) // AT_ONCE))
    ]
    mean, sd, quantiles = (np.concatenate(leaves, axis=2) for leaves in zip(*parts, strict=True))
    dims, channels = ("step", "channel", "series"), list(runtime.smc.filter.model.channel_names)
    laws = {"mean": (dims, mean), "sd": (dims, sd), "quantiles": ((*dims, "quantile"), quantiles)}
    coords = {"series": list(names), "step": np.arange(1, h + 1), "channel": channels, "quantile": list(levels)}
    return xr.Dataset(laws, coords).transpose("series", "step", "channel", "quantile")


def _forecast(
    runtime: FleetRuntime, future: Observation, places: np.ndarray, levels: Sequence[float]
) -> tuple[np.ndarray, ...]:
    """Mean, sd ``[h, y, s]`` and quantiles ``[h, y, s, q]``."""
    some, h = of_fleet(runtime, places), len(future.dt)
    with jax.enable_x64(True):
        size = 1 << max(h - 1, 0).bit_length()  # few shapes, so few compilations
        padded = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], size - h, axis=0)]), future)
        m, s = compiled(predictives, some.smc)(some.population, padded)
        w = jnp.asarray(some.weights())
        shape = (h, m.shape[1], len(places))
        m, s = (jnp.where(w > 0, a[:h], 0.0).reshape(h, -1, a.shape[-1]) for a in (m, s))
        w = jnp.tile(w, (shape[1], 1))[None]
        mean, sd, q = told(w, m, s, jnp.asarray(levels))
    return mean.reshape(shape), sd.reshape(shape), q.reshape(*shape, -1)


def score_table(state: State, channels: Sequence[str]) -> pd.DataFrame:
    """``readout.scores`` of each series; rows are (series, channel)."""
    import pandas as pd

    rows = {}
    for i, name in enumerate(state.names):
        total, n = float(state.sums["log_score"][i]), int(state.sums["scored"][i])
        joint = {"n": float(n), "log_score": total / n if n else np.nan}
        of_series = {c: score_line(state.sums["scores"][k, i]) for k, c in enumerate(channels)}
        of_series["joint"] = joint
        if len(channels) == 1:
            of_series[channels[0]]["log_score"] = joint["log_score"]
        rows |= {(name, channel): told for channel, told in of_series.items()}
    table = pd.DataFrame(list(rows.values()), columns=SCORES).astype({"n": int})
    return table.set_index(pd.MultiIndex.from_tuples(rows, names=["series", "channel"]))


def status_table(runtime: FleetRuntime) -> pd.DataFrame:
    """How each series is doing."""
    import pandas as pd

    state = runtime.state
    with jax.enable_x64(True):
        ess = np.asarray(compiled(_ess, runtime.smc)(state.population))
    why = [Status(int(q)).name if q else "" for q in state.quarantine]
    columns = {"t": state.taken, "log_evidence": state.log_evidence, "ess": ess, "quarantine": why}
    return pd.DataFrame(columns, index=pd.Index(state.names, name="series"))


def _ess(smc: SMC2, population: Population) -> jax.Array:
    del smc
    return effective_sample_size(at_full_exponent(population))
