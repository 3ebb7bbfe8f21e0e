"""The marginal likelihood and its gradient for PyTensor's default mode, compiled by Numba.

Forward, in square-root form like ``kalman.sequential``:

    L_p = tria[F L | chol_Q];   tria [chol_R  H L_p ; 0  L_p] = [S_c 0 ; K_c L];   w = S_c^-1 (y - H m - d);  m += K_c w

Backward, by hand. With P = L L', W = S^-1, u = W v, K = P H' W, A = I - K H, the update satisfies (Joseph's form is
stationary in K)

    dP = A dP_p A' - K dH P_p A' - A P_p dH' K' + K dR K'
    dm = A dm_p + A dP_p H'u + A P_p dH'u - K dH (m_p + P_p H'u) - K dR u + K (dy - dd)
    dl = u' (dH m_p + H dm_p + dd - dy) + tr [(u u' - W) / 2 (H dP_p H' + 2 dH P_p H' + dR)]

so that adjoints of P, Q and R are symmetric, and that of a root is twice the adjoint of its square times the root:
finite at any rank. Nothing here starts JAX: chains may run in forked processes and in threads. Results go into arrays
that the caller has: allocating in every step took most of the time.
"""

# ruff: noqa: C901, PLR0912, PLR0913, PLR0915, PLR0917  Numba wants arrays one by one, and compiles small functions slowly
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
def _mul(A, B, out):
    """A B."""
    for i in range(A.shape[0]):
        for j in range(B.shape[1]):
            total = 0.0
            for k in range(A.shape[1]):
                total += A[i, k] * B[k, j]
            out[i, j] = total


@_jit
@no_type_check
def _mul_t(A, B, out):
    """A B'."""
    for i in range(A.shape[0]):
        for j in range(B.shape[0]):
            total = 0.0
            for k in range(A.shape[1]):
                total += A[i, k] * B[j, k]
            out[i, j] = total


@_jit
@no_type_check
def _t_mul(A, B, out):
    """A' B."""
    for i in range(A.shape[1]):
        for j in range(B.shape[1]):
            total = 0.0
            for k in range(A.shape[0]):
                total += A[k, i] * B[k, j]
            out[i, j] = total


@_jit
@no_type_check
def _apply(A, x, out):
    """A x."""
    for i in range(A.shape[0]):
        total = 0.0
        for j in range(A.shape[1]):
            total += A[i, j] * x[j]
        out[i] = total


@_jit
@no_type_check
def _t_apply(A, x, out):
    """A' x."""
    for j in range(A.shape[1]):
        total = 0.0
        for i in range(A.shape[0]):
            total += A[i, j] * x[i]
        out[j] = total


@_jit
@no_type_check
def _add(out, scale, A):
    """out + scale A."""
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            out[i, j] += scale * A[i, j]


@_jit
@no_type_check
def _add_outer(out, scale, x, y):
    """out + scale x y'."""
    for i in range(x.shape[0]):
        for j in range(y.shape[0]):
            out[i, j] += scale * x[i] * y[j]


@_jit
@no_type_check
def _triangularise(A, n):
    """A becomes the lower-triangular root of A A' in its first n columns, and zeros, by Householder reflections."""
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
        for j in range(i + 1, w):
            A[i, j] = 0.0


@_jit
@no_type_check
def _predict(m, L, F, c, chol_Q, A, m_new, L_new):
    """Mean and factor of the state one step ahead; A has room for [F L | chol_Q]."""
    n = len(m)
    _mul(F, L, A)
    for i in range(n):
        for j in range(chol_Q.shape[1]):
            A[i, n + j] = chol_Q[i, j]
    _triangularise(A, n)
    _apply(F, m, m_new)
    for i in range(n):
        m_new[i] += c[i]
        for j in range(n):
            L_new[i, j] = A[i, j]


@_jit
@no_type_check
def _present(H, chol_R, y, H_t, R_t, seen):
    """H and chol_R with the rows of missing channels emptied, and which channels are there."""
    for i in range(len(y)):
        seen[i] = not math.isnan(y[i])
        for j in range(H.shape[1]):
            H_t[i, j] = H[i, j] if seen[i] else 0.0
        for j in range(len(y)):
            R_t[i, j] = chol_R[i, j] if seen[i] else 0.0


