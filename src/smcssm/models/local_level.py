"""The two models everybody starts with, by their textbook names."""

from __future__ import annotations

from smcssm.models.arguments import Numbers
from smcssm.models.level import Level
from smcssm.models.structural import Noise, Structural
from smcssm.models.trend import Trend


def LocalLevel(initial_mean: Numbers = 0.0, initial_sd: Numbers = 1.0) -> Structural:
    """A random walk observed with noise: ``Level() + Noise()``; hyperparameters ``sigma_level`` and ``sigma_obs``."""
    return Level(initial_mean, initial_sd) + Noise()


def LocalLinearTrend(
    damped: bool = False, *, initial_mean: Numbers = (0.0, 0.0), initial_sd: Numbers = (1.0, 1.0)
) -> Structural:
    """Level and slope, observed with noise: ``Trend(damped) + Noise()``.

    Hyperparameters ``sigma_level``, ``sigma_trend``, ``sigma_obs``, and ``phi_trend`` where damped. For irregular times
    take ``ContinuousTrend() + Noise()``.
    """
    return Trend(damped, initial_mean=initial_mean, initial_sd=initial_sd) + Noise()
