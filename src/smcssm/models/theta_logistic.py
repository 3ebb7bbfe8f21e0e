"""Theta-logistic population growth, observed with noise.

Gilpin & Ayala (1973, doi:10.1073/pnas.70.12.3590); as a state-space model Peters, Hosack & Hayes (2010), Ecological
non-linear state space model selection via adaptive particle Markov chain Monte Carlo, arXiv 1005.2238:

    x_t = x_{t-1} + growth (1 - (exp(x_{t-1}) / capacity)^shape) + sigma_process e,      x the log of the population
    y_t = x_t + sigma_obs n

The noise of the dynamics is additive and y is linear in x, so that p(x_t | x_{t-1}, y_t) and p(y_t | x_{t-1}) are
Gaussian: the first is the proposal and the second the look-ahead, both exact.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float

from smcssm.core import AbstractNonlinear, AbstractPrior, Observation, Theta
from smcssm.gaussian import normal, normal_cdf
from smcssm.models.arguments import Numbers, deviations, numbers
from smcssm.models.structural import noise_sd, nonnegative
from smcssm.priors.base import HalfNormal, Independent, LogNormal


class ThetaLogistic(AbstractNonlinear):
    """Log population sizes y; ``shape`` 1 is the Ricker model. Equally spaced observations only.

    Args:
        initial_mean: of the log population at the first observation.
        initial_sd: its standard deviation.
    """

    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]

    names: ClassVar[tuple[str, ...]] = ("growth", "capacity", "shape", "sigma_process", "sigma_obs")
    shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((),) * 5
    state_names: ClassVar[tuple[str, ...]] = ("log_population",)
    channel_names: ClassVar[tuple[str, ...]] = ("y",)
    input_names: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = False
    guided: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = True

    def __init__(self, initial_mean: Numbers = 0.0, initial_sd: Numbers = 1.0) -> None:
        self.initial_mean = numbers("ThetaLogistic(initial_mean)", initial_mean, 1)
        self.initial_sd = deviations("ThetaLogistic(initial_sd)", initial_sd, 1)

    def params(self, theta: Theta) -> dict[str, Array]:
        """The hyperparameters themselves."""
        return {name: jnp.asarray(theta[name]) for name in self.names}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Where capacity and standard deviations are positive."""
        return nonnegative(theta, self.names[3:]) & (theta["capacity"] > 0) & (theta["sigma_obs"] > 0)

    def default_prior(self, scale: float) -> AbstractPrior:
        """Populations of any size, that vary by about ``scale`` on the log scale."""
        laws = {"growth": HalfNormal(1.0), "capacity": LogNormal(1.0, 5.0), "shape": LogNormal(1.0, 1.0)}
        return Independent(laws | {"sigma_process": HalfNormal(scale), "sigma_obs": HalfNormal(scale)})

    def sample_initial(self, key: Array, params: Theta, obs: Observation, n_inner: int) -> Float[Array, "x m s n"]:
        """N(initial_mean, initial_sd²)."""
        e = normal(key, jnp.zeros((1, n_inner, *params["growth"].shape[-2:]), obs.y.dtype))
        return self.initial_mean[0] + self.initial_sd[0] * e

    def sample_transition(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "x m s n"]:
        """One step, whatever dt."""
        return _expected(params, x) + params["sigma_process"][None] * normal(key, x)

    def log_observation(self, params: Theta, x: Float[Array, "x m s n"], obs: Observation) -> Float[Array, "m s n"]:
        """y ~ N(x, sigma_obs²)."""
        return jnp.where(obs.mask[0], norm.logpdf(obs.y[0], x[0], _sd(params, obs)), 0.0)

    def sample_observation(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "y m s n"]:
        """N(x, sigma_obs²)."""
        return x + _sd(params, obs)[None] * normal(key, x)

    def predictive(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> tuple[Array, Array, Array, Array]:
        """N(x, sigma_obs²)."""
        sd = jnp.broadcast_to(_sd(params, obs)[None], x.shape)
        below = normal_cdf((obs.y - x) / sd)
        return x, sd, below, below

    def propose(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> tuple[Float[Array, "x m s n"], Float[Array, "m s n"]]:
        """x_t given x_{t-1} and y_t."""
        mean, Q, R = _expected(params, x), params["sigma_process"] ** 2, _sd(params, obs) ** 2
        gain = Q / (Q + R)
        centre, sd, e = mean[0] + gain * (obs.y[0] - mean[0]), jnp.sqrt(gain * R), normal(key, x)[0]
        new = centre + sd * e
        # f / q = N(y; mean, Q + R) / N(y; new, R): finite where sigma_process is 0, and cheaper than the densities
        log_ratio = norm.logpdf(obs.y[0], mean[0], jnp.sqrt(Q + R)) - norm.logpdf(obs.y[0], new, jnp.sqrt(R))
        return new[None], log_ratio

    def look_ahead(self, params: Theta, x: Float[Array, "x m s n"], obs: Observation) -> Float[Array, "m s n"]:
        """log p(y_t | x_{t-1})."""
        sd = jnp.sqrt(params["sigma_process"] ** 2 + _sd(params, obs) ** 2)
        return norm.logpdf(obs.y[0], _expected(params, x)[0], sd)


def _expected(params: Theta, x: Float[Array, "x m s n"]) -> Float[Array, "x m s n"]:
    crowding = jnp.exp(params["shape"] * (x[0] - jnp.log(params["capacity"])))
    return (x[0] + params["growth"] * (1 - crowding))[None]


def _sd(params: Theta, obs: Observation) -> Any:
    return noise_sd(params["sigma_obs"], obs, 0)