@_jit
@no_type_check
def _update(m, L, H, d, chol_R, seen, y, A, w, m_new):
    """The log-likelihood. A missing channel has S = 1 and v = 0. A becomes [S_c 0 ; K_c L]."""
    n, ny, log_lik, lower = len(m), len(y), 0.0, True
    A[:] = 0.0
    _mul(H, L, A[:, 2 * ny :])
    for i in range(n):
        for j in range(n):
            A[ny + i, 2 * ny + j] = L[i, j]
    for i in range(ny):
        square = 0.0
        for j in range(n):
            square += A[i, 2 * ny + j] * A[i, 2 * ny + j]
        for j in range(ny):
            A[i, j] = chol_R[i, j]
            square += chol_R[i, j] * chol_R[i, j]
        if not seen[i]:
            A[i, ny + i] = 1.0
        w[i] = math.sqrt(square)  # of the marginal law, until its turn comes
    _triangularise(A, ny + n)
    for i in range(n):
        m_new[i] = m[i]
    for i in range(ny):
        for j in range(i + 1, ny):
            lower = lower and chol_R[i, j] == 0.0
        noisy = lower and chol_R[i, i] != 0.0
        if seen[i] and not noisy and not abs(A[i, i]) > _SMALLEST * w[i]:
            log_lik, A[i, i] = -np.inf, 1.0
        w[i] = 0.0
        if seen[i]:
            total = y[i] - d[i]
            for j in range(n):
                total -= H[i, j] * m[j]
            for j in range(i):
                total -= A[i, j] * w[j]
            w[i] = total / A[i, i]
            log_lik -= 0.5 * (math.log(2 * math.pi) + w[i] * w[i]) + math.log(abs(A[i, i]))
        for j in range(n):
            m_new[j] += A[ny + j, i] * w[i]
    return log_lik


@_jit
@no_type_check
def _at(M, t):
    return M[t] if len(M) > 1 else M[0]


@_jit
@no_type_check
def log_likelihood(m0, chol_P0, F, c, chol_Q, H, d, chol_R, y, dt):
    """log p(y_t | y_1:t-1) for every t."""
    n, ny, out = len(m0), y.shape[1], np.empty(len(y))
    m, m_new, L, w, seen = m0.copy(), m0.copy(), chol_P0.copy(), np.empty(ny), np.empty(ny, np.bool_)
    ahead, joint = np.empty((n, n + chol_Q.shape[2])), np.empty((ny + n, 2 * ny + n))
    H_t, R_t = np.empty((ny, n)), np.empty((ny, ny))
    _triangularise(L, n)
    for t in range(len(y)):
        if dt[t] != 0.0:
            _predict(m, L, _at(F, t), _at(c, t), _at(chol_Q, t), ahead, m_new, L)
            m, m_new = m_new, m
        _present(_at(H, t), _at(chol_R, t), y[t], H_t, R_t, seen)
        out[t] = _update(m, L, H_t, _at(d, t), R_t, seen, y[t], joint, w, m_new)
        m, m_new = m_new, m
        for i in range(n):
            for j in range(n):
                L[i, j] = joint[ny + i, ny + j]
    return out


@_jit
@no_type_check
def _inverse(S_c, out):
    """Inverse of a lower-triangular matrix."""
    out[:] = 0.0
    for j in range(len(S_c)):
        out[j, j] = 1.0 / S_c[j, j]
        for i in range(j + 1, len(S_c)):
            total = 0.0
            for k in range(j, i):
                total += S_c[i, k] * out[k, j]
            out[i, j] = -total / S_c[i, i]


