"""Posteriors whose likelihoods are sums over a grid of the state: what inner particles are held to at full length.

The state is a stationary autoregression, x = centre + spread g with g' ~ N(phi g, 1 - phi²), so that in g its law moves
by a matrix of phi alone, for all other hyperparameters at once. Sums over equidistant points are exact up to the tails
beyond the grid as long as a step is no longer than the narrowest Gaussian's sd (the trapezoidal rule: 3e-9 at one sd).
"""

import numpy as np
from scipy import stats
from scipy.special import logsumexp

import smcssm as ss
from grids import normal_density
from posteriors import Case
from smcssm.priors.base import Beta, HalfNormal, Independent, Normal

PHI, SIGMA_OBS = 0.8, 0.5  # of the switching mean model, known


def standard(phi):
    """Points g, their probabilities under the stationary law, and those of a step [from, to]."""
    sd = np.sqrt(1 - phi**2)
    g = np.linspace(-6.5, 6.5, int(np.clip(13 / (0.8 * sd), 100, 700)))
    width = g[1] - g[0]
    return g, width * normal_density(g, 0.0, 1.0), width * normal_density(g[None], phi * g[:, None], sd)


# --- stochastic volatility ------------------------------------------------------------------------------------------


def volatility_log_likelihood(y, mu, phi, sigma):
    """Of returns, over the axes of a grid ``[mu, phi, sigma]``."""
    out = np.zeros((len(mu), len(phi), len(sigma)))
    for j, value in enumerate(phi):
        g, start, move = standard(value)
        h = mu[:, None, None] + sigma[:, None] / np.sqrt(1 - value**2) * g
        w, scale = np.broadcast_to(start, h.shape), np.exp(-h)
        for t, r in enumerate(y):
            w = w @ move if t else w
            if not np.isnan(r):
                w = w * np.exp(-0.5 * (np.log(2 * np.pi) + h + r * r * scale))
                total = w.sum(axis=-1)
                out[:, j] += np.log(total)
                w = w / total[..., None]
    return out


def _returns(t, seed):
    rng = np.random.default_rng(seed)
    h, y = -1.0, np.empty(t)
    for i in range(t):
        h = -1.0 + 0.93 * (h + 1.0) + 0.35 * rng.standard_normal()
        y[i] = np.exp(h / 2) * rng.standard_normal()
    y[7::31] = np.nan
    return y


VOLATILITY = Case(
    names=("mu", "phi", "sigma_volatility"),
    model=ss.models.StochasticVolatility(),
    prior=Independent({"mu": Normal(-1.0, 1.0), "phi": Beta(20.0, 1.5), "sigma_volatility": HalfNormal(0.5)}),
    simulate=_returns,
    box=((-5.0, 3.0), (0.4, 1.0), (0.0, 1.8)),
    log_prior=lambda mu, phi, sigma: (
        stats.norm.logpdf(mu, -1.0, 1.0) + stats.beta.logpdf(phi, 20.0, 1.5) + stats.halfnorm.logpdf(sigma, scale=0.5)
    ),
    matrices=None,
    log_likelihood=volatility_log_likelihood,
    size=36,
)

# --- a mean that switches -------------------------------------------------------------------------------------------


def two_regimes(y, levels, stay, sigma):
    """Log-likelihoods ``[...]`` from a level for each regime, ``[..., 2]``, and the sd of the state's steps."""
    g, start, move = standard(PHI)
    mean = levels[..., None] + np.asarray(sigma)[..., None, None] / np.sqrt(1 - PHI**2) * g
    w, out = np.broadcast_to(0.5 * start, mean.shape), np.zeros(mean.shape[:-2])
    for t, value in enumerate(y):
        if t:
            w = w @ move
            w = stay * w + (1 - stay) * w[..., ::-1, :]
        if not np.isnan(value):
            w = w * normal_density(value, mean, SIGMA_OBS)
            total = w.sum(axis=(-2, -1))
            out += np.log(total)
            w = w / total[..., None, None]
    return out


