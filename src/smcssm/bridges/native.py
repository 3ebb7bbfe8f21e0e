"""The marginal likelihood and its gradient for PyTensor's default mode, compiled by Numba.

Forward, in square-root form like ``kalman.sequential``:

    L_p = tria[F L | chol_Q];   tria [chol_R  H L_p ; 0  L_p] = [S_c 0 ; K_c L];   w = S_c^-1 (y - H m - d);  m += K_c w

Backward, by hand. With P = L L', W = S^-1, u = W v, K = P H' W, A = I - K H, the update satisfies (Joseph's form is
stationary in K)

    dP = A dP_p A' - K dH P_p A' - A P_p dH' K' + K dR K'
    dm = A dm_p + A dP_p H'u + A P_p dH'u - K dH (m_p + P_p H'u) - K dR u + K (dy - dd)
    dl = u' (dH m_p + H dm_p + dd - dy) + tr [(u u' - W) / 2 (H dP_p H' + 2 dH P_p H' + dR)]

so that adjoints of P, Q and R are symmetric, and that of a root is twice the adjoint of its square times the root:
finite at any rank. Nothing here starts JAX: chains may run in forked processes and in threads.
"""

# ruff: noqa: C901, PLR0913, PLR0915, PLR0917  Numba wants arrays one by one, and compiles small functions slowly
from __future__ import annotations

import math
from typing import Any, no_type_check

import numba
import numpy as np

from smcssm.kalman.sequential import TOLERANCE

_SMALLEST = TOLERANCE * np.finfo(np.float64).eps
_jit: Any = numba.njit(error_model="numpy")  # bad parameters give inf and NaN, not exceptions


@_jit
@no_type_check
def _mul(A, B):
    """A B."""
    out = np.zeros((A.shape[0], B.shape[1]))
    for i in range(A.shape[0]):
        for k in range(A.shape[1]):
            a = A[i, k]
            if a != 0.0:
                for j in range(B.shape[1]):
                    out[i, j] += a * B[k, j]
    return out


@_jit
@no_type_check
def _mul_t(A, B):
    """A B'."""
    out = np.zeros((A.shape[0], B.shape[0]))
    for i in range(A.shape[0]):
        for j in range(B.shape[0]):
            for k in range(A.shape[1]):
                out[i, j] += A[i, k] * B[j, k]
    return out


@_jit
@no_type_check
def _t_mul(A, B):
    """A' B."""
    out = np.zeros((A.shape[1], B.shape[1]))
    for k in range(A.shape[0]):
        for i in range(A.shape[1]):
            a = A[k, i]
            if a != 0.0:
                for j in range(B.shape[1]):
                    out[i, j] += a * B[k, j]
    return out


@_jit
@no_type_check
def _apply(A, x):
    """A x."""
    out = np.zeros(A.shape[0])
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            out[i] += A[i, j] * x[j]
    return out


@_jit
@no_type_check
def _t_apply(A, x):
    """A' x."""
    out = np.zeros(A.shape[1])
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            out[j] += A[i, j] * x[i]
    return out


@_jit
@no_type_check
def _add_outer(out, x, y):
    for i in range(x.shape[0]):
        for j in range(y.shape[0]):
            out[i, j] += x[i] * y[j]


@_jit
@no_type_check
def _triangularise(A, n):
    """The lower-triangular root of A A', by Householder reflections from the right; A is overwritten."""
    w = A.shape[1]
    for i in range(min(n, w)):
        square = 0.0
        for j in range(i + 1, w):
            square += A[i, j] * A[i, j]
        if square == 0.0:
            continue
        norm = math.sqrt(A[i, i] * A[i, i] + square)
        head = A[i, i] + math.copysign(norm, A[i, i])
        scale = 2.0 / (head * head + square)
        for k in range(i + 1, n):
            total = head * A[k, i]
            for j in range(i + 1, w):
                total += A[i, j] * A[k, j]
            total *= scale
            A[k, i] -= total * head
            for j in range(i + 1, w):
                A[k, j] -= total * A[i, j]
        A[i, i] = -math.copysign(norm, A[i, i])
        A[i, i + 1 :] = 0.0
    out = np.zeros((n, n))
    out[:, : min(n, w)] = A[:, :n]
    return out


