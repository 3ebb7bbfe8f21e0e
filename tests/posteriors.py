"""Three posteriors with their answers on a grid: what every schedule and move is held to.

Each has a scalar state, so that a plain vectorised Kalman filter over a grid of hyperparameters is the oracle: a local
level; AR(1) + noise, whose three hyperparameters are strongly correlated; and one with two modes of unequal mass.
"""

from typing import NamedTuple

import numpy as np
import pymc as pm
from scipy import stats
from scipy.integrate import cumulative_trapezoid
from scipy.interpolate import CubicSpline
from scipy.special import expit, logsumexp

import smcssm as ss
from smcssm.priors import HalfNormal, Independent

LEVELS = (0.05, 0.5, 0.95)


class Answer(NamedTuple):
    """Per hyperparameter, and the evidence."""

    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray
    log_evidence: float


class Case(NamedTuple):
    """A model with its prior, data of length t, and the same model as functions over a grid."""

    names: tuple
    model: object
    prior: object
    simulate: object
    box: tuple
    log_prior: object
    matrices: object
    log_likelihood: object = None  # of y over the axes of a grid, where the state is not linear and Gaussian
    size: int | None = None  # of a grid along each axis
    logit: tuple = ()  # the names whose axes, and box, are equidistant in the logit: densities that end steeply at one

    def answer(self, y, size=None, keep=1.0):
        """The posterior at the end of y, by quadrature: a coarse pass finds the box that a fine one fills.

        ``keep`` multiplies the log-likelihood so far at each step; the evidence then is the sum of log predictives.
        """
        size = size or self.size or {2: 200, 3: 64}[len(self.names)]
        box = self.box
        for _ in range(2):
            axes = [low + (np.arange(size) + 0.5) * (high - low) / size for low, high in box]
            grids = [expit(a) if name in self.logit else a for name, a in zip(self.names, axes, strict=True)]
            w, log_evidence = self._weights(y, grids, box, keep)
            marginals = [w.sum(axis=tuple(j for j in range(len(box)) if j != i)) for i in range(len(box))]
            box = tuple(_around(p, a, b) for p, a, b in zip(marginals, axes, box, strict=True))
        mean = np.array([p @ g for p, g in zip(marginals, grids, strict=True)])
        sd = np.sqrt([p @ (g - m) ** 2 for p, g, m in zip(marginals, grids, mean, strict=True)])
        quantiles = np.array([_quantiles(p, a) for p, a in zip(marginals, axes, strict=True)])
        logit = np.isin(self.names, self.logit)
        quantiles[logit] = expit(quantiles[logit])
        return Answer(mean, sd, quantiles, log_evidence)

    def _weights(self, y, grids, box, keep):
        theta = np.meshgrid(*grids, indexing="ij")
        log_prior = self.log_prior(*theta) + sum(np.log((b - a) / len(g)) for (a, b), g in zip(box, grids, strict=True))
        log_prior += sum(np.log(v - v * v) for n, v in zip(self.names, theta, strict=True) if n in self.logit)
        if self.log_likelihood is None:
            log_lik, forgotten = self._linear(y, theta, log_prior, keep)
        else:
            log_lik, forgotten = self.log_likelihood(y, *grids), 0.0
        log_evidence = logsumexp(log_prior + log_lik)
        return np.exp(log_prior + log_lik - log_evidence), float(log_evidence + forgotten)

    def _linear(self, y, theta, log_prior, keep):
        """By a Kalman filter at every point of the grid; and what was forgotten of the evidence."""
        m, P, F, Q, d, R = self.matrices(*theta)
        log_lik, forgotten = np.zeros_like(log_prior), 0.0
        for t, value in enumerate(y):
            if keep < 1:
                forgotten += logsumexp(log_prior + log_lik) - logsumexp(log_prior + keep * log_lik)
                log_lik = keep * log_lik
            if t:
                m, P = F * m, F * F * P + Q
            if not np.isnan(value):
                S = P + R
                v = value - m - d
                log_lik = log_lik - 0.5 * (np.log(2 * np.pi * S) + v * v / S)
                m, P = m + P / S * v, P * R / S
        return log_lik, forgotten


def _around(p, g, box):
    """The part of an axis that holds all but 1e-6 of the mass on either side, a cell more on either side."""
    step, inside = g[1] - g[0], np.flatnonzero(np.cumsum(p) > 1e-6)
    last = len(p) - 1 - np.flatnonzero(np.cumsum(p[::-1]) > 1e-6)[0]
    return max(box[0], g[inside[0]] - 1.5 * step), min(box[1], g[last] + 1.5 * step)


def _quantiles(p, g):
    """Of masses at midpoints, the density smooth between them."""
    half = (g[1] - g[0]) / 2
    x = np.linspace(g[0] - half, g[-1] + half, 100 * len(g) + 1)
    below = cumulative_trapezoid(np.maximum(CubicSpline(g, p)(x), 0.0), x, initial=0.0)
    return np.interp(LEVELS, below / below[-1], x)


def _half_normal(x, scale):
    return np.log(2) + stats.norm.logpdf(x, scale=scale)


def _walk(t, seed):
    rng = np.random.default_rng(seed)
    return np.cumsum(0.3 * rng.standard_normal(t)) + rng.standard_normal(t)


