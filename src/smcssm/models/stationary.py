"""Stationary autoregressions through their reflection coefficients (partial autocorrelations) r_1, ..., r_p.

Levinson-Durbin: a(k, j) are the coefficients of the best predictor from k past values, a(p, .) = phi:

    up      a(k, j) = a(k-1, j) - r_k a(k-1, k-j),  a(k, k) = r_k
    down    r_k = a(k, k),  a(k-1, j) = (a(k, j) + r_k a(k, k-j)) / (1 - r_k²)

phi is stationary if and only if every |r_k| < 1 (Barndorff-Nielsen & Schou 1973, doi:10.1016/0047-259X(73)90030-4).
Entries are numbers or arrays of any one shape: one particle or a whole population.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.linalg.panels import fence
from smcssm.priors.base import Beta, Marginal


def predictors(phi: Sequence[Any]) -> list[Array]:
    """Coefficients of the predictors from 0, 1, ..., p past values; the last of each is a reflection coefficient.

    Where phi is not stationary the numbers are finite but mean nothing below the order at which |r_k| >= 1.
    """
    out = [jnp.stack(jnp.broadcast_arrays(*phi))] if len(phi) else [jnp.zeros(0)]
    while len(out[0]):
        a, r = out[0][:-1], out[0][-1:]
        out.insert(0, fence((a + r * a[::-1]) / _remaining(r)))
    return out


def reflections(phi: Sequence[Any]) -> list[Array]:
    """r_1, ..., r_p."""
    return [a[-1] for a in predictors(phi)[1:]]


def coefficients(r: list[Any]) -> list[Any]:
    """phi from its reflection coefficients."""
    a: list[Any] = []
    for rk in r:
        a = [left - rk * right for left, right in zip(a, a[::-1], strict=True)] + [rk]
    return a


def chol_autocovariance(phi: Sequence[Any], sigma: Any) -> list[list[Any]]:
    """Entries of the lower-triangular square root for p successive values."""
    rows = autocovariance_root(phi, sigma, len(phi))
    return [[*jnp.unstack(row)[: k + 1], *[0.0] * (len(phi) - 1 - k)] for k, row in enumerate(rows)]


def autocovariance_root(phi: Sequence[Any], sigma: Any, n: int) -> Float[Array, "n n *shape"]:
    """The lower-triangular square root of the covariance of n >= p successive values, innovations of sd ``sigma``.

    Row k predicts value k from the (at most p) values before it and adds the prediction error, whose variance is
    sigma² / prod_{j > k} (1 - r_j²): no linear system, exact up to the edge of stationarity and at sigma = 0. The
    covariance is Toeplitz, so the values may be read forwards or backwards in time.
    """
    p, smaller = len(phi), predictors(phi)
    sd = [sigma] * (n + 1)
    for k in range(p - 1, -1, -1):
        sd[k] = sd[k + 1] / jnp.sqrt(_remaining(smaller[k + 1][-1]))
    root = jnp.zeros((n, n, *jnp.broadcast_shapes(*(jnp.shape(e) for e in (*phi, sigma)))), jnp.result_type(sigma))
    for k in range(n):
        used = min(k, p)
        if used > 0:
            past = jnp.sum(smaller[used][::-1, None] * root[k - used : k], axis=0)
            root = root.at[k].set(past)
        root = fence(root.at[k, k].set(sd[k]))
    return root


def _remaining(r: Any) -> Any:
    """1 - r², the variance that is left; 1 where there is none, so that values and gradients stay finite."""
    return jnp.where(jnp.abs(r) < 1, (1 - r) * (1 + r), 1.0)


class UniformStationary(Marginal):
    """Autoregressive coefficients uniform on the stationary region; a scalar, uniform on (-1, 1), for order 1.

    (1 + r_k) / 2 ~ Beta(floor((k + 1) / 2), floor(k / 2) + 1), independent, unconstrained by the logit
    (Jones 1987, Randomly choosing parameters from the stationarity and invertibility region of autoregressive-moving
    average models, doi:10.2307/2347544).
    """

    order: int

    def __init__(self, order: int) -> None:
        self.order = order

    @property
    def shape(self) -> tuple[int, ...]:
        """A vector but for order 1."""
        return () if self.order == 1 else (self.order,)

    def sample(self, key: Array, n: int) -> Float[Array, "z n"]:
        """Independent reflection coefficients."""
        keys = jax.random.split(key, self.order)
        return jnp.concatenate([law.sample(k, n) for k, law in zip(keys, self._laws(), strict=True)])

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """Density of their logits."""
        return sum((law.log_prob(z[k, None]) for k, law in enumerate(self._laws())), jnp.zeros((), z.dtype))

    def constrain(self, z: Float[Array, " z"]) -> Float[Array, "..."]:
        """Reflection coefficients tanh(z / 2), then phi."""
        return jnp.stack(coefficients(list(jnp.tanh(z / 2)))).reshape(self.shape)

    def unconstrain(self, value: Float[Array, "..."]) -> Float[Array, " z"]:
        """Inverse of ``constrain``; NaN where phi is not stationary."""
        return 2 * jnp.arctanh(jnp.stack(reflections(list(jnp.reshape(value, (self.order,))))))

    def _laws(self) -> list[Beta]:
        return [Beta(float((k + 1) // 2), float(k // 2 + 1)) for k in range(1, self.order + 1)]


class UniformInvertible(Marginal):
    """Coefficients of 1 + theta_1 B + ... + theta_q B^q uniform where it is invertible: -theta is stationary."""

    order: int

    def __init__(self, order: int) -> None:
        self.order = order

    @property
    def shape(self) -> tuple[int, ...]:
        """A vector but for order 1."""
        return self._negative.shape

    def sample(self, key: Array, n: int) -> Float[Array, "z n"]:
        """Those of -theta."""
        return self._negative.sample(key, n)

    def log_prob(self, z: Float[Array, " z"]) -> Float[Array, ""]:
        """The density of -theta: the change of sign has a Jacobian of 1."""
        return self._negative.log_prob(z)

    def constrain(self, z: Float[Array, " z"]) -> Float[Array, "..."]:
        """Minus the coefficients of a stationary autoregression."""
        return -self._negative.constrain(z)

    def unconstrain(self, value: Float[Array, "..."]) -> Float[Array, " z"]:
        """Inverse of ``constrain``; NaN where it is not invertible."""
        return self._negative.unconstrain(-value)

    @property
    def _negative(self) -> UniformStationary:
        return UniformStationary(self.order)
