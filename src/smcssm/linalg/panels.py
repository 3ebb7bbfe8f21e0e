"""Triangularisation that knows where a matrix is zero: columns of one pattern of zeros together, as one array.

A ``Panel`` holds columns that may be nonzero in the same rows. Rows are eliminated from the top:

    for each row i: of the panels that start in row i, sparsest first, the first column is the pivot;
    combine it with one pattern of zeros after the other:
        one column      a Givens rotation, as in Carlson's triangular update (1973, doi:10.2514/3.6907)
        several         a Householder reflection (Golub & Van Loan, Matrix Computations, 5.1), norm + |pivot| in the
                        denominator: smooth wherever the row is not zero

Going from sparse to full keeps the zeros that order can keep: a dense nx x nx block beside a triangular one costs
nx^3 / 2 multiplications and additions twice, a scalar observation nx^2, a shift register nx^2.

Every intermediate is fenced: XLA would otherwise recompute cheap producers in each of their consumers, which made
this 2 (nx = 2) to 20 (nx = 6) times slower. For the same reason sums over columns are written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.linalg.entries import Rows, is_zero, stack


class Panel(NamedTuple):
    """Columns that may be nonzero in ``rows`` (ascending, known when compiling), where their entries are ``values``."""

    rows: tuple[int, ...]
    values: Float[Array, "r w *m s n"]


class Column(NamedTuple):
    """A column that starts with ``head`` in its first row."""

    rows: tuple[int, ...]
    head: Float[Array, "*m s n"]
    tail: Float[Array, "r *m s n"]


def fence[T](values: T) -> T:
    """Have these computed once on a CPU. A GPU has the arithmetic to spare, and wants one kernel."""
    return jax.lax.optimization_barrier(values) if jax.default_backend() == "cpu" else values


def panels(M: Rows, like: Array, first: int = 0) -> list[Panel]:
    """The columns of a matrix of entries that starts in row ``first``, neighbours of one pattern together."""
    patterns = [tuple(i for i, e in enumerate(column) if not is_zero(e)) for column in zip(*M, strict=True)]
    out = []
    for rows, group in groupby(range(len(patterns)), key=lambda j: patterns[j]):
        columns = list(group)
        if rows:
            values = fence(stack([[M[i][j] for j in columns] for i in rows], like))
            out.append(Panel(tuple(first + i for i in rows), values))
    return out


def spread(values: Array, rows: Sequence[int], target: Sequence[int]) -> Array:
    """Values of ``rows`` among the rows ``target``, zero elsewhere."""
    if tuple(rows) == tuple(target):
        return values
    pieces, start = [], 0
    for present, group in groupby(target, key=lambda row: row in rows):
        size = len(list(group))
        pieces.append(values[start : start + size] if present else jnp.zeros((size, *values.shape[1:]), values.dtype))
        start += size if present else 0
    return jnp.concatenate(pieces)


def triangular_columns(A: Sequence[Panel], n: int, like: Array) -> list[Column]:
    """The n columns of a lower-triangular L with L L' = A A'. A may be rank deficient.

    Diagonal entries are >= 0 wherever anything had to be eliminated.
    """
    left, done = list(A), []
    zeros = jnp.zeros((1, 1, *like.shape), like.dtype)
    for i in range(n):
        active = sorted((p for p in left if p.rows[0] == i), key=lambda p: (len(p.rows), p.rows))
        left = [p for p in left if p.rows[0] != i]
        column, rest = _eliminate(active or [Panel((i,), zeros)])
        done.append(column)
        left += rest
    return done


def triangularise(A: Rows) -> Rows:
    """The lower-triangular L with L L' = A A', entries in and entries out."""
    entries, n = [e for row in A for e in row], len(A)
    like = jnp.zeros(jnp.broadcast_shapes(*(jnp.shape(e) for e in entries)), jnp.result_type(float, *entries))
    L: Rows = [[0.0] * n for _ in A]
    for j, column in enumerate(triangular_columns(panels(A, like), n, like)):
        for i, e in zip(column.rows, [column.head, *column.tail], strict=True):
            L[i][j] = e
    return L


def _eliminate(active: list[Panel]) -> tuple[Column, list[Panel]]:
    """Combine columns that start in the same row so that one of them keeps that row and the others lose it."""
    (rows, values), *active = active
    pivot = Column(rows, values[0, 0], values[1:, 0])
    if values.shape[1] > 1:
        active = [Panel(rows, values[:, 1:]), *active]
    rest: list[Panel] = []
    for pattern, group in groupby(active, key=lambda p: p.rows):
        below = tuple(sorted({*pivot.rows[1:], *pattern[1:]}))
        heads, tails = [], []
        for p in group:
            heads.append(p.values[0])
            tails.append(spread(p.values[1:], pattern[1:], below))
        transform = _rotate if sum(len(v) for v in heads) == 1 else reflect
        head, tail, tails = transform(pivot.head, spread(pivot.tail, pivot.rows[1:], below), heads, tails)
        pivot = Column((rows[0], *below), head, tail)
        rest += [Panel(below, t) for t in tails if below]
    return pivot, rest


def _rotate(a: Array, q: Array, heads: list[Array], tails: list[Array]) -> tuple[Array, Array, list[Array]]:
    """(a, r) -> (norm, 0) for one column r; where both are 0 nothing changes."""
    r, x = heads[0][0], tails[0][:, 0]
    norm, safe, positive = _norm([a, r])
    c, s = fence((jnp.where(positive, a / safe, 1.0), r / safe))
    q, x = fence((c[None] * q + s[None] * x, c[None] * x - s[None] * q))
    return norm, q, [x[:, None]]


def reflect(a: Array, q: Array, heads: list[Array], tails: list[Array]) -> tuple[Array, Array, list[Array]]:
    """(a, r) -> (norm, 0) for many columns r; where all are 0 nothing changes.

    With g = q a + X r, the reflection followed by a change of sign of the pivot is, for pivot column q and others X,
    q <- g / norm and X <- X - (g / norm + sign(a) q) r' / (norm + |a|).
    """
    norm, safe, positive = _norm([a, *(r for v in heads for r in v)])
    sign = jnp.where(a < 0, -1.0, 1.0).astype(a.dtype)
    scale = fence(jnp.where(positive, 1.0 / (safe + sign * a), 0.0))
    g = a[None] * q
    for v, X in zip(heads, tails, strict=True):
        for j in range(len(v)):
            g = g + v[j][None] * X[:, j]
    out = fence(jnp.where(positive[None], g / safe[None], q))
    d = fence((out + sign[None] * q) * scale[None])
    return norm, out, [fence(X - d[:, None] * v[None]) for v, X in zip(heads, tails, strict=True)]


def _norm(entries: list[Array]) -> tuple[Array, Array, Array]:
    """The norm, with a derivative (that of the first entry) where it is 0; the norm or else 1; whether it is > 0.

    A NaN is none of the entries that are 0: as such it would leave a factor without it, and a wrong likelihood.
    """
    square = entries[0] * entries[0]
    for e in entries[1:]:
        square = square + e * e
    positive = square != 0
    safe = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 1.0)
    return fence((jnp.where(positive, safe, entries[0]), safe, positive))
