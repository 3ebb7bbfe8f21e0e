"""Slow, plain, independent answers for the tests to compare with: NumPy, covariances, one particle, no tricks."""

from decimal import Decimal, localcontext

import numpy as np


def kalman_filter_numpy(m0, P0, F, c, Q, H, d, R, ys, dts=None):
    """Covariance Kalman filter, missing values NaN, (m0, P0) the law of the state at the first observation.

    Any of F, c, Q, H, d, R may have a leading time axis; entry t leads to observation t (so F[0] is not used).
    Over dt = 0 the state stays; by default dt is 0 at the first observation and 1 afterwards.

    Returns log p(y_t | y_1:t-1) ``[t]``, filtered means ``[t, x]`` and covariances ``[t, x, x]``.
    """
    ys = np.asarray(ys, float).reshape(len(ys), -1)
    dts = np.r_[0.0, np.ones(len(ys) - 1)] if dts is None else dts
    m, P = np.array(m0, float), np.array(P0, float)
    log_lik, means, covs = [], [], []
    for t, (y, dt) in enumerate(zip(ys, dts, strict=True)):
        F_t, Q_t, H_t, R_t = (_at(M, t, 2) for M in (F, Q, H, R))
        if dt > 0:
            m, P = F_t @ m + _at(c, t, 1), F_t @ P @ F_t.T + Q_t
        seen = ~np.isnan(y)
        Z, V = H_t[seen], R_t[np.ix_(seen, seen)]
        v, S = y[seen] - Z @ m - _at(d, t, 1)[seen], Z @ P @ Z.T + V
        log_lik.append(_log_normal(v, S))
        K = np.linalg.solve(S, Z @ P).T if seen.any() else np.zeros((len(m), 0))
        A = np.eye(len(m)) - K @ Z
        m, P = m + K @ v, A @ P @ A.T + K @ V @ K.T
        means.append(m)
        covs.append(P)
    return np.array(log_lik), np.array(means), np.array(covs)


def joint_gaussian(m0, P0, F, c, Q, H, d, R, ys, dts=None):
    """Log-likelihood and the law of the last state given everything, from the dense joint law of all of it."""
    ys = np.asarray(ys, float).reshape(len(ys), -1)
    T, nx, ny = len(ys), len(m0), ys.shape[1]
    dts = np.r_[0.0, np.ones(T - 1)] if dts is None else dts
    mean = np.zeros(T * nx)
    root = np.zeros((T * nx, T * nx))  # states as a linear map of independent blocks with covariances P0 or Q
    m, row = np.array(m0, float), np.zeros((nx, T * nx))
    row[:, :nx] = np.eye(nx)
    for t in range(T):
        if dts[t] > 0:
            m, row = F @ m + c, F @ row
            if t > 0:
                row[:, t * nx : (t + 1) * nx] = np.eye(nx)
        mean[t * nx : (t + 1) * nx], root[t * nx : (t + 1) * nx] = m, row
    blocks = np.kron(np.eye(T), Q)
    blocks[:nx, :nx] = P0
    C = root @ blocks @ root.T
    Z, V = np.kron(np.eye(T), H), np.kron(np.eye(T), R)
    seen = ~np.isnan(ys.ravel())
    Z, V = Z[seen], V[np.ix_(seen, seen)]
    v, S = ys.ravel()[seen] - Z @ mean - np.tile(d, T)[seen], Z @ C @ Z.T + V
    last = C[-nx:]
    gain = np.linalg.solve(S, Z @ last.T).T
    assert ny * T >= seen.sum()
    return _log_normal(v, S), mean[-nx:] + gain @ v, last[:, -nx:] - gain @ Z @ last.T


def _at(M, t, ndim):
    M = np.asarray(M, float)
    return M[t] if M.ndim > ndim else M


def _log_normal(v, S):
    if not len(v):
        return 0.0
    sign, log_det = np.linalg.slogdet(S)
    assert sign > 0
    return -0.5 * (v @ np.linalg.solve(S, v) + log_det + len(v) * np.log(2 * np.pi))


