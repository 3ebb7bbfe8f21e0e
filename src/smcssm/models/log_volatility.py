"""Stochastic volatility of returns r_t as a switching model of y_t = log r_t² (Kim, Shephard & Chib 1998).

    r_t = exp(h_t / 2) e_t            y_t = h_t + log e_t²
    h_t = mu + phi (h_t-1 - mu) + sigma_volatility z_t,   h_1 stationary

The law of log e², e ~ N(0, 1), is approximated by a mixture of ten Gaussians (Omori, Chib, Shephard & Nakajima 2007,
doi:10.1016/j.jeconom.2006.07.008, table 1), the regimes: drawn anew at each observation. Filtering is exact for that
mixture up to the number of inner particles.

With leverage z_t = rho e_t-1 + sqrt(1 - rho²) z'_t, and e = d exp((log e²) / 2) with its sign d is approximated by a
straight line within each component (m, v²) of log e² (ibid., section 2.2):

    e = d l,   l = exp(m / 2) exp(v² / 8) (1 + (log e² - m) / 2)

which is Gaussian given the component and becomes a second state; nothing else is noise in the observation then.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.core import AbstractPrior, Theta
from smcssm.models.stationary import UniformStationary
from smcssm.models.structural import nonnegative
from smcssm.models.switching import Switching
from smcssm.priors.base import Beta, HalfNormal, Independent, Normal

_P = (0.00609, 0.04775, 0.13057, 0.20674, 0.22715, 0.18842, 0.12047, 0.05591, 0.01575, 0.00115)
_MEAN = (1.92677, 1.34744, 0.73504, 0.02266, -0.85173, -1.97278, -3.46788, -5.55246, -8.68384, -14.65)
_VARIANCE = (0.11265, 0.17788, 0.26768, 0.40611, 0.62699, 0.98583, 1.57469, 2.54498, 4.16591, 7.33342)


def LogVolatility(leverage: bool = False) -> Switching:
    """The log variance h of returns, from y = log(return²): give ``np.log(r**2 + 1e-6 * np.nanvar(r))``, say.

    ``mu`` is the mean of h, ``phi`` its autoregression, ``sigma_volatility`` the standard deviation of one step's
    change. Evidence and forecasts are of y, not of the returns; for these take ``StochasticVolatility``. Equally spaced
    observations only.

    With ``leverage`` also ``rho``, the correlation of a return with the next change of h. Every row then has an input
    ``sign_before``, the sign of the return before: ``np.r_[0, np.sign(np.nan_to_num(r[:-1]))]``. It is 0 where that
    return is not known, at the first row, after a missing one, and in forecasts from the second step on.
    """
    total = sum(_P)
    weights = [p / total for p in _P]
    return Switching(
        [(_WithLeverage if leverage else _Component)(k) for k in range(len(_P))],
        initial=weights,
        transition=[weights] * len(_P),
        names=("mu", "phi", "sigma_volatility", *(("rho",) if leverage else ())),
        input_names=("sign_before",) if leverage else (),
        states=("log_variance", *(("return_size",) if leverage else ())),
        support=_stationary,
        default_prior=_prior_with_leverage if leverage else _prior,
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


class _WithLeverage(eqx.Module):
    """The same where the state has the size l of the return, too."""

    k: int

    def __call__(self, theta: Theta, step: Any) -> dict[str, Any]:
        mu, phi, sigma, rho = (theta[name] for name in ("mu", "phi", "sigma_volatility", "rho"))
        m, v2, sign = _MEAN[self.k], _VARIANCE[self.k], step.inputs[0]
        size = math.exp(m / 2 + v2 / 8)  # of a return, where log e² = m
        alone = jnp.sqrt(jnp.maximum(1 - (rho * sign) ** 2, 0.0))
        return {
            "m0": [mu, size],
            "chol_P0": [[sigma / jnp.sqrt(jnp.maximum(1 - phi * phi, 1e-12)), 0.0], [0.0, size * math.sqrt(v2) / 2]],
            "F": [[phi, sigma * rho * sign], [0.0, 0.0]],
            "c": [mu * (1 - phi), size],
            "chol_Q": [[sigma * alone, 0.0], [0.0, size * math.sqrt(v2) / 2]],
            "H": [[1.0, 2 / size]],
            "d": [m - 2.0],
            "chol_R": [[0.0]],
        }


def _stationary(theta: Theta) -> Bool[Array, ""]:
    inside = nonnegative(theta, ("sigma_volatility",)) & (jnp.abs(theta["phi"]) < 1)
    return inside & (jnp.abs(theta["rho"]) < 1) if "rho" in theta else inside


def _prior(scale: float) -> AbstractPrior:
    """Volatility that lasts and varies moderately; ``scale`` is of the logarithm already."""
    laws = {"mu": Normal(0.0, 5.0 * scale), "phi": Beta(20.0, 1.5), "sigma_volatility": HalfNormal(0.5)}
    return Independent(laws)


def _prior_with_leverage(scale: float) -> AbstractPrior:
    """Any leverage."""
    laws = {"mu": Normal(0.0, 5.0 * scale), "phi": Beta(20.0, 1.5), "sigma_volatility": HalfNormal(0.5)}
    return Independent(laws | {"rho": UniformStationary(1)})