@_jit
@no_type_check
def pullback(m0, chol_P0, F, c, chol_Q, H, d, chol_R, y, dt, g):
    """Adjoints of all inputs but dt (zero) for cotangents g of the log-likelihoods."""
    T, n, ny, nq = len(y), len(m0), y.shape[1], chol_Q.shape[2]
    before, roots = np.empty((T + 1, n)), np.empty((T + 1, n, n))  # the belief before each step
    predicted, predicted_roots = np.empty((T, n)), np.empty((T, n, n))
    joints, ws, fine = np.empty((T, ny + n, 2 * ny + n)), np.empty((T, ny)), np.empty(T, np.bool_)
    ahead, seen, H_t, R_t = np.empty((n, n + nq)), np.empty(ny, np.bool_), np.empty((ny, n)), np.empty((ny, ny))
    before[0], roots[0] = m0, chol_P0
    _triangularise(roots[0], n)
    for t in range(T):
        if dt[t] != 0.0:
            F_t, Q_t = _at(F, t), _at(chol_Q, t)
            _predict(before[t], roots[t], F_t, _at(c, t), Q_t, ahead, predicted[t], predicted_roots[t])
        else:
            predicted[t], predicted_roots[t] = before[t], roots[t]
        _present(_at(H, t), _at(chol_R, t), y[t], H_t, R_t, seen)
        mean, root = predicted[t], predicted_roots[t]
        value = _update(mean, root, H_t, _at(d, t), R_t, seen, y[t], joints[t], ws[t], before[t + 1])
        roots[t + 1] = joints[t, ny:, ny : ny + n]
        fine[t] = value > -np.inf

    F_, c_, Q_ = np.zeros(F.shape), np.zeros(c.shape), np.zeros(chol_Q.shape)
    H_, d_, R_, y_ = np.zeros(H.shape), np.zeros(d.shape), np.zeros(chol_R.shape), np.zeros(y.shape)
    m_, P_ = np.zeros(n), np.zeros((n, n))
    P, A, nn, AP = np.empty((n, n)), np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    root, W, M, S_, of_R = (np.empty((ny, ny)), np.empty((ny, ny)), np.empty((ny, ny)), np.empty((ny, ny)), R_t.copy())
    K, PK, MH, yn, of_H, of_Q = (
        np.empty((n, ny)),
        np.empty((n, ny)),
        np.empty((ny, n)),
        np.empty((ny, n)),
        np.empty((ny, n)),
        np.empty((n, nq)),
    )
    u, Km, Hu, Am, APm, PHu = np.empty(ny), np.empty(ny), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for t in range(T - 1, -1, -1):
        _present(_at(H, t), _at(chol_R, t), y[t], H_t, R_t, seen)
        if np.any(seen) and fine[t]:
            mean = predicted[t]
            _inverse(joints[t, :ny, :ny], root)
            _t_mul(root, root, W)
            _t_apply(root, ws[t], u)
            _mul(joints[t, ny:, :ny], root, K)
            _mul_t(predicted_roots[t], predicted_roots[t], P)
            _mul(K, H_t, A)
            for i in range(n):
                for j in range(n):
                    A[i, j] = (i == j) - A[i, j]
            _t_apply(H_t, u, Hu)
            _t_apply(K, m_, Km)
            _t_apply(A, m_, Am)
            for i in range(ny):
                for j in range(ny):
                    M[i, j] = 0.5 * g[t] * (u[i] * u[j] - W[i, j])  # the adjoint of S by itself
            _mul(P_, K, PK)
            _mul(A, P, AP)
            _t_mul(K, PK, S_)
            _add(S_, 1.0, M)
            _add_outer(S_, -0.5, Km, u)
            _add_outer(S_, -0.5, u, Km)
            _mul(M, H_t, MH)
            _mul(MH, P, of_H)
            _t_mul(PK, AP, yn)
            _add(of_H, -1.0, yn)
            _add(of_H, 1.0, of_H)
            _t_apply(AP, m_, APm)
            _apply(P, Hu, PHu)
            _add_outer(of_H, 1.0, u, APm)
            _add_outer(of_H, g[t], u, mean)
            _add_outer(of_H, -1.0, Km, mean)
            _add_outer(of_H, -1.0, Km, PHu)
            _mul(S_, R_t, of_R)
            i_H, i_d, i_R = t % len(H), t % len(d), t % len(chol_R)
            for i in range(ny):
                if seen[i]:
                    y_[t, i] = Km[i] - g[t] * u[i]
                    d_[i_d, i] -= y_[t, i]
                    for j in range(n):
                        H_[i_H, i, j] += of_H[i, j]
                    for j in range(ny):
                        R_[i_R, i, j] += 2.0 * of_R[i, j]
            _mul(P_, A, nn)
            _t_mul(A, nn, P_)
            _t_mul(H_t, MH, nn)
            _add(P_, 1.0, nn)
            _add_outer(P_, 0.5, Am, Hu)
            _add_outer(P_, 0.5, Hu, Am)
            for i in range(n):
                m_[i] = Am[i] + g[t] * Hu[i]
        if dt[t] != 0.0:
            F_t, i_F, i_c, i_Q = _at(F, t), t % len(F), t % len(c), t % len(chol_Q)
            _mul(P_, _at(chol_Q, t), of_Q)
            _add(Q_[i_Q], 2.0, of_Q)
            for i in range(n):
                c_[i_c, i] += m_[i]
            _add_outer(F_[i_F], 1.0, m_, before[t])
            _mul(P_, F_t, nn)
            _t_mul(F_t, nn, P_)
            _mul(nn, roots[t], A)
            _mul_t(A, roots[t], nn)
            _add(F_[i_F], 2.0, nn)
            _t_apply(F_t, m_, Am)
            m_[:] = Am
    _mul(P_, chol_P0, nn)
    return m_, 2.0 * nn, F_, c_, Q_, H_, d_, R_, y_, np.zeros(T)


@_jit
@no_type_check
def simulate(rng, m0, chol_P0, F, c, chol_Q, H, d, chol_R, dt):
    """One draw of all observations."""
    out, x, noise = np.zeros((len(dt), H.shape[1])), np.empty(len(m0)), np.empty(len(m0))
    _apply(chol_P0, rng.standard_normal(chol_P0.shape[1]), x)
    x += m0
    of_y = np.empty(H.shape[1])
    for t in range(len(dt)):
        if dt[t] != 0.0:
            _apply(_at(chol_Q, t), rng.standard_normal(chol_Q.shape[2]), noise)
            noise += _at(c, t)
            x_new = np.empty(len(m0))
            _apply(_at(F, t), x, x_new)
            x = x_new + noise
        _apply(_at(H, t), x, out[t])
        _apply(_at(chol_R, t), rng.standard_normal(chol_R.shape[2]), of_y)
        out[t] += _at(d, t) + of_y
    return out
