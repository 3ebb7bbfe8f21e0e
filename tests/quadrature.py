"""The posterior of a local level model by brute force on a grid of its two standard deviations, in plain NumPy."""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

LEVELS = (0.05, 0.5, 0.95)


class Exact(NamedTuple):
    """Of sigma_level and sigma_obs (in this order), of the level, of the next observation; and the evidence."""

    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray
    level_mean: float
    level_sd: float
    forecast_mean: float
    forecast_sd: float
    forecast_quantiles: np.ndarray
    log_evidence: float


def local_level(y, initial_mean, initial_sd, scales, times, size=500, width=6.0):
    """{t: Exact} for half-normal priors of the given scales; NaN in y is missing."""
    grids = [(np.arange(size) + 0.5) * width * s / size for s in scales]
    level, obs = np.meshgrid(*grids, indexing="ij")
    log_prior = sum(
        np.log(2) + norm.logpdf(g, scale=s) + np.log(width * s / size)
        for g, s in zip((level, obs), scales, strict=True)
    )
    m, P, log_lik, out = np.full_like(level, initial_mean), np.full_like(level, initial_sd**2), np.zeros_like(level), {}
    for t, value in enumerate(y, start=1):
        P = P + (level**2 if t > 1 else 0.0)
        if not np.isnan(value):
            S = P + obs**2
            log_lik += norm.logpdf(value, m, np.sqrt(S))
            m, P = m + P / S * (value - m), P * obs**2 / S
        if t in times:
            out[t] = _summarise(grids, log_prior + log_lik, m, P, level, obs)
    return out


def _summarise(grids, log_joint, m, P, level, obs):
    log_evidence = logsumexp(log_joint)
    w = np.exp(log_joint - log_evidence)
    marginals = [w.sum(axis=1), w.sum(axis=0)]
    mean = np.array([p @ g for p, g in zip(marginals, grids, strict=True)])
    sd = np.sqrt([p @ (g - c) ** 2 for p, g, c in zip(marginals, grids, mean, strict=True)])
    quantiles = np.array([_grid_quantiles(p, g) for p, g in zip(marginals, grids, strict=True)])
    level_mean = np.sum(w * m)
    level_sd = np.sqrt(np.sum(w * (P + (m - level_mean) ** 2)))
    S = P + level**2 + obs**2
    forecast_sd = np.sqrt(np.sum(w * (S + (m - level_mean) ** 2)))
    forecast_quantiles = np.array([_mixture_quantile(w, m, np.sqrt(S), q) for q in LEVELS])
    return Exact(
        mean, sd, quantiles, level_mean, level_sd, level_mean, forecast_sd, forecast_quantiles, float(log_evidence)
    )


def _grid_quantiles(p, g):
    edges = np.concatenate([[0.0], g + g[0]])  # cell i ends at edges[i + 1]
    return np.interp(LEVELS, np.concatenate([[0.0], np.cumsum(p)]), edges)


def _mixture_quantile(w, m, s, q):
    keep = w > 1e-12
    w, m, s = w[keep] / w[keep].sum(), m[keep], s[keep]
    low, high = np.min(m - 10 * s), np.max(m + 10 * s)
    for _ in range(45):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if w @ norm.cdf((middle - m) / s) < q else (low, middle)
    return 0.5 * (low + high)