@_jit
@no_type_check
def _predict(m, L, F, c, chol_Q):
    """Mean and factor of the state one step ahead."""
    n = len(m)
    A = np.zeros((n, n + chol_Q.shape[1]))
    A[:, :n] = _mul(F, L)
    A[:, n:] = chol_Q
    return _apply(F, m) + c, _triangularise(A, n)


@_jit
@no_type_check
def _present(H, chol_R, y):
    """H and chol_R with the rows of missing channels emptied, and which channels are there."""
    H, chol_R, seen = H.copy(), chol_R.copy(), np.ones(len(y), np.bool_)
    for i in range(len(y)):
        if math.isnan(y[i]):
            seen[i] = False
            H[i] = 0.0
            chol_R[i] = 0.0
    return H, chol_R, seen


@_jit
@no_type_check
def _update(m, L, H, d, chol_R, seen, y):
    """Log-likelihood, S_c, K_c, w and the new belief. A missing channel has S = 1 and v = 0."""
    n, ny = len(m), len(y)
    A = np.zeros((ny + n, 2 * ny + n))
    A[:ny, :ny] = chol_R
    A[:ny, 2 * ny :] = _mul(H, L)
    A[ny:, 2 * ny :] = L
    size = np.zeros(ny)
    for i in range(ny):
        size[i] = math.sqrt(np.sum(A[i] * A[i]))
        if not seen[i]:
            A[i, ny + i] = 1.0
    A = _triangularise(A, ny + n)
    w, log_lik, lower = np.zeros(ny), 0.0, True
    expected = _apply(H, m)
    for i in range(ny):
        for j in range(i + 1, ny):
            lower = lower and chol_R[i, j] == 0.0
        s = A[i, i]
        noisy = lower and chol_R[i, i] != 0.0
        if seen[i] and not noisy and not abs(s) > _SMALLEST * size[i]:
            log_lik, s = -np.inf, 1.0
            A[i, i] = 1.0
        if seen[i]:
            total = y[i] - expected[i] - d[i]
            for j in range(i):
                total -= A[i, j] * w[j]
            w[i] = total / s
            log_lik -= 0.5 * (math.log(2 * math.pi) + w[i] * w[i]) + math.log(abs(s))
    return log_lik, A[:ny, :ny].copy(), A[ny:, :ny].copy(), w, m + _apply(A[ny:, :ny], w), A[ny:, ny:].copy()


@_jit
@no_type_check
def _at(M, t):
    return M[t] if len(M) > 1 else M[0]


@_jit
@no_type_check
def log_likelihood(m0, chol_P0, F, c, chol_Q, H, d, chol_R, y, dt):
    """log p(y_t | y_1:t-1) for every t."""
    m, L = m0.copy(), _triangularise(chol_P0.copy(), len(m0))
    out = np.zeros(len(y))
    for t in range(len(y)):
        if dt[t] != 0.0:
            m, L = _predict(m, L, _at(F, t), _at(c, t), _at(chol_Q, t))
        H_t, R_t, seen = _present(_at(H, t), _at(chol_R, t), y[t])
        out[t], _, _, _, m, L = _update(m, L, H_t, _at(d, t), R_t, seen, y[t])
    return out


@_jit
@no_type_check
def _inverse(S_c):
    """Inverse of a lower-triangular matrix."""
    n = len(S_c)
    out = np.zeros((n, n))
    for j in range(n):
        out[j, j] = 1.0 / S_c[j, j]
        for i in range(j + 1, n):
            total = 0.0
            for k in range(j, i):
                total += S_c[i, k] * out[k, j]
            out[i, j] = -total / S_c[i, i]
    return out


