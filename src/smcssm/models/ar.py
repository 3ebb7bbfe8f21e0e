"""Stationary autoregression."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.core import Matrix, Observation, Theta
from smcssm.models.arguments import count
from smcssm.models.stationary import UniformStationary, chol_autocovariance, reflections
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import HalfNormal, Marginal


class AR(AbstractComponent):
    """u' = phi[0] u + phi[1] u_lag1 + ... + sigma_ar e, stationary from the first observation on.

    ``phi`` is a scalar for order 1 and a vector of ``order`` coefficients above, the nearest past first; ``sigma_ar``
    is the standard deviation of one step's innovation. Hyperparameters that are not stationary are outside the
    support: they truncate the prior. Equally spaced observations only.
    """

    order: int
    name: str | None

    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = False

    def __init__(self, order: int, name: str | None = None) -> None:
        self.order, self.name = count("AR(order)", order, 1), name

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Coefficients and the innovations' standard deviation."""
        return {"phi": () if self.order == 1 else (self.order,), "sigma_ar": ()}

    @property
    def states(self) -> tuple[str, ...]:
        """The process now and at the steps before."""
        return ("ar", *(f"ar_lag{k}" for k in range(1, self.order)))

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """The stationary law."""
        return [0.0] * self.order, chol_autocovariance(self._phi(theta), theta["sigma_ar"])

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """Companion form: one new value, the others shift."""
        shift = [[1.0 if j == i else 0.0 for j in range(self.order)] for i in range(self.order - 1)]
        return [self._phi(theta), *shift], [[theta["sigma_ar"]]] + [[0.0]] * (self.order - 1)

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The present value is observed."""
        return [1.0] + [0.0] * (self.order - 1)

    def support(self, theta: Theta) -> Bool[Array, ""] | bool:
        """Whether phi is stationary."""
        return reduce(operator.and_, [jnp.abs(r) < 1 for r in reflections(self._phi(theta))])

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """phi uniform on the stationary region, HalfNormal(scale) innovations."""
        return {"phi": UniformStationary(self.order), "sigma_ar": HalfNormal(scale)}

    def _phi(self, theta: Theta) -> list[Any]:
        return [theta["phi"]] if self.order == 1 else [theta["phi"][j] for j in range(self.order)]
