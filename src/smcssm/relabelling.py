"""The same model with its regimes called otherwise: which hyperparameters that touches, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int


def permuted(model: Any, theta: Mapping[str, Any], permutation: Int[Array, " k"]) -> dict[str, Array]:
    """Hyperparameters with which regime k is what ``permutation[k]`` was.

    ``theta`` is of one particle; which axes count regimes says ``model.per_regime``.
    """
    out = dict(theta)
    for name, axes in model.per_regime.items():
        value = jnp.asarray(theta[name])
        for axis in range(axes):
            value = jnp.take(value, permutation, axis=axis)
        out[name] = value
    return out


def in_order(model: Any, theta: Mapping[str, Any], key: str) -> dict[str, Array]:
    """Hyperparameters of one particle with regimes in ascending order of one of them: what summaries should be of."""
    return permuted(model, theta, jnp.argsort(jnp.asarray(theta[key])))
