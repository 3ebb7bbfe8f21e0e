"""Stochastic cycles: a damped rotation, disturbed by noise.

Harvey (1989), Forecasting, Structural Time Series Models and the Kalman Filter, section 2.3.3; Durbin & Koopman (2012),
section 3.2.4. In continuous time (Harvey 1989, section 9.2.3) rotation and noise, both isotropic, commute, so that
over any dt, with c and c* the cycle and its auxiliary:

    (c, c*)' = rho^dt R(2 pi dt / period) (c, c*) + sigma sqrt((1 - rho^(2 dt)) / (1 - rho²)) (e1, e2)

which at dt = 1 is the textbook's model with innovations of standard deviation sigma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.core import Matrix, Observation, Theta
from smcssm.errors import ModelError
from smcssm.models.arguments import Numbers, deviations, diagonal, numbers
from smcssm.models.ornstein_uhlenbeck import root_of_lost
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import Beta, HalfNormal, LogNormal, Marginal


class Cycle(AbstractComponent):
    """A swing of about ``period_cycle``, which dies out by ``rho_cycle`` while noise feeds it; exact for any dt.

    ``period_cycle`` > 0 is the time of a full turn (the frequency is 2 pi / period_cycle), in the unit of the
    observations' times: with equally spaced observations give its prior no room below two steps, where a faster cycle
    cannot be told from a slower one. ``rho_cycle`` in (0, 1) is the share of the amplitude left after one unit of
    time; ``sigma_cycle`` the standard deviation of what is added to each of the two states over one unit of time. The
    state cycle is observed; cycle_star is the same a quarter of a turn ahead.

    Args:
        period: the time of a full turn, where it is known: then it is no hyperparameter.
        damped: whether rho_cycle is a hyperparameter; otherwise it is 1.
        stochastic: whether there is noise; otherwise the cycle is a function of its start.
        initial_mean: of cycle and cycle_star at the first observation, 0 by default.
        initial_sd: their standard deviations, independent. By default the stationary one,
            sigma_cycle / sqrt(1 - rho_cycle²), where there is one (damped and stochastic), otherwise 1.
        name: tells two cycles apart.
    """

    period: float | None
    damped: bool
    stochastic: bool
    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...] | None
    name: str | None

    states: ClassVar[tuple[str, ...]] = ("cycle", "cycle_star")
    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = True

    def __init__(
        self,
        period: Numbers | None = None,
        *,
        damped: bool = True,
        stochastic: bool = True,
        initial_mean: Numbers = 0.0,
        initial_sd: Numbers | None = None,
        name: str | None = None,
    ) -> None:
        self.period = None if period is None else numbers("Cycle(period)", period, 1)[0]
        if self.period is not None and self.period <= 0:
            raise ModelError(f"Cycle(period): expected the time of a full turn, a positive number, got {period!r}")
        self.damped, self.stochastic, self.name = bool(damped), bool(stochastic), name
        given = 1.0 if initial_sd is None and not (damped and stochastic) else initial_sd
        self.initial_mean = numbers("Cycle(initial_mean)", initial_mean, 2)
        self.initial_sd = None if given is None else deviations("Cycle(initial_sd)", given, 2)
        if given is None and any(self.initial_mean):
            raise ModelError(
                f"Cycle(initial_mean={initial_mean!r}) needs initial_sd as well: without it a damped stochastic cycle "
                "starts stationary, with mean 0"
            )

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """What is not known."""
        chosen = {
            "period_cycle": self.period is None,
            "rho_cycle": self.damped,
            "sigma_cycle": self.stochastic,
        }
        return {p: () for p, unknown in chosen.items() if unknown}

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """The stationary law, or the given one."""
        if self.initial_sd is not None:
            return self.initial_mean, diagonal(self.initial_sd)
        return self.initial_mean, diagonal([theta["sigma_cycle"] / root_of_lost(2 * jnp.log(theta["rho_cycle"]))] * 2)

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """A damped rotation; isotropic noise."""
        period = theta["period_cycle"] if self.period is None else self.period
        angle = 2 * math.pi * (jnp.fmod(obs.dt, period) / period)  # a remainder is exact, however many turns
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        if self.damped:
            kept = theta["rho_cycle"] ** obs.dt
            cos, sin = kept * cos, kept * sin
        return [[cos, sin], [-sin, cos]], self._noise(theta, obs) if self.stochastic else [[], []]

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The cycle is observed."""
        return [1.0, 0.0]

    def support(self, theta: Theta) -> Bool[Array, ""] | bool:
        """period_cycle > 0 and 0 < rho_cycle < 1."""
        turns = theta["period_cycle"] > 0 if self.period is None else jnp.asarray(True)
        return turns & (theta["rho_cycle"] > 0) & (theta["rho_cycle"] < 1) if self.damped else turns

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """A period of 10 units of time within a factor of 2.7 (LogNormal, sd 1); Beta(8, 2); a tenth of the scale."""
        laws: dict[str, Marginal] = {
            "period_cycle": LogNormal(10.0, 1.0),
            "rho_cycle": Beta(8.0, 2.0),
            "sigma_cycle": HalfNormal(0.1 * scale),
        }
        return {p: laws[p] for p in self.parameters}

    def _noise(self, theta: Theta, obs: Observation) -> list[list[Any]]:
        if not self.damped:
            return diagonal([theta["sigma_cycle"] * jnp.sqrt(obs.dt)] * 2)
        log_kept = 2 * jnp.log(theta["rho_cycle"])
        return diagonal([theta["sigma_cycle"] * (root_of_lost(log_kept * obs.dt) / root_of_lost(log_kept))] * 2)
