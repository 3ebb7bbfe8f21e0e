"""The multivariate Student-t, location-scale form: z = mean + chol e sqrt(nu / chi²_nu), e standard normal."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int


def squared_distance(
    z: Float[Array, "z n"], mean: Float[Array, " z"], chol: Float[Array, "z z"]
) -> Float[Array, " n"]:
    """Squared Mahalanobis distance from the mean; the small triangle is inverted once, for all n points."""
    standard = solve_triangular(chol, jnp.eye(len(chol), dtype=chol.dtype), lower=True) @ (z - mean[:, None])
    return jnp.sum(standard * standard, axis=0)


def log_density(square: Float[Array, " n"], chol: Float[Array, "z z"], nu: int) -> Float[Array, " n"]:
    """Log density at a squared distance. ``log1p`` is 15 times as dear as ``log``, for digits that do not count."""
    d = len(chol)
    constant = math.lgamma(0.5 * (nu + d)) - math.lgamma(0.5 * nu) - 0.5 * d * math.log(nu * math.pi)
    return constant - jnp.sum(jnp.log(jnp.diag(chol))) - 0.5 * (nu + d) * jnp.log(1 + square / nu)


def standard_draws(
    key: Array, like: Float[Array, "z n"], nu: Int[Array, " n"], most: int
) -> Float[Array, "z n"]:
    """Draws with mean zero and the identity as scale; each point has its own degrees of freedom, ``most`` at most.

    A sum of squares is a chi² of whole degrees of freedom, and compiles in a tenth of the time of a gamma draw.
    """
    normal = jax.random.normal(key, (len(like) + most, like.shape[1]), like.dtype)
    counted = jnp.arange(most)[:, None] < nu[None]
    chi_square = jnp.sum(jnp.where(counted, normal[len(like) :] ** 2, 0.0), axis=0)
    return normal[: len(like)] * jnp.sqrt(nu / chi_square)[None]
