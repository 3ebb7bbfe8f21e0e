"""What proposals are fitted to: a weighted population, cleaned, and how much it really tells.

After resampling, copies of a particle tell nothing new: what counts is 1 / sum share², over distinct values. Weights
that rest on a few particles are flattened: w^a with the largest a in (0, 1] that leaves enough of them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.resampling import distinct_sample_size, largest_exponent, normalise


class Points(NamedTuple):
    """Weighted points, their moments, and location and scale of the prior.

    ``weight`` adds up to one, ``effective`` is the effective number of distinct values, and ``chol`` a Cholesky factor
    of the covariance, never singular.
    """

    z: Float[Array, "z n"]
    weight: Float[Array, " n"]
    effective: Float[Array, ""]
    mean: Float[Array, " z"]
    chol: Float[Array, "z z"]
    centre: Float[Array, " z"]
    scale: Float[Array, " z"]


def clean(
    z: Float[Array, "z n"], log_weight: Float[Array, " n"], centre: Float[Array, " z"], scale: Float[Array, " z"]
) -> Points:
    """The points of a population; those that are not finite count for nothing."""
    d = len(z)
    usable = jnp.all(jnp.isfinite(z), axis=0) & (log_weight < jnp.inf)
    z = jnp.where(usable[None], z, jnp.where(jnp.isfinite(centre), centre, 0.0)[:, None])
    weight = flattened(jnp.where(usable, log_weight, -jnp.inf), 10.0 * d)
    effective = distinct_sample_size(z[0], weight)
    mean = z @ weight
    centred = z - mean[:, None]
    covariance = centred * weight[None] @ centred.T
    sd = jnp.sqrt(jnp.diag(covariance))
    centre = jnp.where(jnp.isfinite(centre), centre, mean)
    scale = jnp.where(jnp.isfinite(scale) & (scale > 0), scale, jnp.where(sd > 0, 10 * sd, 1.0))
    # The prior helps out where distinct points do not span the space; elsewhere a vague one would drown them.
    few = jnp.clip(1 - (effective - 1) / (d + 1), 0.0, 1.0)
    floor = (few * scale) ** 2 + (1e-5 * sd) ** 2 + 1e-12
    chol = jnp.linalg.cholesky(covariance + jnp.diag(floor))
    return Points(z, weight, effective, mean, chol, centre, scale)


def flattened(log_weight: Float[Array, " n"], goal: float) -> Float[Array, " n"]:
    """Normalised weights with an ESS of at least ``goal``, or half of the particles that have weight at all."""
    alive = (log_weight > -jnp.inf) | ~jnp.any(log_weight > -jnp.inf)
    flat = jnp.where(alive, 0.0, -jnp.inf)
    enough = jnp.minimum(goal, 0.5 * jnp.sum(alive))
    log_weight = jnp.where(alive, jnp.maximum(log_weight, jnp.finfo(log_weight.dtype).min), 0.0)
    return normalise(flat + largest_exponent(flat, log_weight, jnp.ones(()), enough, halvings=15) * log_weight)
