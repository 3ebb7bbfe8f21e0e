"""Brownian motion and its integrals: white noise integrated n times, exact for any dt.

Särkkä & Solin (2019), Applied Stochastic Differential Equations, chapter 6, doi:10.1017/9781108186735; as the state
space form of smoothing splines: Wahba (1978), doi:10.1111/j.2517-6161.1978.tb01050.x.

Over h = dt the derivative of order n - 1 - p (p = 0, ..., n - 1) collects sigma int_0^h s^p / p! dW(s). In the shifted
Legendre polynomials, orthonormal on (0, h), the integrand s^p / p! has the coefficients

    h^(p + 1/2) p! sqrt(2k + 1) / ((p - k)! (p + k + 1)!)        k = 0, ..., p

which are the rows of a square root of the process noise: products of positive numbers, no sum and hence no
cancellation, at any h.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from smcssm.core import Matrix, Observation, Theta
from smcssm.linalg.entries import multiply
from smcssm.models.arguments import Numbers, count, deviations, diagonal, numbers
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import HalfNormal, Marginal


class IntegratedWiener(AbstractComponent):
    """White noise integrated ``order`` times: Brownian motion (1), its integral (2), the integral of that (3).

    d(wiener) = wiener_d1 dt, ..., d(last) = sigma_wiener dW. ``sigma_wiener`` is the standard deviation of the change
    of the last derivative over one unit of time: units of the observation / time^(order - 1/2). The posterior mean of
    a noisy series is a smoothing spline: cubic for order 2. Continuous time, exact for any dt.

    Args:
        order: how often white noise is integrated, and the number of states; 1 is ``Level``, 2 a smooth trend.
        initial_mean: of the process and its derivatives at the first observation, one number or ``order`` of them.
        initial_sd: their standard deviations, independent.
        name: tells two components of this kind apart.
    """

    order: int
    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]
    name: str | None

    parameters: ClassVar[Mapping[str, tuple[int, ...]]] = {"sigma_wiener": ()}
    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = True

    def __init__(
        self, order: int = 2, *, initial_mean: Numbers = 0.0, initial_sd: Numbers = 1.0, name: str | None = None
    ) -> None:
        self.order, self.name = count("IntegratedWiener(order)", order, 1), name
        self.initial_mean = numbers("IntegratedWiener(initial_mean)", initial_mean, self.order)
        self.initial_sd = deviations("IntegratedWiener(initial_sd)", initial_sd, self.order)

    @property
    def states(self) -> tuple[str, ...]:
        """The process and its derivatives."""
        return ("wiener", *(f"wiener_d{k}" for k in range(1, self.order)))

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """Independent derivatives."""
        return self.initial_mean, diagonal(self.initial_sd)

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """A Taylor polynomial, and the noise that was integrated."""
        noise = integrated_noise(self.order, obs.dt)
        return taylor(self.order, obs.dt), [[multiply(theta["sigma_wiener"], e) for e in row] for row in noise]

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The process itself is observed."""
        return [1.0] + [0.0] * (self.order - 1)

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """HalfNormal(scale / 10^(order - 1)): slopes are taken to be a tenth of the scale per unit of time."""
        return {"sigma_wiener": HalfNormal(scale * 0.1 ** (self.order - 1))}


def taylor(n: int, dt: Any) -> list[list[Any]]:
    """dt^(j - i) / (j - i)!: from a function and its n - 1 derivatives to those dt later."""
    return [[0.0] * i + [1.0] + [dt**k * (1 / math.factorial(k)) for k in range(1, n - i)] for i in range(n)]


def integrated_noise(n: int, dt: Any) -> list[list[Any]]:
    """A square root, triangular from the last row up, of the covariance that unit white noise gives n integrals."""
    root = jnp.sqrt(dt)
    return [[root * dt**p * _legendre(p, k) for k in range(p + 1)] + [0.0] * (n - 1 - p) for p in range(n - 1, -1, -1)]


def _legendre(p: int, k: int) -> float:
    return math.factorial(p) * math.sqrt(2 * k + 1) / (math.factorial(p - k) * math.factorial(p + k + 1))
