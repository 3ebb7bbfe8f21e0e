"""Averages of a process over a stretch of time: the state and the average over dt, their law given the state before.

    x' = F x + noise,       average = 1/dt int_0^dt f = G x + noise,      dx = A x dt + B dW

The noise of both is int_0^1 V(u) dW, V(u) = sum_k V_k u^k sqrt(dt), V_k = (A dt)^k B / k! for the state and
h (A dt)^(k-1) B / ((k-1)! k) for the average: power series in r = |A| dt. In the orthonormal polynomials on (0, 1)

    u^k = sum_j c_kj sqrt(2j + 1) P_j(2u - 1),      c_kj = sqrt(2j + 1) k!^2 / ((k - j)! (k + j + 1)!) > 0

a square root of the covariance is [sum_k V_k c_kj] sqrt(dt), of which a few columns count: nothing is subtracted that
would cancel. Powers of r that all of a row has are drawn out of the triangularisation, so that nothing underflows.
A stretch of r > 1 is halved until it is not, and put together again,

    over 2 dt:      root of [F U, U],       F <- F F,       G <- (G + G F) / 2
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from smcssm.gp.kernel import Block
from smcssm.linalg.dense import triangularise_dense
from smcssm.linalg.entries import Rows, is_zero, multiply, stack

TERMS = 18  # of the series, at r = 1 to 1 / 18!
MORE = 6  # polynomials beyond one for each row; the next ones would add 1e-14 of what is least certain
HALVINGS = 26  # stretches of r up to 7e7


def averaged(block: Block, dt: Any, h: list[list[Any]]) -> tuple[Rows, Rows]:
    """G with a row for each of ``h``, and a lower-triangular root of the noise of (x, averages), for dt > 0.

    At dt = 0 it is anything, with derivatives. The root has rows without entries where there is no noise. Where r is
    beyond 7e7 it is NaN.
    """
    A, B, n, m = block.drift(), block.diffusion(), len(block.row()), len(h)
    norm = _norm(A)
    scaled = A if norm is None else [[multiply(e, 1 / norm) for e in row] for row in A]
    entries = [e for row in (*B, *h, [0.0 if norm is None else norm]) for e in row]
    own = jnp.zeros(jnp.broadcast_shapes((1,) * jnp.ndim(dt), *map(jnp.shape, entries)), jnp.result_type(float, dt))
    like = jnp.zeros(jnp.broadcast_shapes(own.shape, jnp.shape(dt)), own.dtype)
    if norm is not None:
        dt = jnp.where(dt > 0, dt, 0.5 / norm)  # what comes of a stretch of length 0 does not count
    r = like if norm is None else like + norm * dt
    needed = jax.lax.stop_gradient(jnp.ceil(jnp.log2(jnp.maximum(r, 1.0))))
    part = jnp.ldexp(jnp.ones_like(r), -needed.astype(jnp.int32))
    A_, H, r = stack(scaled, own), stack(h, own), r * part
    G = _mean_rows(A_, H, r)
    U = _root(A_, stack(B, own), H, r, jnp.sqrt(dt * part), _first_powers(A, B, h)) if B[0] else jnp.zeros((n + m, 0))

    def twice(i: Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        F, G, U = so_far
        here = (i < needed)[None, None]
        if B[0]:
            moved = jnp.concatenate([_matmul(F, U[:n]), 0.5 * (U[n:] + _matmul(G, U[:n]))])
            again = jnp.concatenate([U[:n], 0.5 * U[n:]])
            U = jnp.where(here, triangularise_dense(jnp.concatenate([moved, again], axis=1)), U)
        return jnp.where(here, _matmul(F, F), F), jnp.where(here, 0.5 * (G + _matmul(G, F)), G), U

    def joined() -> tuple[Array, Array]:
        eye = jnp.broadcast_to(jnp.eye(n, dtype=own.dtype).reshape(n, n, *[1] * own.ndim), A_.shape)
        F = eye + r[None, None] * _matmul(A_, _mean_rows(A_, eye, r))
        return jax.lax.fori_loop(0, HALVINGS, twice, (F, G, U))[1:]

    G, U = jax.lax.cond(jnp.max(needed) > 0, joined, lambda: (G, U))
    G = jnp.where((needed > HALVINGS)[None, None], jnp.nan, G)
    root = [[]] * (n + m) if not B[0] else [[U[i, j] if j <= i else 0.0 for j in range(n + m)] for i in range(n + m)]
    return [list(row) for row in G], root


def _norm(A: Rows) -> Any:
    """The largest sum of a row, or None if A is known to be zero."""
    sums = [sum(jnp.abs(e) for e in row if not is_zero(e)) for row in A if not all(is_zero(e) for e in row)]
    return None if not sums else jnp.max(jnp.stack(jnp.broadcast_arrays(*sums)), axis=0)


def _mean_rows(A: Array, H: Array, r: Array) -> Array:
    """H sum_k (A r)^k / (k + 1)!: ``[m, x, ...]``."""

    def term(power: Array, k: Array) -> tuple[Array, Array]:
        return _matmul(power, A) * (1 / (k + 2)), power

    return _horner(jax.lax.scan(term, H, _orders(r))[1], r)


def _root(A: Array, B: Array, H: Array, r: Array, size: Array, first: list[int]) -> Array:
    """A lower-triangular root of the noise of (x, averages) over a stretch of r <= 1, ``size`` = sqrt(dt)."""

    def term(at: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], Array]:
        X, seen = at  # V_k without r^k; of an average without r^(k - 1), and nothing for k = 0
        return (_matmul(A, X) * (1 / (k + 1)), _matmul(H, X) * (1 / (k + 1))), jnp.concatenate([X, seen])

    nothing = jnp.zeros((len(H), *B.shape[1:]), B.dtype)
    V = jax.lax.scan(term, (B, nothing), _orders(r))[1]
    V = jnp.stack([jnp.roll(V[:, i], -k, axis=0) for i, k in enumerate(first)], axis=1)
    width = len(first) + MORE
    c = np.array([[_legendre(i + k, width) if i + k < TERMS else [0.0] * width for k in first] for i in range(TERMS)])
    c = jnp.asarray(c, V.dtype).reshape(*c.shape, *[1] * (V.ndim - 2))

    wide = jnp.zeros((len(first), width, B.shape[1], *r.shape), V.dtype)
    for k in reversed(range(TERMS)):
        wide = wide * r[None, None, None] + c[k] * V[k][:, None]
    wide = wide.reshape(len(first), -1, *r.shape)
    powers = [k - (i >= len(A)) for i, k in enumerate(first)]
    return triangularise_dense(wide) * jnp.stack([size * r**k for k in powers])[:, None]


def _orders(r: Array) -> Array:
    return jnp.arange(TERMS, dtype=r.dtype)


def _horner(coefficients: Array, r: Array) -> Array:
    total = jnp.zeros((*coefficients.shape[1:3], *r.shape), r.dtype)
    for c in reversed(coefficients):
        total = total * r[None, None] + c
    return total


def _first_powers(A: Rows, B: Rows, h: list[list[Any]]) -> list[int]:
    """The order of the first term of every row of V that is not known to be zero."""
    nonzero = [np.array([[not is_zero(e) for e in row] for row in M], int) for M in (A, B, h)]
    X, found = nonzero[1], np.full(len(A) + len(h), TERMS - 1)
    for k in range(TERMS):
        rows_ = np.concatenate([X.any(axis=1), (nonzero[2] @ X).any(axis=1)])
        order = np.r_[np.full(len(A), k), np.full(len(h), k + 1)]
        found = np.where(rows_ & (order < found), order, found)
        X = nonzero[0] @ X > 0
    return found.tolist()


def _legendre(k: int, width: int) -> list[float]:
    """c_k0, c_k1, ..."""
    size = math.comb(2 * k, k) * (2 * k + 1)
    known = [math.sqrt(2 * j + 1) * math.comb(2 * k + 1, k - j) / size for j in range(min(k + 1, width))]
    return known + [0.0] * (width - len(known))


def _matmul(A: Array, B: Array) -> Array:
    """Of ``[i, j, ...]`` and ``[j, k, ...]``."""
    return jnp.sum(A[:, :, None] * B[None], axis=1)
