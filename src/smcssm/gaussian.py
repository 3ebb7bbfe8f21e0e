"""The Gaussian belief in square-root form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@no_type_check  # JAX fills it with placeholders
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussian:
    """N(mean, chol chol') for every particle; ``chol`` is lower triangular and may be singular."""

    mean: Float[Array, "x s n"]
    chol: Float[Array, "x x s n"]

    @property
    def sd(self) -> Float[Array, "x s n"]:
        """Marginal standard deviations."""
        return jnp.sqrt(jnp.sum(self.chol**2, axis=1))


def mixture_moments(w: Array, mean: Array, sd: Array, axis: int | tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and sd of a mixture over axes, its weights adding up to one; components without weight may be anything."""

    def average(a: Array) -> Array:
        return jnp.sum(jnp.where(w > 0, w * a, 0.0), axis=axis, keepdims=True)

    centre = average(mean)
    spread = jnp.sqrt(average(sd**2 + (mean - centre) ** 2))
    return jnp.squeeze(centre, axis), jnp.squeeze(spread, axis)
