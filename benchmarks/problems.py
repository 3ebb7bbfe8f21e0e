"""Two problems with linear Gaussian states whose posterior is known: a local linear trend, and AR(1) + noise.

Filters over many hyperparameters at once in plain NumPy (covariance form, written out), and the posterior by importance
sampling with them: 1e5 draws of a Student-t around a pilot's posterior, their effective sample size beside it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

LOG_2PI = math.log(2 * math.pi)
Belief = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Trend:
    """Level and slope, N(0, 10²) and N(0, 1) at first; three half-normal standard deviations."""

    names = ("sigma_level", "sigma_trend", "sigma_obs")
    scales = (1.0, 0.2, 2.0)
    unit = ()  # hyperparameters that are uniform on (0, 1)
    title = "local linear trend"

    def data(self, length: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        slope = np.cumsum(0.02 * rng.standard_normal(length))
        level = np.cumsum(slope + 0.3 * rng.standard_normal(length))
        return level + rng.standard_normal(length)

    def start(self, n: int) -> Belief:
        return tuple(np.full(n, a) for a in (0.0, 0.0, 100.0, 0.0, 1.0))

    def row(self, theta: np.ndarray, belief: Belief, y: float, first: bool) -> tuple[np.ndarray, Belief]:
        """The log-likelihood of a row, and the belief after it; theta ``[3, n]``."""
        q, u, r = theta
        a, b, A, B, C = belief
        if not first:
            a, A, B, C = a + b, A + 2 * B + C + q * q, B + C, C + u * u
        S, v = A + r * r, y - a
        K, L = A / S, B / S
        return -0.5 * (LOG_2PI + np.log(S) + v * v / S), (a + K * v, b + L * v, A - K * A, B - K * B, C - L * B)


@dataclass(frozen=True)
class Autoregression:
    """A state that is N(0, 2²) at first; phi ~ U(0, 1) and two half-normal standard deviations."""

    names = ("phi", "sigma_ar", "sigma_obs")
    scales = (None, 1.0, 1.0)
    unit = ("phi",)
    title = "AR(1) + noise"

    def data(self, length: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        x = np.zeros(length)
        for t in range(1, length):
            x[t] = 0.8 * x[t - 1] + 0.5 * rng.standard_normal()
        return x + 0.7 * rng.standard_normal(length)

    def start(self, n: int) -> Belief:
        return np.zeros(n), np.full(n, 4.0)

    def row(self, theta: np.ndarray, belief: Belief, y: float, first: bool) -> tuple[np.ndarray, Belief]:
        phi, q, r = theta
        m, P = belief
        if not first:
            m, P = phi * m, phi * phi * P + q * q
        S, v = P + r * r, y - m
        K = P / S
        return -0.5 * (LOG_2PI + np.log(S) + v * v / S), (m + K * v, P - K * P)


PROBLEMS: dict[str, Any] = {"trend": Trend(), "ar": Autoregression()}


def constrain(problem: Any, z: np.ndarray) -> np.ndarray:
    """Logistic for what is uniform on (0, 1), exponential for standard deviations; ``[3, n]``."""
    with np.errstate(over="ignore"):
        named = zip(problem.names, z, strict=True)
        return np.stack([1 / (1 + np.exp(-v)) if k in problem.unit else np.exp(v) for k, v in named])


def unconstrain(problem: Any, theta: np.ndarray) -> np.ndarray:
    named = zip(problem.names, theta, strict=True)
    return np.stack([np.log(v) - np.log1p(-v) if k in problem.unit else np.log(v) for k, v in named])


def log_prior(problem: Any, z: np.ndarray) -> np.ndarray:
    """Of z, Jacobian included."""
    theta, total = constrain(problem, z), np.zeros(z.shape[1])
    for value, v, scale in zip(theta, z, problem.scales, strict=True):
        if scale is None:
            total = total + np.log(value) + np.log1p(-value)
        else:
            total = total + math.log(2) - 0.5 * LOG_2PI - math.log(scale) - 0.5 * (value / scale) ** 2 + v
    return total


def log_likelihood(problem: Any, theta: np.ndarray, ys: np.ndarray) -> np.ndarray:
    belief, total = problem.start(theta.shape[1]), np.zeros(theta.shape[1])
    for t, y in enumerate(ys):
        increment, belief = problem.row(theta, belief, y, t == 0)
        total = total + increment
    return total


def truth(problem: Any, ys: np.ndarray, pilot: np.ndarray, draws: int = 100_000, part: int = 5_000) -> dict[str, Any]:
    """Means, sds and log evidence, by importance sampling around draws ``[3, n]`` of hyperparameters."""
    z, rng, degrees = unconstrain(problem, pilot), np.random.default_rng(1), 7
    centre, chol = z.mean(axis=1, keepdims=True), np.linalg.cholesky(1.3**2 * np.cov(z))
    d, log_w, found = len(z), [], []
    constant = math.lgamma((degrees + d) / 2) - math.lgamma(degrees / 2) - d / 2 * math.log(degrees * math.pi)
    constant -= float(np.log(np.diag(chol)).sum())
    for _ in range(draws // part):
        e = rng.standard_normal((d, part)) / np.sqrt(rng.chisquare(degrees, part) / degrees)
        z = centre + chol @ e
        theta = constrain(problem, z)
        log_q = constant - (degrees + d) / 2 * np.log1p((e * e).sum(axis=0) / degrees)
        log_w.append(log_prior(problem, z) + log_likelihood(problem, theta, ys) - log_q)
        found.append(theta)
    log_weight, theta = np.concatenate(log_w), np.concatenate(found, axis=1)
    w = np.exp(log_weight - log_weight.max())
    log_evidence = float(log_weight.max() + np.log(w.mean()))
    w = w / w.sum()
    mean = theta @ w
    sd = np.sqrt((theta - mean[:, None]) ** 2 @ w)
    return {"mean": mean, "sd": sd, "log_evidence": log_evidence, "ess": float(1 / (w @ w))}
