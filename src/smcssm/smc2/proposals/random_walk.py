"""Random-walk proposal scaled to the population (Roberts, Gelman & Gilks 1997: 2.38² / d times the covariance)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.core import AbstractProposal
from smcssm.smc2.proposals.student_t import weighted_moments


class RandomWalk(AbstractProposal):
    """theta' ~ N(theta, factor² / d times the covariance of the population)."""

    factor: float = 2.38
    independent: bool = False

    def fit(
        self, z: Float[Array, "z n"], log_weight: Float[Array, " n"], scale: Float[Array, " z"]
    ) -> Float[Array, "z z"]:
        """Cholesky factor of the step's covariance."""
        _, chol = weighted_moments(z, log_weight, scale)
        return chol * (self.factor / z.shape[0] ** 0.5)

    def propose(self, key: Array, tuning: Float[Array, "z z"], z: Float[Array, "z n"]) -> Float[Array, "z n"]:
        """A Gaussian step from each particle."""
        return z + tuning @ jax.random.normal(key, z.shape, z.dtype)

    def log_ratio(
        self, tuning: Float[Array, "z z"], z: Float[Array, "z n"], z_new: Float[Array, "z n"]
    ) -> Float[Array, " n"]:
        """Symmetric: zero."""
        return jnp.zeros(z.shape[1], z.dtype)
