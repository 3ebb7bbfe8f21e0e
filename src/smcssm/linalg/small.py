"""Factors of many small matrices at once, written out in their entries.

Under ``vmap`` LAPACK is called for each matrix by itself, which takes microseconds for nanoseconds of arithmetic.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST = 6  # beyond it the entries are too many to be written out


def cholesky(A: Float[Array, "z z"]) -> Float[Array, "z z"]:
    """The lower-triangular L with L L' = A; NaN where A is not positive definite."""
    d = len(A)
    if d > LARGEST:
        return jnp.linalg.cholesky(A)
    L = [[jnp.zeros((), A.dtype)] * d for _ in range(d)]
    for j in range(d):
        L[j][j] = jnp.sqrt(A[j, j] - sum((L[j][k] ** 2 for k in range(j)), jnp.zeros((), A.dtype)))
        for i in range(j + 1, d):
            L[i][j] = (A[i, j] - sum((L[i][k] * L[j][k] for k in range(j)), jnp.zeros((), A.dtype))) / L[j][j]
    return jnp.stack([jnp.stack(row) for row in L])


def inverse_of_triangle(L: Float[Array, "z z"]) -> Float[Array, "z z"]:
    """The inverse of a lower-triangular matrix, column by column."""
    d = len(L)
    if d > LARGEST:
        return jax.scipy.linalg.solve_triangular(L, jnp.eye(d, dtype=L.dtype), lower=True)
    X = [[jnp.zeros((), L.dtype)] * d for _ in range(d)]
    for j in range(d):
        X[j][j] = 1 / L[j, j]
        for i in range(j + 1, d):
            X[i][j] = -sum((L[i, k] * X[k][j] for k in range(j, i)), jnp.zeros((), L.dtype)) / L[i, i]
    return jnp.stack([jnp.stack(row) for row in X])
