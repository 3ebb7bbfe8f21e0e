"""Level and slope: the local linear trend, plain or damped.

Harvey (1989), Forecasting, Structural Time Series Models and the Kalman Filter, sections 2.3.2 and 2.3.6 (damped).

It is a model of equally spaced observations. Level and slope noise independent over one step, as in every textbook,
come from sampling a continuous-time model only where sigma_level² >= sigma_trend² / 12: integrated Brownian motion
alone gives the level a variance of sigma_trend² / 3 over one step, correlated with the slope's. For irregular times:
``ContinuousTrend``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Array, Bool

from smcssm.core import Matrix, Observation, Theta
from smcssm.models.arguments import Numbers, deviations, diagonal, level_and_slope, numbers
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import Beta, HalfNormal, Marginal


class Trend(AbstractComponent):
    """level' = level + slope + sigma_level e1,  slope' = phi_trend slope + sigma_trend e2  (phi_trend = 1 undamped).

    ``sigma_level`` and ``sigma_trend`` are standard deviations per step; ``phi_trend`` in (0, 1), only where damped,
    is the share of the slope that is left after one step. (level, slope) at the first observation is
    N(initial_mean, diag(initial_sd²)).
    """

    damped: bool
    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]
    name: str | None

    states: ClassVar[tuple[str, ...]] = ("level", "slope")
    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = False

    def __init__(
        self,
        damped: bool = False,
        *,
        initial_mean: Numbers = (0.0, 0.0),
        initial_sd: Numbers = (1.0, 1.0),
        name: str | None = None,
    ) -> None:
        level_and_slope("Trend", initial_mean=initial_mean, initial_sd=initial_sd)
        self.damped = bool(damped)
        self.initial_mean = numbers("Trend(initial_mean)", initial_mean, 2)
        self.initial_sd = deviations("Trend(initial_sd)", initial_sd, 2)
        self.name = name

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Two standard deviations, and the damping."""
        return {"sigma_level": (), "sigma_trend": ()} | ({"phi_trend": ()} if self.damped else {})

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """Independent level and slope."""
        return self.initial_mean, diagonal(self.initial_sd)

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """One step: the level moves by the slope."""
        phi = theta["phi_trend"] if self.damped else 1.0
        return [[1.0, 1.0], [0.0, phi]], diagonal([theta["sigma_level"], theta["sigma_trend"]])

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The level is observed."""
        return [1.0, 0.0]

    def support(self, theta: Theta) -> Bool[Array, ""] | bool:
        """0 < phi_trend < 1."""
        return (theta["phi_trend"] > 0) & (theta["phi_trend"] < 1) if self.damped else True

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """HalfNormal(scale) for the level, a tenth of it for the slope; Beta(8, 2) for the damping."""
        laws: dict[str, Marginal] = {"sigma_level": HalfNormal(scale), "sigma_trend": HalfNormal(0.1 * scale)}
        return laws | ({"phi_trend": Beta(8.0, 2.0)} if self.damped else {})
