"""Independence proposal: a multivariate Student-t with the population's mean and covariance.

South, Pettitt & Drovandi (2019), doi:10.1214/18-BA1129. Heavier tails than the target keep likelihood ratios bounded.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.core import AbstractProposal
from smcssm.resampling import effective_sample_size, normalise


class Fit(NamedTuple):
    """Location and Cholesky factor of the scale."""

    mean: Float[Array, " z"]
    chol: Float[Array, "z z"]


class StudentT(AbstractProposal):
    """theta' ~ t(mean, covariance, degrees of freedom), whatever theta is."""

    degrees: float = 5.0
    independent: bool = True

    def fit(
        self,
        z: Float[Array, "z n"],
        log_weight: Float[Array, " n"],
        centre: Float[Array, " z"],
        scale: Float[Array, " z"],
    ) -> Fit:
        """Weighted moments."""
        return Fit(*weighted_moments(z, log_weight, scale))

    def propose(self, key: Array, tuning: Fit, z: Float[Array, "z n"]) -> Float[Array, "z n"]:
        """Independent draws."""
        key_normal, key_chi = jax.random.split(key)
        normal = jax.random.normal(key_normal, z.shape, z.dtype)
        chi_square = 2 * jax.random.gamma(key_chi, 0.5 * self.degrees, (1, z.shape[1]), z.dtype)
        return tuning.mean[:, None] + tuning.chol @ normal * jnp.sqrt(self.degrees / chi_square)

    def log_density(self, tuning: Fit, z_new: Float[Array, "z n"], z: Float[Array, "z n"]) -> Float[Array, " n"]:
        """The multivariate t density at z_new; z plays no part."""
        nu, d = self.degrees, z_new.shape[0]
        standard = jax.scipy.linalg.solve_triangular(tuning.chol, z_new - tuning.mean[:, None], lower=True)
        constant = math.lgamma(0.5 * (nu + d)) - math.lgamma(0.5 * nu) - 0.5 * d * math.log(nu * math.pi)
        log_det = jnp.sum(jnp.log(jnp.diag(tuning.chol)))
        return constant - log_det - 0.5 * (nu + d) * jnp.log1p(jnp.sum(standard * standard, axis=0) / nu)


def weighted_moments(
    z: Float[Array, "z n"], log_weight: Float[Array, " n"], scale: Float[Array, " z"]
) -> tuple[Float[Array, " z"], Float[Array, "z z"]]:
    """Mean and Cholesky factor of the covariance; a few effective particles are helped out by the prior's scale."""
    w = normalise(log_weight)
    mean = z @ w
    centred = (z - mean[:, None]) * jnp.sqrt(w)[None]
    few = jnp.minimum(1.0, z.shape[0] / effective_sample_size(log_weight)) ** 2
    floor = 1e-12 + jnp.where(jnp.isfinite(scale), few * scale, few) ** 2
    return mean, jnp.linalg.cholesky(centred @ centred.T + jnp.diag(floor))
