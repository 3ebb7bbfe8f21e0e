"""ARMA and seasonal ARIMA processes.

Box & Jenkins (1970), Time Series Analysis, Forecasting and Control. In state space: Harvey's form (``arma``) of the
whole process, differences included. The observations have the law, and the initial law the parameters, of statsmodels'
SARIMAX with simple_differencing=False (Durbin & Koopman 2012, section 3.4), which keeps the differences as further
states: 27 for the airline model, (0, 1, 1)(0, 1, 1, 12), where Harvey's form has 14.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from smcssm.core import Matrix, Observation, Theta
from smcssm.errors import ModelError
from smcssm.linalg.dense import triangularise_dense
from smcssm.linalg.entries import dot, multiply, stack
from smcssm.models.arguments import Numbers, count, deviations, numbers
from smcssm.models.arma import Polynomial, harvey, lag_polynomial, product, stationary_factor
from smcssm.models.stationary import UniformInvertible, UniformStationary, reflections
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import HalfNormal, Marginal


def ARMA(p: int, q: int, name: str | None = None) -> SARIMA:
    """u = phi[0] u_lag1 + ... + phi[p-1] u_lagp + e + theta[0] e_lag1 + ... + theta[q-1] e_lagq: ``SARIMA((p, 0, q))``.

    Stationary and invertible, mean 0, in Harvey's form; hyperparameters ``phi``, ``theta`` and ``sigma_arma``.
    """
    return SARIMA((p, 0, q), name=name)


class SARIMA(AbstractComponent):
    """phi(B) seasonal_phi(B^s) (1 - B)^d (1 - B^s)^D y = theta(B) seasonal_theta(B^s) e, with e ~ N(0, sigma_arma²).

    phi(B) = 1 - phi[0] B - ..., theta(B) = 1 + theta[0] B + ...; ``phi``, ``theta``, ``seasonal_phi`` and
    ``seasonal_theta`` are scalars for order 1 and vectors above, and absent for order 0; ``sigma_arma`` is the standard
    deviation of one step's innovation. What is not stationary or not invertible is outside the support: it truncates
    the prior. (A moving average that is not invertible has the law of one that is, with another sigma_arma.)

    The state arma is the process itself. Its d and D times differenced series is stationary from the first observation
    on. What that is summed up from are proper beliefs, d + s D independent N(initial_mean, initial_sd²), in this order:
    the value one step before the first observation and its differences of order 1 to d - 1; of the d times differenced
    series, the values 1 to s steps before; and, where D > 1, of that series' seasonal differences likewise. Equally
    spaced observations only.

    Regression with SARIMA errors is the sum ``SARIMA(...) + Regression(2)``; ``SARIMA(...) + Noise()`` is measured with
    error.

    Args:
        order: p, d, q: numbers of phi, of differences, and of theta.
        seasonal_order: P, D, Q and the steps s in a season.
        initial_mean: of what came before the first observation, one number or d + s D of them.
        initial_sd: their standard deviations.
        name: tells two components of this kind apart.
    """

    order: tuple[int, int, int]
    seasonal_order: tuple[int, int, int, int]
    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]
    name: str | None

    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = False

    def __init__(
        self,
        order: Sequence[int] = (1, 0, 0),
        seasonal_order: Sequence[int] = (0, 0, 0, 0),
        *,
        initial_mean: Numbers = 0.0,
        initial_sd: Numbers = 1.0,
        name: str | None = None,
    ) -> None:
        p, d, q = _orders("SARIMA(order)", order, "(p, d, q)")
        P, D, Q, s = _orders("SARIMA(seasonal_order)", seasonal_order, "(P, D, Q, s)")
        if P + D + Q > 0:
            count("SARIMA(seasonal_order): steps in a season", s, 2)
        if d + s * D == 0 and (initial_mean, initial_sd) != (0.0, 1.0):
            raise ModelError(
                f"SARIMA(initial_mean={initial_mean!r}, initial_sd={initial_sd!r}): without differences (d = D = 0) "
                "the process starts stationary, with mean 0; for another mean add a Regression on ones or a Level"
            )
        self.order, self.seasonal_order, self.name = (p, d, q), (P, D, Q, s), name
        self.initial_mean = numbers("SARIMA(initial_mean)", initial_mean, d + s * D)
        self.initial_sd = deviations("SARIMA(initial_sd)", initial_sd, d + s * D)

    @property
    def _laws(self) -> dict[str, Marginal]:
        (p, _, q), (P, _, Q, _) = self.order, self.seasonal_order
        laws = {
            "phi": UniformStationary(p),
            "theta": UniformInvertible(q),
            "seasonal_phi": UniformStationary(P),
            "seasonal_theta": UniformInvertible(Q),
        }
        return {name: law for name, law in laws.items() if law.order > 0}

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Coefficients and the innovations' standard deviation."""
        return {name: law.shape for name, law in self._laws.items()} | {"sigma_arma": ()}

    @property
    def states(self) -> tuple[str, ...]:
        """Harvey's: the process itself, then what is known of its next values."""
        (p, d, q), (P, D, Q, s) = self.order, self.seasonal_order
        return ("arma", *(f"arma_{k}" for k in range(2, max(p + d + s * (P + D), q + s * Q + 1) + 1)))

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """The stationary law of the differenced process, and what the values before the first observation add."""
        c, a = self._polynomials(theta)
        r, sigma = len(self.states), jnp.asarray(theta["sigma_arma"])
        past = [[g[i] if i < len(g) else 0.0 for i in range(r)] for g in (product(c, g) for g in self._past())]
        stationary = stationary_factor(c, a, sigma)
        factor = jnp.pad(stationary, [(0, r - len(stationary)), *[(0, 0)] * (stationary.ndim - 1)])
        if past:
            scaled = [[multiply(e, sd) for e in g] for g, sd in zip(past, self.initial_sd, strict=True)]
            factor = jnp.concatenate([factor, jnp.swapaxes(stack(scaled, sigma), 0, 1)], axis=1)
        mean = [dot([g[i] for g in past], self.initial_mean) for i in range(r)]
        return mean, [list(jnp.unstack(row)) for row in triangularise_dense(factor)]

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """Harvey's form, the differences among the autoregressive factors."""
        c, a = self._polynomials(theta)
        return harvey(product(self._differences(), c), a, theta["sigma_arma"])

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The process itself is observed."""
        return [1.0] + [0.0] * (len(self.states) - 1)

    def support(self, theta: Theta) -> Bool[Array, ""] | bool:
        """Whether all four polynomials have their roots outside the unit circle."""
        signs = [(name, -1.0 if "theta" in name else 1.0) for name in self._laws]
        found = [r for name, sign in signs for r in reflections([sign * e for e in self._coefficients(theta, name)])]
        return reduce(operator.and_, [jnp.abs(r) < 1 for r in found], jnp.asarray(True))

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """Coefficients uniform on the stationary and on the invertible region, HalfNormal(scale) innovations."""
        return self._laws | {"sigma_arma": HalfNormal(scale)}

    def _differences(self) -> Polynomial:
        """delta(B) = (1 - B)^d (1 - B^s)^D: whole numbers."""
        d, (_, D, _, s) = self.order[1], self.seasonal_order
        return reduce(product, [[1.0, -1.0]] * d + [lag_polynomial([1.0], -1.0, s)] * D, [1.0])

    def _past(self) -> list[list[float]]:
        """delta f for each value before the first observation: f_0, f_1, ... is what follows from it being 1."""
        d, (_, D, _, s) = self.order[1], self.seasonal_order
        n, delta = d + s * D, self._differences()
        summed = np.array([1.0] * d + ([0.0] * (s - 1) + [1.0]) * D)
        move = np.zeros((n, n))
        for first in [*range(d), *range(d, n, s)] if D else range(d):
            move[first, first:] = summed[first:]
        for lag in range(d, n):
            if (lag - d) % s:
                move[lag, lag - 1] = 1.0
        f = [summed @ np.linalg.matrix_power(move, h) for h in range(n)]
        return [product(delta, [float(row[j]) for row in f])[:n] for j in range(n)]

    def _polynomials(self, theta: Theta) -> tuple[Polynomial, Polynomial]:
        s = max(1, self.seasonal_order[3])
        phi, theta_, seasonal_phi, seasonal_theta = (
            self._coefficients(theta, name) for name in ("phi", "theta", "seasonal_phi", "seasonal_theta")
        )
        return (
            product(lag_polynomial(phi, -1.0), lag_polynomial(seasonal_phi, -1.0, s)),
            product(lag_polynomial(theta_, 1.0), lag_polynomial(seasonal_theta, 1.0, s)),
        )

    def _coefficients(self, theta: Theta, name: str) -> list[Any]:
        law = self._laws.get(name)
        if law is None:
            return []
        return [theta[name][j] for j in range(law.shape[0])] if law.shape else [theta[name]]


def _orders(what: str, given: Sequence[int], expected: str) -> tuple[int, ...]:
    names = expected.strip("()").split(", ")
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != len(names):
        raise ModelError(f"{what}: expected {expected}, got {given!r}")
    return tuple(count(f"{what}: {name}", value, 0) for name, value in zip(names, given, strict=True))
