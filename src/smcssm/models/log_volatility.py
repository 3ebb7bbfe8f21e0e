"""Stochastic volatility of returns r_t as a switching model of y_t = log r_t² (Kim, Shephard & Chib 1998).

    r_t = exp(h_t / 2) e_t            y_t = h_t + log e_t²
    h_t = mu + phi (h_t-1 - mu) + sigma_volatility z_t,   h_1 stationary

The law of log e², e ~ N(0, 1), is approximated by a mixture of ten Gaussians (Omori, Chib, Shephard & Nakajima 2007,
doi:10.1016/j.jeconom.2006.07.008, table 1), the regimes: drawn anew at each observation. Filtering is exact for that
mixture up to the number of inner particles.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.core import AbstractPrior, Theta
from smcssm.models.structural import nonnegative
from smcssm.models.switching import Switching
from smcssm.priors.base import Beta, HalfNormal, Independent, Normal

_P = (0.00609, 0.04775, 0.13057, 0.20674, 0.22715, 0.18842, 0.12047, 0.05591, 0.01575, 0.00115)
_MEAN = (1.92677, 1.34744, 0.73504, 0.02266, -0.85173, -1.97278, -3.46788, -5.55246, -8.68384, -14.65)
_VARIANCE = (0.11265, 0.17788, 0.26768, 0.40611, 0.62699, 0.98583, 1.57469, 2.54498, 4.16591, 7.33342)


def LogVolatility() -> Switching:
    """The log variance h of returns, from y = log(return²): give ``np.log(r**2 + 1e-6 * r.var())``, say.

    ``mu`` is the mean of h, ``phi`` its autoregression, ``sigma_volatility`` the standard deviation of one step's
    change. Evidence and forecasts are of y, not of the returns; for these, and for leverage, take
    ``StochasticVolatility``. Equally spaced observations only.
    """
    total = sum(_P)
    weights = [p / total for p in _P]
    return Switching(
        [_Component(k) for k in range(len(_P))],
        initial=weights,
        transition=[weights] * len(_P),
        names=("mu", "phi", "sigma_volatility"),
        states=("log_variance",),
        support=_stationary,
        default_prior=_prior,
        regime_names=[f"component{k}" for k in range(len(_P))],
    )


class _Component(eqx.Module):
    """The matrices of one component."""

    k: int

    def __call__(self, theta: Theta) -> dict[str, Any]:
        mu, phi, sigma = theta["mu"], theta["phi"], theta["sigma_volatility"]
        return {
            "m0": [mu],
            "chol_P0": [[sigma / jnp.sqrt(jnp.maximum(1 - phi * phi, 1e-12))]],
            "F": [[phi]],
            "c": [mu * (1 - phi)],
            "chol_Q": [[sigma]],
            "H": [[1.0]],
            "d": [_MEAN[self.k]],
            "chol_R": [[math.sqrt(_VARIANCE[self.k])]],
        }


def _stationary(theta: Theta) -> Bool[Array, ""]:
    return nonnegative(theta, ("sigma_volatility",)) & (jnp.abs(theta["phi"]) < 1)


def _prior(scale: float) -> AbstractPrior:
    """Volatility that lasts and varies moderately; ``scale`` is of the logarithm already."""
    laws = {"mu": Normal(0.0, 5.0 * scale), "phi": Beta(20.0, 1.5), "sigma_volatility": HalfNormal(0.5)}
    return Independent(laws)
