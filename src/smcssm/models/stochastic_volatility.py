"""Stochastic volatility, with or without leverage.

Taylor (1982); leverage as in Harvey & Shephard (1996, doi:10.1080/07350015.1996.10524672) and Omori, Chib, Shephard &
Nakajima (2007, doi:10.1016/j.jeconom.2006.07.008):

    y_t = exp(h_t / 2) e_t
    h_t = mu + phi (h_{t-1} - mu) + sigma_volatility (rho e_{t-1} + sqrt(1 - rho²) u_t),      e, u ~ N(0, 1)

A fall today (e_t < 0) raises the volatility of tomorrow where rho < 0, and y stays a martingale difference.
"""

from __future__ import annotations

import math
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from smcssm.core import AbstractNonlinear, AbstractPrior, Observation, Theta
from smcssm.gaussian import normal, normal_cdf
from smcssm.models.stationary import UniformStationary
from smcssm.models.structural import nonnegative
from smcssm.priors.base import Beta, HalfNormal, Independent, Normal


class StochasticVolatility(AbstractNonlinear):
    """Returns y of mean zero, whose log variance h is a stationary autoregression.

    ``mu`` is the mean of h, ``phi`` its autoregression, ``sigma_volatility`` the standard deviation of one step's
    change; ``rho``, with ``leverage``, the correlation of today's return with tomorrow's change of h. The state
    ``return`` is then the standardised return e_t. Equally spaced observations only.
    """

    leverage: bool = False

    channel_names: ClassVar[tuple[str, ...]] = ("y",)
    input_names: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = False
    guided: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """``rho`` only with leverage."""
        return ("mu", "phi", "sigma_volatility", *(("rho",) if self.leverage else ()))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Scalars."""
        return ((),) * len(self.names)

    @property
    def state_names(self) -> tuple[str, ...]:
        """h, and e with leverage."""
        return ("log_variance", *(("return",) if self.leverage else ()))

    def params(self, theta: Theta) -> dict[str, Array]:
        """The hyperparameters themselves."""
        return {name: jnp.asarray(theta[name]) for name in self.names}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Where h is stationary."""
        inside = nonnegative(theta, ("sigma_volatility",)) & (jnp.abs(theta["phi"]) < 1)
        return inside & (jnp.abs(theta["rho"]) < 1) if self.leverage else inside

    def default_prior(self, scale: float) -> AbstractPrior:
        """Returns of a size of about ``scale``, volatility that lasts and varies moderately, any leverage."""
        laws = {"mu": Normal(2 * math.log(scale), 2.0), "phi": Beta(20.0, 1.5), "sigma_volatility": HalfNormal(0.5)}
        return Independent(laws | ({"rho": UniformStationary(1)} if self.leverage else {}))

    def sample_initial(self, key: Array, params: Theta, obs: Observation, n_inner: int) -> Float[Array, "x m s n"]:
        """The stationary law."""
        mu, phi, sigma = (params[name] for name in self.names[:3])
        e = normal(key, jnp.zeros((len(self.state_names), n_inner, *mu.shape[-2:]), mu.dtype))
        return e.at[0].set(mu + sigma / jnp.sqrt((1 - phi) * (1 + phi)) * e[0])

    def sample_transition(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "x m s n"]:
        """One step, whatever dt."""
        mu, phi, sigma = (params[name] for name in self.names[:3])
        h, e = x[0], normal(key, x)
        if not self.leverage:
            return (mu + phi * (h - mu) + sigma * e[0])[None]
        rho = params["rho"]
        change = rho * x[1] + jnp.sqrt((1 - rho) * (1 + rho)) * e[0]
        return jnp.stack([mu + phi * (h - mu) + sigma * change, e[1]])

    def log_observation(self, params: Theta, x: Float[Array, "x m s n"], obs: Observation) -> Float[Array, "m s n"]:
        """y ~ N(0, exp(h))."""
        h, y = x[0], obs.y[0]
        density = -0.5 * (math.log(2 * math.pi) + h + y * y * jnp.exp(-h))
        return jnp.where(obs.mask[0], density, 0.0)

    def settle(self, params: Theta, x: Float[Array, "x m s n"], obs: Observation) -> Float[Array, "x m s n"]:
        """E is known once y is."""
        if not self.leverage:
            return x
        return x.at[1].set(jnp.where(obs.mask[0], obs.y[0] * jnp.exp(-0.5 * x[0]), x[1]))

    def sample_observation(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "y m s n"]:
        """The return that goes with the state's e."""
        e = x[1:] if self.leverage else normal(key, x)
        return jnp.exp(0.5 * x[:1]) * e

    def predictive(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> tuple[Array, Array, Array, Array]:
        """N(0, exp(h))."""
        sd = jnp.exp(0.5 * x[:1])
        below = normal_cdf(obs.y / sd)
        return jnp.zeros_like(sd), sd, below, below