LOCAL_LEVEL = Case(
    names=("sigma_level", "sigma_obs"),
    model=ss.models.LocalLevel(initial_mean=0.0, initial_sd=10.0),
    prior=Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(2.0)}),
    simulate=_walk,
    box=((0.0, 6.0), (0.0, 12.0)),
    log_prior=lambda level, obs: _half_normal(level, 1.0) + _half_normal(obs, 2.0),
    matrices=lambda level, obs: (0 * level, 100.0 + 0 * level, 1.0, level**2, 0.0, obs**2),
)


def _ar_data(t, seed):
    rng = np.random.default_rng(seed)
    x = np.zeros(t)
    for i in range(1, t):
        x[i] = 0.8 * x[i - 1] + 0.5 * rng.standard_normal()
    return x + 0.7 * rng.standard_normal(t)


def _ar(theta):
    return dict(
        m0=[0.0],
        chol_P0=[[2.0]],
        F=[[theta["phi"]]],
        chol_Q=[[theta["sigma_ar"]]],
        H=[[1.0]],
        chol_R=[[theta["sigma_obs"]]],
    )


with pm.Model() as _AR_PRIOR:
    pm.Uniform("phi", -1.0, 1.0)
    pm.HalfNormal("sigma_ar", 1.0)
    pm.HalfNormal("sigma_obs", 1.0)

AR_NOISE = Case(
    names=("phi", "sigma_ar", "sigma_obs"),
    model=ss.models.LinearGaussian(_ar, ("phi", "sigma_ar", "sigma_obs")),
    prior=_AR_PRIOR,
    simulate=_ar_data,
    box=((-1.0, 1.0), (0.0, 4.0), (0.0, 4.0)),
    log_prior=lambda phi, ar, obs: -np.log(2) + _half_normal(ar, 1.0) + _half_normal(obs, 1.0) + 0 * phi,
    matrices=lambda phi, ar, obs: (0 * phi, 4.0 + 0 * phi, phi, ar**2, 0.0, obs**2),
)


def _two_data(t, seed):
    return 1.0 + _ar_data(t, seed)


def _two(theta):
    return dict(
        m0=[0.0],
        chol_P0=[[1.0]],
        F=[[0.8]],
        chol_Q=[[0.5]],
        H=[[1.0]],
        d=[theta["root"] ** 2],
        chol_R=[[theta["sigma_obs"]]],
    )


with pm.Model() as _TWO_PRIOR:
    pm.Normal("root", 0.4, 1.0)
    pm.HalfNormal("sigma_obs", 1.0)

TWO_MODES = Case(
    names=("root", "sigma_obs"),
    model=ss.models.LinearGaussian(_two, ("root", "sigma_obs")),
    prior=_TWO_PRIOR,
    simulate=_two_data,
    box=((-4.0, 4.0), (0.0, 4.0)),
    log_prior=lambda root, obs: stats.norm.logpdf(root, 0.4, 1.0) + _half_normal(obs, 1.0),
    matrices=lambda root, obs: (0 * root, 1.0 + 0 * root, 0.8, 0.25, root**2, obs**2),
)

CASES = {"local level": LOCAL_LEVEL, "AR(1) + noise": AR_NOISE, "two modes": TWO_MODES}


def per_run(engine, names):
    """Mean, sd and quantiles of every hyperparameter and the log evidence, of each run ``[run, quantity]``."""
    snapshot = engine.snapshot()
    w, theta = snapshot.weights(), snapshot.theta()
    rows = []
    for run in range(len(w)):
        row = []
        for name in names:
            values = theta[name][run]
            mean = w[run] @ values
            order = np.argsort(values)
            below = np.cumsum(w[run][order]) - 0.5 * w[run][order]
            row += [mean, np.sqrt(w[run] @ (values - mean) ** 2), *np.interp(LEVELS, below, values[order])]
        rows.append([*row, snapshot.log_evidence()[run]])
    return np.array(rows)


def flat(answer):
    """The same from an answer, and the posterior sd that each entry is measured in."""
    row = np.concatenate([np.r_[m, s, q] for m, s, q in zip(answer.mean, answer.sd, answer.quantiles, strict=True)])
    return np.r_[row, answer.log_evidence], np.r_[np.repeat(answer.sd, 5), 1.0]


def assert_agrees(engine, case, y, spread=0.35, slack=0.0):
    """Bias within 4 standard errors of the mean over runs (evidence on its own scale), and no wild spread.

    The evidence estimate is unbiased, its logarithm is not: the mean of exp(error) is compared with 1.
    """
    truth, unit = flat(case.answer(y))
    errors = (per_run(engine, case.names) - truth) / unit
    runs = len(errors)
    ratio = np.exp(errors[:, -1])
    errors = np.c_[errors[:, :-1], ratio - 1]
    standard_error = errors.std(axis=0, ddof=1) / runs**0.5
    bad = np.abs(errors.mean(axis=0)) > 4 * standard_error + slack
    assert not bad.any(), (np.flatnonzero(bad), errors.mean(axis=0)[bad], standard_error[bad])
    assert errors.std(axis=0, ddof=1).max() < spread, errors.std(axis=0, ddof=1)
