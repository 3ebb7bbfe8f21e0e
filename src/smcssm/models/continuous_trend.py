"""Level and slope in continuous time: the local linear trend for irregular observations.

Harvey (1989), Forecasting, Structural Time Series Models and the Kalman Filter, section 9.2.2. Over dt the noise of
(level, slope) has the covariance

    sigma_level² [[dt, 0], [0, 0]] + sigma_trend² [[dt³/3, dt²/2], [dt²/2, dt]]

whose square root, triangular from the slope up, is sqrt(dt) [[sigma_trend dt/2, r], [sigma_trend, 0]] with
r² = sigma_level² + sigma_trend² dt²/12: a sum of what is positive, so exact at any dt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from smcssm.core import Matrix, Observation, Theta
from smcssm.models.arguments import Numbers, deviations, diagonal, level_and_slope, numbers
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import HalfNormal, Marginal


class ContinuousTrend(AbstractComponent):
    """d(level) = slope dt + sigma_level dW1,  d(slope) = sigma_trend dW2: exact for any dt.

    ``sigma_level`` is the standard deviation of the change of the level over one unit of time for a slope that is
    known; ``sigma_trend`` that of the change of the slope (units of the observation / time^(3/2)). Either may be 0.
    At dt = 1 the level's noise has the variance sigma_level² + sigma_trend² / 3 and is correlated with the slope's:
    not quite ``Trend``, the textbook model of equally spaced observations, where they are independent.
    (level, slope) at the first observation is N(initial_mean, diag(initial_sd²)).
    """

    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]
    name: str | None

    parameters: ClassVar[Mapping[str, tuple[int, ...]]] = {"sigma_level": (), "sigma_trend": ()}
    states: ClassVar[tuple[str, ...]] = ("level", "slope")
    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = True

    def __init__(
        self, *, initial_mean: Numbers = (0.0, 0.0), initial_sd: Numbers = (1.0, 1.0), name: str | None = None
    ) -> None:
        level_and_slope("ContinuousTrend", initial_mean=initial_mean, initial_sd=initial_sd)
        self.initial_mean = numbers("ContinuousTrend(initial_mean)", initial_mean, 2)
        self.initial_sd = deviations("ContinuousTrend(initial_sd)", initial_sd, 2)
        self.name = name

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """Independent level and slope."""
        return self.initial_mean, diagonal(self.initial_sd)

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """The level moves by the slope; the slope's noise moves both."""
        root, moved = jnp.sqrt(obs.dt), theta["sigma_trend"] * obs.dt
        level = root * _hypotenuse(theta["sigma_level"], moved * 12**-0.5)
        return [[1.0, obs.dt], [0.0, 1.0]], [[root * moved * 0.5, level], [root * theta["sigma_trend"], 0.0]]

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The level is observed."""
        return [1.0, 0.0]

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """HalfNormal(scale) for the level, a tenth of it for the slope."""
        return {"sigma_level": HalfNormal(scale), "sigma_trend": HalfNormal(0.1 * scale)}


def _hypotenuse(a: Any, b: Any) -> Any:
    """sqrt(a² + b²) for a, b >= 0; where that is 0, with the derivatives of a + b instead of NaN."""
    square = a * a + b * b
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), a + b)
