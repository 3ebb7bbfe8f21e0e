"""The Gaussian belief in square-root form, and Gaussian draws for whole populations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.linalg import matvec, rows, stack, vector


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


def normal_cdf(z: Array) -> Array:
    """P(N(0, 1) <= z), to all digits in the left tail; a fifth of the work of ``jax.scipy.stats.norm.cdf``."""
    return 0.5 * jax.lax.erfc(-math.sqrt(0.5) * z)


def mixture_moments(w: Array, mean: Array, sd: Array, axis: int | tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and sd of a mixture over axes, its weights adding up to one; components without weight may be anything."""

    def average(a: Array) -> Array:
        return jnp.sum(jnp.where(w > 0, w * a, 0.0), axis=axis, keepdims=True)

    centre = average(mean)
    spread = jnp.sqrt(average(sd**2 + (mean - centre) ** 2))
    return jnp.squeeze(centre, axis), jnp.squeeze(spread, axis)


def affine(
    key: Array, A: Any, x: Float[Array, "k *m s n"], b: Any, root: Any, like: Float[Array, "*m s n"]
) -> Float[Array, "j *m s n"]:
    """A x + b + root e with e ~ N(0, I), of each series by its own key; ``like`` has the shape of one entry."""
    root = rows(root)
    e = normal(key, jnp.broadcast_to(like, (len(root[0]), *like.shape)))
    return stack(matvec(rows(A), list(x)), like) + stack(vector(b), like) + stack(matvec(root, list(e)), like)


def normal(key: Array, like: Float[Array, "*t s n"]) -> Float[Array, "*t s n"]:
    """Standard normal numbers, of each series by its own key."""
    shape = (*like.shape[:-2], like.shape[-1])
    return jnp.moveaxis(jax.vmap(lambda k: jax.random.normal(k, shape, like.dtype))(key), 0, -2)
