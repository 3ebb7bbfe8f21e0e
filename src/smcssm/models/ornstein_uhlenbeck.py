"""The Ornstein-Uhlenbeck process: noise that forgets exponentially, a continuous-time AR(1).

Uhlenbeck & Ornstein (1930), doi:10.1103/PhysRev.36.823. Over dt, exactly:

    x' = exp(-dt / timescale) x + sigma sqrt(1 - exp(-2 dt / timescale)) e

Parametrised by stationary standard deviation and time scale, not by rate and diffusion: both are in units of what is
observed, they are what one knows beforehand, and they stay nearly independent a posteriori where the rate and the
diffusion sqrt(2 rate) sigma, which only their ratio ties to the data, do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.core import Matrix, Observation, Theta
from smcssm.errors import ModelError
from smcssm.models.arguments import Numbers, deviations, numbers
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import HalfNormal, LogNormal, Marginal


class OrnsteinUhlenbeck(AbstractComponent):
    """dx = -x / timescale_ou dt + sigma_ou sqrt(2 / timescale_ou) dW: autocorrelation exp(-lag / timescale_ou), mean 0.

    ``sigma_ou`` is the standard deviation of the process itself, once stationary, and not of its changes;
    ``timescale_ou`` > 0 the time after which the autocorrelation is 1/e (the rate is 1 / timescale_ou, the half-life
    0.69 timescale_ou), in the unit of the observations' times. Sampled at dt = 1 it is an AR(1) with
    phi = exp(-1 / timescale_ou). Continuous time, exact for any dt. A Gaussian process with the exponential kernel
    (Matérn 1/2).

    Args:
        initial_mean: mean at the first observation, 0 by default; given with initial_sd.
        initial_sd: standard deviation at the first observation; by default the process is stationary.
        name: tells two components of this kind apart.
    """

    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...] | None
    name: str | None

    parameters: ClassVar[Mapping[str, tuple[int, ...]]] = {"sigma_ou": (), "timescale_ou": ()}
    states: ClassVar[tuple[str, ...]] = ("ou",)
    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = True

    def __init__(
        self, *, initial_mean: Numbers = 0.0, initial_sd: Numbers | None = None, name: str | None = None
    ) -> None:
        self.initial_mean = numbers("OrnsteinUhlenbeck(initial_mean)", initial_mean, 1)
        self.initial_sd = None if initial_sd is None else deviations("OrnsteinUhlenbeck(initial_sd)", initial_sd, 1)
        if initial_sd is None and self.initial_mean != (0.0,):
            raise ModelError(
                f"OrnsteinUhlenbeck(initial_mean={initial_mean!r}) needs initial_sd as well: without it the process "
                "starts stationary, with mean 0"
            )
        self.name = name

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """The stationary law, or the given one."""
        return self.initial_mean, [[theta["sigma_ou"]] if self.initial_sd is None else self.initial_sd]

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """Decay towards 0, and the variance that decay left room for."""
        decay = -obs.dt / theta["timescale_ou"]
        return [[jnp.exp(decay)]], [[theta["sigma_ou"] * root_of_lost(2 * decay)]]

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The process is observed."""
        return [1.0]

    def support(self, theta: Theta) -> Bool[Array, ""] | bool:
        """timescale_ou > 0."""
        return theta["timescale_ou"] > 0

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """HalfNormal(scale); a time scale of 10 units of time within a factor of 4.5 (LogNormal, sd 1.5)."""
        return {"sigma_ou": HalfNormal(scale), "timescale_ou": LogNormal(10.0, 1.5)}


def root_of_lost(log_kept: Array) -> Array:
    """sqrt(1 - exp(log_kept)) for log_kept <= 0, without cancellation; at 0 it is 0, with derivative 0."""
    lost = -jnp.expm1(log_kept)
    return jnp.where(lost > 0, jnp.sqrt(jnp.where(lost > 0, lost, 1.0)), 0.0)
