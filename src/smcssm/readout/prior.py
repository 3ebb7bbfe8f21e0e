"""Draws from the prior, to set beside the posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcssm.core import at_each_particle
from smcssm.readout.summary import labels, weighted_quantiles
from smcssm.smc2.adapt import compiled
from smcssm.smc2.population import SMC2, prior_draws
from smcssm.snapshot import Snapshot


def prior(snapshot: Snapshot) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every named quantity ``[..., runs, n]`` under the prior, and normalised weights ``[runs, n]``.

    The weights are those of Potentials, and zero where the model has no support. The draws are the ones that the
    population started from: their keys are made from the engine's and use none of its randomness up.
    """
    smc, n = snapshot.smc, snapshot.population.log_weight.shape[-1]
    with jax.enable_x64(True):
        z, log_weight = prior_draws(smc, snapshot.population.key, n)
        theta, inside = jax.device_get(compiled(_theta, smc)(z))
    log_weight = np.where(inside, log_weight, -np.inf)
    w = np.exp(log_weight - log_weight.max(axis=-1, keepdims=True))
    return theta, w / w.sum(axis=-1, keepdims=True)


def prior_quantiles(snapshot: Snapshot, levels: Sequence[float]) -> dict[str, np.ndarray]:
    """Of every hyperparameter of the model, entry by entry."""
    theta, w = prior(snapshot)
    flat = (w / len(w)).ravel()
    return {
        label: weighted_quantiles(theta[name][entry].ravel(), flat, np.asarray(levels))
        for name in snapshot.smc.filter.model.names
        for label, entry in labels(snapshot.smc.prior, name, theta[name].shape[:-2])
    }


def _theta(smc: SMC2, z: Any) -> tuple[dict[str, jnp.ndarray], jnp.ndarray]:
    theta = at_each_particle(smc.prior.constrain)(z)
    return theta, at_each_particle(smc.filter.model.support)(theta)
