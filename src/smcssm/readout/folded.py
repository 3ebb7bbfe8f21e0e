"""Variables that a model has folded into its state: Gaussian given each particle, a mixture over the population.

They are the first states, so that mean and triangular root of their law are the leading parts of the belief's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from smcssm.readout.error import of_mean
from smcssm.snapshot import Snapshot

_HALVINGS = 60  # of the interval that a quantile is looked for in


class Mixture(NamedTuple):
    """Mean ``[k, runs, n]`` and root ``[k, k, runs, n]`` of each particle's Gaussian."""

    mean: np.ndarray
    chol: np.ndarray


def variables(snapshot: Snapshot) -> tuple[Any, ...]:
    """Their names, shapes, dims and coords, in the order of the states; most models have none."""
    return getattr(snapshot.smc.filter.model, "folded", ())


def posterior(snapshot: Snapshot) -> Mixture:
    """Given all observations, at each particle."""
    k = sum(math.prod(f.shape) for f in variables(snapshot))
    with jax.enable_x64(True):
        belief = snapshot.population.belief
        return Mixture(np.asarray(belief.mean[:k]), np.asarray(belief.chol[:k, :k]))


def prior(snapshot: Snapshot) -> Mixture:
    """Given nothing."""
    model: Any = snapshot.smc.filter.model
    mean, chol = map(np.asarray, model.laws)
    like = snapshot.population.log_weight.shape
    return Mixture(
        np.broadcast_to(mean[:, None, None], (len(mean), *like)),
        np.broadcast_to(chol[..., None, None], (*chol.shape, *like)),
    )


def as_draws(snapshot: Snapshot, mixture: Mixture, chosen: np.ndarray, seed: int) -> dict[str, Any]:
    """One draw from the Gaussian of each chosen particle ``[runs, draws]``: (dims, values), and their coords."""
    rng = np.random.default_rng([seed, 1])
    runs = np.arange(len(chosen))[:, None]
    mean, chol = mixture.mean[:, runs, chosen], mixture.chol[:, :, runs, chosen]
    values = mean + np.einsum("ij...,j...->i...", chol, rng.standard_normal(mean.shape))
    out, start = {}, 0
    for f in variables(snapshot):
        part = values[start : start + math.prod(f.shape)].reshape(*f.shape, *chosen.shape)
        out[f.name] = (("chain", "draw", *f.dims), np.moveaxis(part, (-2, -1), (0, 1)))
        start += math.prod(f.shape)
    return out


def coords(snapshot: Snapshot) -> dict[str, list[Any]]:
    """Of all their dims."""
    return {d: list(c) for f in variables(snapshot) for d, c in zip(f.dims, f.coords, strict=True)}


def rows(snapshot: Snapshot, levels: np.ndarray) -> Iterator[tuple[str, list[float]]]:
    """Label, and mean, sd, quantiles and Monte Carlo error of the mean, element by element."""
    if not variables(snapshot):
        return
    model, w, mixture = snapshot.smc.filter.model, snapshot.weights(), posterior(snapshot)
    sds = np.sqrt(np.sum(mixture.chol**2, axis=1))
    for label, mean, sd in zip(model.state_names, mixture.mean, sds, strict=False):
        m, s = (np.where(w > 0, values, 0.0) for values in (mean, sd))
        p = w / len(w)
        centre = np.sum(p * m)
        total = np.sqrt(np.sum(p * (s**2 + (m - centre) ** 2)))
        quantiles = [_quantile(m[w > 0], s[w > 0], p[w > 0], level) for level in levels]
        yield label, [centre, total, *quantiles, of_mean(m, w, snapshot.smc.groups)]


def _quantile(m: np.ndarray, s: np.ndarray, p: np.ndarray, level: float) -> float:
    """Of a mixture of N(m, s²), by bisection; s = 0 is a point."""
    from scipy.special import ndtr

    low, high = np.min(m - 10 * s), np.max(m + 10 * s)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        below = np.where(s > 0, ndtr((middle - m) / np.where(s > 0, s, 1.0)), middle >= m)
        low, high = (middle, high) if np.sum(p * below) < level * np.sum(p) else (low, middle)
    return float(high)
