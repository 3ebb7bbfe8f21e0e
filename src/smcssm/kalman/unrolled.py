"""The square-root Kalman step written out in scalars, for small systems (Kailath, Sayed & Hassibi 2000, chapter 12).

    predict    [F L | chol_Q]             ->  [L_p | 0]
    update     [chol_R  H L_p]                [S_c   0 ]
               [  0       L_p]            ->  [ K    L ]      w = S_c^-1 (y - H m - d),  m <- m + K w

Everything here is nested lists of entries (see ``linalg.entries``): nothing is stacked between the two steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from smcssm.linalg.entries import Entry, Rows, dot, is_zero, matvec, product, triangularise


class Moments(NamedTuple):
    """Entries of an innovation: log-likelihood, predictive mean and sd of each channel, and whether S is invertible."""

    log_lik: Entry
    mean: list[Entry]
    sd: list[Entry]
    positive: Entry


def predict(m: list[Entry], L: Rows, F: Rows, c: list[Entry], chol_Q: Rows, stays: Array) -> tuple[list[Entry], Rows]:
    """Mean and Cholesky factor after one transition; where ``stays`` (dt = 0) the transition is the identity."""
    mean = [a if is_zero(b) else a + b for a, b in zip(matvec(F, m), c, strict=True)]
    chol = triangularise([fl + q for fl, q in zip(product(F, L), chol_Q, strict=True)])
    mean = [jnp.where(stays, old, new) for old, new in zip(m, mean, strict=True)]
    chol = [
        [0.0 if is_zero(old) and is_zero(new) else jnp.where(stays, old, new) for old, new in zip(a, b, strict=True)]
        for a, b in zip(L, chol, strict=True)
    ]
    return mean, chol


def update(
    m: list[Entry], L: Rows, H: Rows, d: list[Entry], chol_R: Rows, y: Array, mask: Array
) -> tuple[list[Entry], Rows, Moments]:
    """Condition on the channels of y whose mask is True; y and mask are ``[y, s, 1]``."""
    ny, nx = len(H), len(m)
    HL = product(H, L)
    mean = [a if is_zero(b) else a + b for a, b in zip(matvec(H, m), d, strict=True)]
    noise = [dot(r, r) for r in chol_R]
    sd = [jnp.sqrt(jnp.asarray(dot(h, h) + r)) for h, r in zip(HL, noise, strict=True)]
    array = _masked(HL, chol_R, mask) + [[0.0] * (2 * ny) + list(row) for row in L]
    S = triangularise(_drop_zero_columns(array, ny))
    w, log_det, positive = [], 0.0, True
    for i in range(ny):
        s = jnp.abs(jnp.asarray(S[i][i]))
        tolerance = 16 * jnp.finfo(s.dtype).eps
        positive = positive & ((s > tolerance * sd[i]) | ~mask[i])
        s = jnp.where(s > 0, s, 1.0)
        residual = jnp.where(mask[i], y[i] - mean[i], 0.0)
        w.append((residual - dot(S[i][:i], w)) / jnp.where(jnp.asarray(S[i][i]) < 0, -s, s))
        log_det = log_det + jnp.log(s)
    present = jnp.sum(mask, axis=0)
    log_lik = -0.5 * (dot(w, w) + present * math.log(2 * math.pi)) - log_det
    m = [a + dot(S[ny + i][:ny], w) for i, a in enumerate(m)]
    L = [S[ny + i][ny : ny + nx] for i in range(nx)]
    return m, L, Moments(jnp.where(positive, log_lik, -jnp.inf), mean, sd, positive)


def _masked(HL: Rows, chol_R: Rows, mask: Array) -> Rows:
    """[unit noise of missing channels | chol_R | H L], rows of missing channels made an independent N(0, 1)."""
    ny = len(HL)
    correlated = any(not is_zero(chol_R[i][j]) for i in range(ny) for j in range(ny) if i != j)
    out = []
    for i in range(ny):
        seen = mask[i]
        unit = [0.0] * ny
        noise = [0.0 if is_zero(r) else jnp.where(seen, r, 0.0) for r in chol_R[i]]
        if correlated:
            unit[i] = jnp.where(seen, 0.0, 1.0)
        else:
            noise[i] = jnp.where(seen, chol_R[i][i], 1.0)
        out.append(unit + noise + [0.0 if is_zero(e) else jnp.where(seen, e, 0.0) for e in HL[i]])
    return out


def _drop_zero_columns(A: Rows, ny: int) -> Rows:
    """Without the columns of unit noise, where no channel needs them."""
    return A if any(not is_zero(A[i][i]) for i in range(ny)) else [row[ny:] for row in A]
