"""Equally weighted draws from the joint posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm.core import AbstractPrior
from smcssm.readout import folded
from smcssm.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr


def posterior(snapshot: Snapshot, draws: int = 1000, seed: int = 0) -> xr.Dataset:
    """Hyperparameters drawn from the weighted population, one chain per independent run; dims (chain, draw, ...).

    Systematic resampling, shuffled: neighbouring draws are not copies of one particle.
    """
    chosen = resampled(snapshot.weights(), draws, np.random.default_rng(seed))
    return with_folded(snapshot, snapshot.theta(), chosen, folded.posterior, seed)


def with_folded(
    snapshot: Snapshot, theta: dict[str, np.ndarray], chosen: np.ndarray, law: Callable[[Snapshot], Any], seed: int
) -> xr.Dataset:
    """Chosen particles of the hyperparameters, and a draw for each of what the model has folded into its state."""
    draws = as_draws(snapshot.smc.prior, theta, chosen)
    if not folded.variables(snapshot):
        return draws
    return draws.assign(folded.as_draws(snapshot, law(snapshot), chosen, seed)).assign_coords(folded.coords(snapshot))


def as_draws(prior: AbstractPrior, theta: dict[str, np.ndarray], chosen: np.ndarray) -> xr.Dataset:
    """Chosen particles ``[runs, draws]`` of named quantities ``[..., runs, n]``, dims (chain, draw, ...)."""
    import xarray as xr

    draws, out = chosen.shape[1], {}
    for name, values in theta.items():
        picked = np.take_along_axis(values, chosen.reshape((1,) * (values.ndim - 2) + chosen.shape), axis=-1)
        dims = prior.dims.get(name) or tuple(f"{name}_dim_{i}" for i in range(values.ndim - 2))
        out[name] = (("chain", "draw", *dims), np.moveaxis(picked, (-2, -1), (0, 1)))
    used = {d for dims, _ in out.values() for d in dims}
    coords = {d: list(c) for d, c in prior.coords.items() if d in used}
    return xr.Dataset(out, {"chain": np.arange(len(chosen)), "draw": np.arange(draws), **coords})


def some_of(chosen: np.ndarray, first: int, size: int) -> np.ndarray:
    """``size`` of the chosen ``[runs, draws]``, run by run, from number ``first`` on; the last share repeats some."""
    return np.resize(chosen[:, first : first + size].T, (size, len(chosen))).T


def resampled(weights: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Particle numbers ``[runs, draws]``."""
    points = (np.arange(draws) + rng.random((len(weights), 1))) / draws
    cumulative = np.cumsum(weights, axis=-1)
    chosen = [np.searchsorted(c / c[-1], p) for c, p in zip(cumulative, points, strict=True)]
    return rng.permuted(np.stack(chosen), axis=1)
