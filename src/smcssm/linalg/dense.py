"""Triangularisation of dense arrays in a loop: slower to run than ``panels``, and hardly any time to compile.

Column after column of the result is made with one Householder reflection, across the columns that are to be worked in
(Golub & Van Loan, Matrix Computations, 5.1 and 6.5.3). For what is done once per particle, such as initial laws, or
once per block of rows, rather than at each step.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcssm.linalg.entrywise import at_entry, scan_entries
from smcssm.linalg.panels import reflect


def triangularise_dense(A: Float[Array, "x k *shape"]) -> Float[Array, "x x *shape"]:
    """A lower-triangular L with L L' = A A'. A may be rank deficient; derivatives are finite there."""
    return extended(jnp.zeros((len(A), *A[:, 0].shape), A.dtype), A)


def extended(L: Float[Array, "r x *shape"], X: Float[Array, "r k *shape"]) -> Float[Array, "r x *shape"]:
    """The first x columns of a lower-triangular M with M M' = L L' + X X', those of L being lower triangular."""

    def next_column(X: Array, at: tuple[Any, Array]) -> tuple[Array, Array]:
        i, column = at
        pivot, row = at_entry(column, i), at_entry(X, i)
        _, column, (X,) = reflect(pivot, column, [row], [X])
        return X, column

    _, columns = scan_entries(next_column, X, (np.arange(L.shape[1]), jnp.moveaxis(L, 1, 0)))
    M = jnp.moveaxis(columns, 0, 1)
    below = jnp.arange(M.shape[0])[:, None] >= jnp.arange(M.shape[1])[None]
    return jnp.where(below.reshape((*below.shape, *(1 for _ in M.shape[2:]))), M, 0.0)