def dense_smoother(m0, P0, F, c, Q, H, d, R, ys, dts):
    """Mean ``[t, x]`` and joint covariance ``[t, x, t, x]`` of all states given all observations, and log p(y).

    From the dense joint law; arguments as those of ``kalman_filter_numpy``.
    """
    ys = np.asarray(ys, float).reshape(len(ys), -1)
    T, nx = len(ys), len(m0)
    mean, C = np.zeros((T, nx)), np.zeros((T, nx, T, nx))
    m, P = np.array(m0, float), np.array(P0, float)
    for t in range(T):
        if dts[t] > 0:
            F_t = _at(F, t, 2)
            m, P = F_t @ m + _at(c, t, 1), F_t @ P @ F_t.T + _at(Q, t, 2)
            for u in range(t):
                C[t, :, u] = F_t @ C[t - 1, :, u]
        elif t:
            C[t, :, :t] = C[t - 1, :, :t]
        mean[t], C[t, :, t] = m, P
        for u in range(t):
            C[u, :, t] = C[t, :, u].T
    C = C.reshape(T * nx, T * nx)
    Z, V = np.zeros((ys.size, T * nx)), np.zeros((ys.size, ys.size))
    ny = ys.shape[1]
    for t in range(T):
        Z[t * ny : (t + 1) * ny, t * nx : (t + 1) * nx] = _at(H, t, 2)
        V[t * ny : (t + 1) * ny, t * ny : (t + 1) * ny] = _at(R, t, 2)
    seen = ~np.isnan(ys.ravel())
    Z, V = Z[seen], V[np.ix_(seen, seen)]
    offset = np.concatenate([_at(d, t, 1) for t in range(T)])[seen]
    v, S = ys.ravel()[seen] - Z @ mean.ravel() - offset, Z @ C @ Z.T + V
    gain = np.linalg.solve(S, Z @ C).T
    after = C - gain @ Z @ C
    return (mean.ravel() + gain @ v).reshape(T, nx), after.reshape(T, nx, T, nx), _log_normal(v, S)


def smoother_in_many_digits(m0, chol_P0, F, c, Q, H, d, R, ys, dts, digits=80):
    """Smoothed means and standard deviations ``[t, x]`` by covariances and de Jong's adjoint recursion in decimals.

    Arguments as those of ``kalman_filter_numpy``, but for the root of P0, whose square has too few digits; at most two
    channels.
    """
    decimal = np.vectorize(Decimal, otypes=[object])
    with localcontext(prec=digits):
        m, L, eye, passed = decimal(m0), decimal(chol_P0), decimal(np.eye(len(m0))), []
        P = L @ L.T
        for t, y in enumerate(np.asarray(ys, float)):
            F_t, Q_t, H_t, R_t = (decimal(_at(M, t, 2)) for M in (F, Q, H, R))
            F_t = F_t if dts[t] > 0 else eye
            if dts[t] > 0:
                m, P = F_t @ m + decimal(_at(c, t, 1)), F_t @ P @ F_t.T + Q_t
            seen = np.flatnonzero(~np.isnan(y))
            Z, W, w, A = H_t[seen], 0 * eye, 0 * m, F_t
            if len(seen):
                v, S = decimal(y[seen]) - Z @ m - decimal(_at(d, t, 1)[seen]), Z @ P @ Z.T + R_t[np.ix_(seen, seen)]
                inverse = np.array([[S[1, 1], -S[0, 1]], [-S[1, 0], S[0, 0]]]) if len(seen) == 2 else S**0
                inverse = inverse / (S[0, 0] * S[1, 1] - S[0, 1] * S[1, 0] if len(seen) == 2 else S[0, 0])
                K = P @ Z.T @ inverse
                W, w, A = F_t.T @ Z.T @ inverse @ Z @ F_t, F_t.T @ Z.T @ inverse @ v, (eye - K @ Z) @ F_t
                m, P = m + K @ v, P - K @ Z @ P
            passed.append((m, P, A, W, w))
        r, N, means, sds = 0 * m, 0 * eye, [], []
        for m, P, A, W, w in reversed(passed):
            means.append(m + P @ r)
            sds.append([max(e, Decimal(0)).sqrt() for e in np.diag(P - P @ N @ P)])
            r, N = A.T @ r + w, A.T @ N @ A + W
        return np.array(means[::-1], float), np.array(sds[::-1], float)
