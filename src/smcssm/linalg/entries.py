"""Matrices as nested lists of scalar entries, each a number or an array over the population.

A number is known when compiling: products with 0.0 vanish and products with 1.0 are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Entry = Any
Rows = list[list[Entry]]


def vector(v: Any) -> list[Entry]:
    """Entries of a vector: numbers become floats, arrays over the population stay arrays."""
    if isinstance(v, jax.Array) and v.ndim == 0:
        raise ValueError("expected a vector, got a scalar array")
    return [_entry(e) for e in v]


def rows(M: Any) -> Rows:
    """Entries of a matrix given as nested sequences, as a NumPy array of constants or as a JAX array [i, j, s, n]."""
    return [vector(row) for row in M]


def _entry(e: Any) -> Entry:
    if isinstance(e, (bool, int, float, np.generic)) or (isinstance(e, np.ndarray) and e.ndim == 0):
        return float(e)
    return e


def is_zero(a: Entry) -> bool:
    """Whether an entry is known to be 0 when compiling."""
    return isinstance(a, float) and a == 0.0


def multiply(a: Entry, b: Entry) -> Entry:
    """A product; by a known 0 or 1 it costs nothing."""
    if is_zero(a) or is_zero(b):
        return 0.0
    if isinstance(a, float) and a == 1.0:
        return b
    if isinstance(b, float) and b == 1.0:
        return a
    return a * b


def _sum(terms: Sequence[Entry]) -> Entry:
    """Sum from left to right without the known zeros."""
    terms = [t for t in terms if not is_zero(t)]
    total: Entry = terms[0] if terms else 0.0
    for t in terms[1:]:
        total = total + t
    return total


def dot(a: Sequence[Entry], b: Sequence[Entry]) -> Entry:
    """a'b, known zeros skipped."""
    return _sum([multiply(x, y) for x, y in zip(a, b, strict=True)])


def matvec(A: Rows, x: Sequence[Entry]) -> list[Entry]:
    """A x."""
    return [dot(row, x) for row in A]


def block_diagonal(blocks: Sequence[Sequence[Sequence[Entry]]]) -> Rows:
    """Nested lists of entries with known zeros between the blocks; blocks need not be square."""
    width, out, start = sum(len(b[0]) for b in blocks), [], 0
    for b in blocks:
        size = len(b[0])
        out += [[0.0] * start + list(row) + [0.0] * (width - start - size) for row in b]
        start += size
    return out


def transpose(A: Rows) -> Rows:
    """A'; of at least one row."""
    return [list(column) for column in zip(*A, strict=True)]


def stack(entries: Any, like: Array) -> Array:
    """Nested lists of entries as one array whose trailing axes and dtype are those of ``like`` ([s, n])."""
    if isinstance(entries, (list, tuple)):
        return jnp.stack([stack(e, like) for e in entries])
    return jnp.broadcast_to(jnp.asarray(entries, like.dtype), like.shape)
