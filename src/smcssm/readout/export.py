"""Out to the ecosystem: the record as an xarray dataset, everything as a DataTree in ArviZ's conventions."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from smcssm.errors import ModelError
from smcssm.readout import folded
from smcssm.readout.pointwise import is_small, pointwise
from smcssm.readout.posterior import resampled, with_folded
from smcssm.readout.prior import prior
from smcssm.readout.state import state
from smcssm.readout.summary import labels
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, Population, log_prior
from smcssm.smc2.report import RECORDED_QUANTILES
from smcssm.snapshot import Snapshot
from smcssm.timeline import moments

if TYPE_CHECKING:
    import xarray as xr

_BY_CHANNEL = ("y", "predictive_mean", "predictive_sd", "pit")
_BY_TIME = ("log_predictive", "ess", "least_ess", "moved", "acceptance", "status")


def record(snapshot: Snapshot) -> xr.Dataset:
    """The last steps: dims time (counted from 1), channel, hyperparameter and quantile.

    ``when`` is the time stamp of observations that had one, dates in UTC. ``y`` and the one-step predictive's
    ``predictive_mean``, ``predictive_sd`` and ``pit`` by channel; ``least_ess`` is
    that of the worst run, ``ess`` the sum over runs; ``quantiles`` are those of the hyperparameters after each step.

    Raises:
        ModelError: if the engine was built with ``record=None``.
    """
    import xarray as xr

    if snapshot.record is None:
        raise ModelError("this engine keeps no record: build it with record=10_000, or as many steps as you need")
    channels, names = list(snapshot.smc.filter.model.channel_names), _hyperparameters(snapshot.smc)
    columns = snapshot.record or _nothing(len(channels), len(names))
    data: dict[str, Any] = {
        name: (("time", "channel"), columns[name].reshape(-1, len(channels))) for name in _BY_CHANNEL
    }
    data |= {name: ("time", columns[name]) for name in _BY_TIME}
    data["quantiles"] = (("time", "hyperparameter", "quantile"), columns["quantiles"])
    coords = {"channel": channels, "hyperparameter": names, "quantile": list(RECORDED_QUANTILES)}
    when = {"when": ("time", moments(columns["when"]))} if "when" in columns else {}
    return xr.Dataset(data, {"time": columns["t"], **when, **coords})


def _hyperparameters(smc: SMC2) -> list[str]:
    """Labels of the model's hyperparameters, entry by entry."""
    shapes = dict(zip(smc.prior.names, smc.prior.shapes, strict=True))
    return [label for name in smc.filter.model.names for label, _ in labels(smc.prior, name, shapes[name])]


def _nothing(n_channels: int, n_hyperparameters: int) -> dict[str, np.ndarray]:
    """The columns of a record without rows."""
    kinds = {"t": int, "status": int, "moved": bool}
    columns = {name: np.zeros(0, kinds.get(name, float)) for name in ("t", *_BY_TIME)}
    columns |= {name: np.zeros((0, n_channels)) for name in _BY_CHANNEL}
    return columns | {"quantiles": np.zeros((0, n_hyperparameters, len(RECORDED_QUANTILES)))}


def to_arviz(snapshot: Snapshot, draws: int, seed: int = 0, predictive: bool | None = None) -> xr.DataTree:
    """The engine's moment as a DataTree: one chain per run, equally weighted draws in random order.

    Groups: ``posterior``, ``sample_stats``, ``prior``, ``filtered_state``; ``observed_data`` and ``constant_data`` over
    the whole history, ``log_likelihood`` and ``posterior_predictive`` likewise, if small or asked for;
    ``one_step_predictive`` and ``record`` over the steps that are on record. ESS and MCSE of ArviZ count draws, not
    particles: those of the population are ``sample_stats.ess`` and the ``mcse`` of ``summary``.

    Raises:
        ModelError: ``predictive=True`` of an engine that keeps no history.
    """
    import xarray as xr

    if predictive and snapshot.data is None:
        raise ModelError(
            "to_arviz(predictive=True): there are no observations to predict again; "
            + ("none has come yet" if snapshot.t == 0 else f"{snapshot.smc.schedule!r} keeps none without a journal=")
        )

    chosen = resampled(snapshot.weights(), draws, np.random.default_rng(seed))
    before, weight = prior(snapshot)
    first = resampled(weight, draws, np.random.default_rng(seed))
    groups = {
        "posterior": with_folded(snapshot, snapshot.theta(), chosen, folded.posterior, seed),
        "sample_stats": _sample_stats(snapshot, chosen),
        "prior": with_folded(snapshot, before, first, folded.prior, seed),
        "filtered_state": state(snapshot),
        **_history(snapshot),
        **_steps(snapshot),
    }
    if is_small(snapshot, draws) if predictive is None else predictive:
        groups |= pointwise(snapshot, chosen, seed)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = _attributes(snapshot)
    for group in tree.children.values():
        group.attrs |= {key: tree.attrs[key] for key in ("inference_library", "inference_library_version")}
    return tree


