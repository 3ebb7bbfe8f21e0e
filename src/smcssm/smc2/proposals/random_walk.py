"""Random-walk proposal scaled to the population (Roberts, Gelman & Gilks 1997: 2.38² / d times the covariance)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.core import AbstractProposal
from smcssm.smc2.proposals.mixture import within_modes
from smcssm.smc2.proposals.points import clean


class RandomWalk(AbstractProposal):
    """theta' ~ N(theta, factor² / d times the covariance of the population)."""

    factor: float = 2.38
    independent: bool = False

    def fit(
        self,
        z: Float[Array, "z n"],
        log_weight: Float[Array, " n"],
        centre: Float[Array, " z"],
        scale: Float[Array, " z"],
    ) -> Float[Array, "z z"]:
        """Cholesky factor of the step's covariance."""
        return self._chol(z, log_weight, centre, scale) * (self.factor / z.shape[0] ** 0.5)

    @staticmethod
    def _chol(*points: Array) -> Array:
        return clean(*points).chol

    def propose(self, key: Array, tuning: Float[Array, "z z"], z: Float[Array, "z n"]) -> Float[Array, "z n"]:
        """A Gaussian step from each particle."""
        return z + tuning @ jax.random.normal(key, z.shape, z.dtype)

    def log_density(
        self, tuning: Float[Array, "z z"], z_new: Float[Array, "z n"], z: Float[Array, "z n"]
    ) -> Float[Array, " n"]:
        """The Gaussian density of the step."""
        standard = jax.scipy.linalg.solve_triangular(tuning, z_new - z, lower=True)
        log_det = jnp.sum(jnp.log(jnp.diag(tuning)))
        return -0.5 * jnp.sum(standard * standard, axis=0) - log_det - 0.5 * len(z) * math.log(2 * math.pi)


class RandomWalkWithinModes(RandomWalk):
    """The same with the covariance within a mode, where there are two: their distance would be too long a step."""

    @staticmethod
    def _chol(*points: Array) -> Array:
        return within_modes(*points)
