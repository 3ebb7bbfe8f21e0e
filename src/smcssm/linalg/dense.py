"""Triangularisation of dense arrays in a loop: slower to run than ``panels``, and hardly any time to compile.

Householder reflections from the right (Golub & Van Loan, Matrix Computations, 5.2), one row after the other. For what
is done once per particle, such as initial laws, rather than at each step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def triangularise_dense(A: Float[Array, "x k *shape"]) -> Float[Array, "x x *shape"]:
    """A lower-triangular L with L L' = A A', for k >= x. A may be rank deficient; derivatives are finite there."""
    x, k = A.shape[:2]
    column = jnp.arange(k).reshape((k, *(1 for _ in A.shape[2:])))

    def reflect(i: Array, A: Array) -> Array:
        r = jnp.where(column >= i, A[i], 0.0)
        square = jnp.sum(r * r, axis=0)
        positive = square > 0
        norm = jnp.sqrt(jnp.where(positive, square, 1.0))
        pivot = A[i, i]
        sign = jnp.where(pivot < 0, -1.0, 1.0).astype(A.dtype)
        v = r + jnp.where(column == i, (sign * norm)[None], 0.0)
        scale = jnp.where(positive, 1.0 / (norm * (norm + sign * pivot)), 0.0)
        return A - (jnp.sum(A * v[None], axis=1) * scale[None])[:, None] * v[None]

    A = jax.lax.fori_loop(0, x, reflect, A)[:, :x]
    below = jnp.arange(x)[:, None] >= jnp.arange(x)[None]
    return jnp.where(below.reshape((x, x, *(1 for _ in A.shape[2:]))), A, 0.0)