def switching_log_likelihood(y, shift, stay, sigma):
    """Over the axes of a grid ``[shift, stay, sigma]``."""
    levels = np.stack([0 * shift, shift], axis=-1)[:, None]
    return np.stack([two_regimes(y, levels, p, sigma) for p in stay], axis=1)


def _regime(level, sigma=None):
    def matrices(theta):
        scale = theta["sigma_ar"] if sigma is None else sigma
        return {
            "chol_P0": [[scale / np.sqrt(1 - PHI**2)]],
            "F": [[PHI]],
            "chol_Q": [[scale]],
            "H": [[1.0]],
            "d": [level(theta)],
            "chol_R": [[SIGMA_OBS]],
        }

    return matrices


def switching_path(rng, t, stay, sigma):
    """Regimes and states."""
    u = (rng.integers(2) + np.r_[0, np.cumsum(rng.random(t - 1) > stay)]) % 2
    x = sigma * rng.standard_normal(t)
    x[0] /= np.sqrt(1 - PHI**2)
    for i in range(1, t):
        x[i] += PHI * x[i - 1]
    return u, x


def _switching(t, seed):
    rng = np.random.default_rng(seed)
    u, x = switching_path(rng, t, 0.92, 0.5)
    y = 2.0 * u + x + SIGMA_OBS * rng.standard_normal(t)
    y[7::31] = np.nan
    return y


SWITCHING_MEAN = Case(
    names=("shift", "stay", "sigma_ar"),
    model=ss.models.Switching(
        (_regime(lambda theta: 0.0), _regime(lambda theta: theta["shift"])),
        transition=lambda theta: [[theta["stay"], 1 - theta["stay"]], [1 - theta["stay"], theta["stay"]]],
        names=("shift", "stay", "sigma_ar"),
        regime_names=("low", "high"),
    ),
    prior=Independent({"shift": HalfNormal(2.0), "stay": Beta(8.0, 2.0), "sigma_ar": HalfNormal(1.0)}),
    simulate=_switching,
    box=((0.0, 6.0), (-1.4, 14.0), (0.0, 2.0)),
    logit=("stay",),
    log_prior=lambda shift, stay, sigma: (
        stats.halfnorm.logpdf(shift, scale=2.0) + stats.beta.logpdf(stay, 8.0, 2.0) + stats.halfnorm.logpdf(sigma)
    ),
    matrices=None,
    log_likelihood=switching_log_likelihood,
    size=32,
)

# --- two regimes that nothing tells apart -----------------------------------------------------------------------------

STAY, STEP = 0.9, 0.3

SYMMETRIC = ss.models.Switching(
    [_regime(lambda theta, k=k: theta["level"][k], STEP) for k in range(2)],
    transition=[[STAY, 1 - STAY], [1 - STAY, STAY]],
    names=("level",),
    shapes={"level": 2},
    per_regime={"level": 1},
)
SYMMETRIC_PRIOR = Independent({"level": Normal(0.0, 2.0, (2,))})


def symmetric_data(t, seed):
    rng = np.random.default_rng(seed)
    u, x = switching_path(rng, t, STAY, STEP)
    return 0.8 * (2 * u - 1) + x + SIGMA_OBS * rng.standard_normal(t)


def symmetric_answer(y, size=100, width=5.0):
    """Mean and sd of the lower and the higher level, and the log evidence."""
    level = -width + (np.arange(size) + 0.5) * 2 * width / size
    levels = np.stack(np.meshgrid(level, level, indexing="ij"), axis=-1)
    log_w = two_regimes(y, levels, STAY, STEP) + stats.norm.logpdf(levels, 0.0, 2.0).sum(axis=-1)
    log_evidence = logsumexp(log_w) + 2 * np.log(2 * width / size)
    w, ordered = np.exp(log_w - logsumexp(log_w)), np.sort(levels, axis=-1)
    mean = np.einsum("ab,abk->k", w, ordered)
    return mean, np.sqrt(np.einsum("ab,abk->k", w, (ordered - mean) ** 2)), log_evidence
