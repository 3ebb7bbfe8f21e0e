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
