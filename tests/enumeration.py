"""A switching linear Gaussian model as a sum over all paths of regimes, each by a plain covariance Kalman filter."""

import itertools

import numpy as np
from scipy.special import logsumexp

from oracles import kalman_filter_numpy


def paths(p0, P, regimes, ys, dts=None):
    """Every path with its log weight log p(path, y), and the moments of the last state given it.

    ``regimes`` are dicts m0, P0, F, c, Q, H, d, R. Over dt = 0 the regime stays.
    """
    T, K = len(ys), len(p0)
    dts = np.r_[0.0, np.ones(T - 1)] if dts is None else dts
    out = []
    for path in itertools.product(range(K), repeat=T):
        with np.errstate(divide="ignore"):
            log_p = np.log(p0[path[0]])
            for t in range(1, T):
                log_p += np.log(P[path[t - 1], path[t]]) if dts[t] > 0 else (0.0 if path[t] == path[t - 1] else -np.inf)
        if np.isneginf(log_p):
            continue
        varying = {k: np.stack([regimes[u][k] for u in path]) for k in ("F", "c", "Q", "H", "d", "R")}
        first = regimes[path[0]]
        log_lik, means, covs = kalman_filter_numpy(first["m0"], first["P0"], ys=ys, dts=dts, **varying)
        out.append((path, log_p + log_lik.sum(), means[-1], covs[-1]))
    return out


def log_likelihood(found):
    """log p(y_1:t)."""
    return logsumexp([w for _, w, *_ in found])


def filtered(found, K):
    """Mean and sd of the last state, and probabilities of the last regime."""
    w = np.exp(np.array([w for _, w, *_ in found]) - log_likelihood(found))
    means, covs = np.array([m for *_, m, _ in found]), np.array([C for *_, C in found])
    mean = w @ means
    second = np.einsum("p,pij->ij", w, covs) + np.einsum("p,pi,pj->ij", w, means, means)
    last = np.array([path[-1] for path, *_ in found])
    return mean, np.sqrt(np.diag(second - np.outer(mean, mean))), np.array([w[last == k].sum() for k in range(K)])