def _sample_stats(snapshot: Snapshot, chosen: np.ndarray) -> xr.Dataset:
    """Of each draw: which particle it is, its weight, log-likelihood and log posterior; of each chain: the ESS."""
    import xarray as xr

    w = snapshot.weights()
    with jax.enable_x64(True):
        log_p = np.asarray(compiled(_log_prior, snapshot.smc)(snapshot.population))
    log_lik = np.asarray(snapshot.population.log_lik) + np.asarray(snapshot.population.pending)

    def drawn(values: np.ndarray) -> tuple[tuple[str, str], np.ndarray]:
        return ("chain", "draw"), np.take_along_axis(values, chosen, axis=-1)

    with np.errstate(divide="ignore"):
        log_weight = np.log(w)
    values: dict[str, Any] = {
        "lp": drawn(log_p + log_lik),
        "log_likelihood": drawn(log_lik),
        "log_weight": drawn(log_weight),
        "particle": (("chain", "draw"), chosen),
        "ess": ("chain", 1 / np.sum(w**2, axis=-1)),
        "log_evidence": ("chain", snapshot.log_evidence()),
    }
    return xr.Dataset(values, {"chain": np.arange(len(w)), "draw": np.arange(chosen.shape[1])})


def _log_prior(smc: SMC2, population: Population) -> jnp.ndarray:
    return log_prior(smc, population.z)


def _history(snapshot: Snapshot) -> dict[str, xr.Dataset]:
    """Every observation, and what was known with it: time since the one before, inputs, noise and exposure.

    Where history is not kept, the observations that are on record.
    """
    import xarray as xr

    if snapshot.data is None:
        return {"observed_data": record(snapshot)[["y"]]} if snapshot.record else {}
    data, model = snapshot.data(), snapshot.smc.filter.model
    channels: dict[str, Any] = {"time": data.index[:, 0] + 1, "channel": list(model.channel_names)}
    by_channel = ("time", "channel")
    y = np.where(data.mask[..., 0], data.y[..., 0], np.nan)
    given: dict[str, Any] = {"dt": ("time", data.dt[:, 0])}
    stamps = snapshot.when()
    coords: dict[str, Any] = {"time": channels["time"]}
    if stamps is not None:
        coords["when"] = channels["when"] = ("time", stamps[data.index[:, 0]])
    if data.inputs is not None:
        given["inputs"] = (("time", "input"), data.inputs[..., 0])
        coords["input"] = list(model.input_names)
    for name, values in (("noise_sd", data.noise_sd), ("exposure", data.exposure)):
        if values is not None:
            given[name] = (by_channel, values[..., 0])
            coords["channel"] = channels["channel"]
    return {"observed_data": xr.Dataset({"y": (by_channel, y)}, channels), "constant_data": xr.Dataset(given, coords)}


def _steps(snapshot: Snapshot) -> dict[str, xr.Dataset]:
    """The record: what was forecast one step ahead, and the rest."""
    if not snapshot.record:
        return {}
    steps = record(snapshot)
    ahead = steps[["predictive_mean", "predictive_sd", "pit"]]
    names = {"predictive_mean": "mean", "predictive_sd": "sd"}
    return {"one_step_predictive": ahead.rename(names), "record": steps[[*_BY_TIME, "quantiles"]]}


def _attributes(snapshot: Snapshot) -> dict[str, Any]:
    """What the whole tree is of; plain numbers, texts and lists, so that every file format takes them."""
    runs, n = snapshot.population.log_weight.shape
    evidence = snapshot.log_evidence()
    return {
        "inference_library": "smcssm",
        "inference_library_version": metadata.version("smcssm"),
        "model": type(snapshot.smc.filter.model).__name__,
        "schedule": str(snapshot.smc.schedule),
        "n_particles": n,
        "runs": runs,
        "t": snapshot.t,
        "log_evidence": float(np.logaddexp.reduce(evidence) - np.log(runs)),
        "log_evidence_per_run": evidence.tolist(),
        "sample_dims": ["chain", "draw"],
    }
