"""The random-walk level (Durbin & Koopman 2012, Time Series Analysis by State Space Methods, equation 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp

from smcssm.core import Matrix, Observation, Theta
from smcssm.models.arguments import Numbers, deviations, numbers
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import HalfNormal, Marginal


class Level(AbstractComponent):
    """level' = level + sigma_level sqrt(dt) e: Brownian motion, exact for any dt.

    ``sigma_level`` is a standard deviation per square root of a unit of time: the sd of the change over dt = 1.
    The level at the first observation is N(initial_mean, initial_sd²).
    """

    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]
    name: str | None

    parameters: ClassVar[Mapping[str, tuple[int, ...]]] = {"sigma_level": ()}
    states: ClassVar[tuple[str, ...]] = ("level",)
    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = True

    def __init__(self, initial_mean: Numbers = 0.0, initial_sd: Numbers = 1.0, name: str | None = None) -> None:
        self.initial_mean = numbers("Level(initial_mean)", initial_mean, 1)
        self.initial_sd = deviations("Level(initial_sd)", initial_sd, 1)
        self.name = name

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """N(initial_mean, initial_sd²)."""
        return self.initial_mean, [self.initial_sd]

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """A random walk."""
        return [[1.0]], [[theta["sigma_level"] * jnp.sqrt(obs.dt)]]

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The level is observed."""
        return [1.0]

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """HalfNormal(scale)."""
        return {"sigma_level": HalfNormal(scale)}