@_jit
@no_type_check
def pullback(m0, chol_P0, F, c, chol_Q, H, d, chol_R, y, dt, g):
    """Adjoints of all inputs but dt (zero) for cotangents g of the log-likelihoods."""
    T, n, ny = len(y), len(m0), y.shape[1]
    before, roots = np.zeros((T + 1, n)), np.zeros((T + 1, n, n))  # the belief before each step
    predicted, predicted_roots = np.zeros((T, n)), np.zeros((T, n, n))
    S_c, K_c, w, fine = np.zeros((T, ny, ny)), np.zeros((T, n, ny)), np.zeros((T, ny)), np.ones(T, np.bool_)
    before[0], roots[0] = m0, _triangularise(chol_P0.copy(), n)
    for t in range(T):
        m, L = before[t], roots[t]
        if dt[t] != 0.0:
            m, L = _predict(m, L, _at(F, t), _at(c, t), _at(chol_Q, t))
        predicted[t], predicted_roots[t] = m, L
        H_t, R_t, seen = _present(_at(H, t), _at(chol_R, t), y[t])
        value, S_c[t], K_c[t], w[t], before[t + 1], roots[t + 1] = _update(m, L, H_t, _at(d, t), R_t, seen, y[t])
        fine[t] = value > -np.inf

    F_, c_, Q_, H_, d_, R_ = (
        np.zeros(F.shape),
        np.zeros(c.shape),
        np.zeros(chol_Q.shape),
        np.zeros(H.shape),
        np.zeros(d.shape),
        np.zeros(chol_R.shape),
    )
    y_, m_, P_ = np.zeros(y.shape), np.zeros(n), np.zeros((n, n))
    for back in range(T):
        t = T - 1 - back
        H_t, R_t, seen = _present(_at(H, t), _at(chol_R, t), y[t])
        if np.any(seen) and fine[t]:
            root = _inverse(S_c[t])
            W, u, K = _t_mul(root, root), _t_apply(root, w[t]), _mul(K_c[t], root)
            P, mean = _mul_t(predicted_roots[t], predicted_roots[t]), predicted[t]
            A = -_mul(K, H_t)
            for i in range(n):
                A[i, i] += 1.0
            Hu, Km, Am = _t_apply(H_t, u), _t_apply(K, m_), _t_apply(A, m_)
            M = -0.5 * g[t] * W  # the adjoint of S by itself
            _add_outer(M, 0.5 * g[t] * u, u)
            PK, AP = _mul(P_, K), _mul(A, P)
            S_ = M + _t_mul(K, PK)
            _add_outer(S_, -0.5 * Km, u)
            _add_outer(S_, -0.5 * u, Km)
            of_H = 2.0 * (_mul(_mul(M, H_t), P) - _t_mul(PK, AP))
            _add_outer(of_H, u, _t_apply(AP, m_) + g[t] * mean)
            _add_outer(of_H, -Km, mean + _apply(P, Hu))
            of_R = 2.0 * _mul(S_, R_t)
            of_y = Km - g[t] * u
            i_H, i_d, i_R = t % len(H), t % len(d), t % len(chol_R)
            for i in range(ny):
                if seen[i]:
                    H_[i_H, i] += of_H[i]
                    d_[i_d, i] -= of_y[i]
                    R_[i_R, i] += of_R[i]
                    y_[t, i] = of_y[i]
            P_ = _t_mul(A, _mul(P_, A)) + _t_mul(H_t, _mul(M, H_t))
            _add_outer(P_, 0.5 * Am, Hu)
            _add_outer(P_, 0.5 * Hu, Am)
            m_ = Am + g[t] * Hu
        if dt[t] != 0.0:
            F_t = _at(F, t)
            PF = _mul(P_, F_t)
            i_F, i_c, i_Q = t % len(F), t % len(c), t % len(chol_Q)
            F_[i_F] += 2.0 * _mul_t(_mul(PF, roots[t]), roots[t])
            _add_outer(F_[i_F], m_, before[t])
            c_[i_c] += m_
            Q_[i_Q] += 2.0 * _mul(P_, _at(chol_Q, t))
            m_, P_ = _t_apply(F_t, m_), _t_mul(F_t, PF)
    return m_, 2.0 * _mul(P_, chol_P0), F_, c_, Q_, H_, d_, R_, y_, np.zeros(T)


@_jit
@no_type_check
def simulate(rng, m0, chol_P0, F, c, chol_Q, H, d, chol_R, dt):
    """One draw of all observations."""
    x = m0 + _apply(chol_P0, rng.standard_normal(chol_P0.shape[1]))
    out = np.zeros((len(dt), H.shape[1]))
    for t in range(len(dt)):
        if dt[t] != 0.0:
            x = _apply(_at(F, t), x) + _at(c, t) + _apply(_at(chol_Q, t), rng.standard_normal(chol_Q.shape[2]))
        out[t] = _apply(_at(H, t), x) + _at(d, t) + _apply(_at(chol_R, t), rng.standard_normal(chol_R.shape[2]))
    return out
