"""Slow, plain, independent answers for the tests to compare with: NumPy, covariances, one particle, no tricks."""

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
