"""Matérn kernels of half-integer smoothness: white noise through p + 1 equal low-pass filters, one after the other.

Matérn (1960); Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 4.2.1. With nu = p + 1/2,
s = sqrt(2 nu) dt / scale and u_i the output of filter i, u_i' = u_{i-1} - u_i, the last one being f:

    u_i(s) = exp(-s) sum_j s^j / j! u_{i-j}(0) + int_0^s exp(-r) r^i / i! dW
    Cov(u_i, u_j) = binomial(i + j, i) / 2^(i + j + 1)                              stationary
    noise     Q_ij = s^(i + j + 1) / (i! j!) mu_{i+j},    mu_k = int_0^1 r^k exp(-2 s r) dr

mu_2p is a series of positive terms (or, from s = p + 2 on, a closed form without cancellation), and
mu_{k-1} = (2 s mu_k + exp(-2 s)) / k gives the others: only sums of what is positive. The powers of s are drawn out of
the square root, so that small steps do not underflow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from smcssm.errors import ModelError
from smcssm.gp.kernel import Block
from smcssm.linalg.entries import Rows

LATE = 100.0  # in s: exp(-100) of the past is left, which is nothing
LARGEST = 6  # of p: the smallest direction of the noise has lost ten digits then


class AbstractMatern(Block):
    """What the kernels of this family share."""

    scale: eqx.AbstractVar[Any]
    sigma: eqx.AbstractVar[Any]
    order: eqx.AbstractVar[int]

    signs: ClassVar[Mapping[str, str]] = {"scale": "positive", "sigma": "nonnegative"}

    @property
    def derivatives(self) -> int | float:
        """p."""
        return self.order

    @property
    def rate(self) -> Any:
        """Of the low-pass filters."""
        return math.sqrt(2 * self.order + 1) / self.scale

    def stationary_root(self) -> Rows:
        """Numbers times sigma."""
        i = np.arange(self.order, -1, -1)
        P = np.array([[math.comb(a + b, a) / 2.0 ** (a + b) for b in i] for a in i])
        L = np.linalg.cholesky(P / P[0, 0])
        return [[self.sigma * e if k <= j else 0.0 for k, e in enumerate(row)] for j, row in enumerate(L.tolist())]

    def transition(self, dt: Any) -> Rows:
        """exp(-s) times a Taylor polynomial."""
        s = jnp.minimum(self.rate * dt, LATE)
        kept, n = jnp.exp(-s), self.order + 1
        return [[0.0] * i + [kept * s**k * (1 / math.factorial(k)) for k in range(n - i)] for i in range(n)]

    def noise_root(self, dt: Any) -> Rows:
        """Triangular from the last row up."""
        p = self.order
        s = jnp.minimum(self.rate * dt, LATE)
        mu, size = _moments(p, s), self.sigma * jnp.sqrt(s * (2.0 ** (2 * p + 1) / math.comb(2 * p, p)))
        L = _cholesky([[mu[i + j] for j in range(p + 1)] for i in range(p + 1)])
        rows = [[size * s**i * (1 / math.factorial(i)) * L[i][j] for j in range(i + 1)] for i in range(p + 1)]
        return [row + [0.0] * (p + 1 - len(row)) for row in reversed(rows)]

    def drift(self) -> Rows:
        """Each filter follows the one before it."""
        n = self.order + 1
        return [[-self.rate if j == i else self.rate if j == i + 1 else 0.0 for j in range(n)] for i in range(n)]

    def diffusion(self) -> Rows:
        """White noise enters the first filter."""
        p = self.order
        size = self.sigma * jnp.sqrt(2 * self.rate * (4.0**p / math.comb(2 * p, p)))
        return [[0.0] for _ in range(p)] + [[size]]

    def row(self, output: Any = None) -> list[Any]:
        """The last filter."""
        return [1.0] + [0.0] * self.order


class Exponential(AbstractMatern):
    """sigma² exp(-lag / scale): the Ornstein-Uhlenbeck process."""

    scale: Any
    sigma: Any = 1.0
    order: ClassVar[int] = 0


class Matern32(AbstractMatern):
    """sigma² (1 + s) exp(-s), s = sqrt(3) lag / scale: one derivative."""

    scale: Any
    sigma: Any = 1.0
    order: ClassVar[int] = 1


class Matern52(AbstractMatern):
    """sigma² (1 + s + s²/3) exp(-s), s = sqrt(5) lag / scale: two derivatives."""

    scale: Any
    sigma: Any = 1.0
    order: ClassVar[int] = 2


class Matern(AbstractMatern):
    """The kernel of smoothness ``nu`` = 1/2, 3/2, ..., 13/2: nu - 1/2 derivatives."""

    scale: Any
    sigma: Any
    order: int = eqx.field(static=True)

    def __init__(self, nu: float, scale: Any, sigma: Any = 1.0) -> None:
        if nu - 0.5 not in range(LARGEST + 1):
            raise ModelError(f"Matern(nu={nu!r}): expected a half-integer from 0.5 to {LARGEST + 0.5}")
        self.scale, self.sigma, self.order = scale, sigma, int(nu)


def _moments(p: int, s: Any) -> list[Any]:
    """mu_0, ..., mu_2p."""
    top, x = 2 * p, 2 * s
    early = jnp.minimum(x, top + 4.0)
    series = jnp.ones_like(s)
    for m in range(_terms(top), 0, -1):
        series = 1 + series * early * (1 / (top + 1 + m))
    late = jnp.maximum(x, top + 4.0)
    left = jnp.exp(-late) * sum((late**k * (1 / math.factorial(k)) for k in range(1, top + 1)), jnp.ones_like(s))
    closed = math.factorial(top) * (1 - left) / late ** (top + 1)
    kept = jnp.exp(-x)
    mu = [jnp.where(x < top + 4.0, jnp.exp(-early) * series * (1 / (top + 1)), closed)]
    for k in range(top, 0, -1):
        mu.append((x * mu[-1] + kept) * (1 / k))
    return mu[::-1]


def _terms(top: int) -> int:
    """How many terms of the series count."""
    term, m = 1.0, 0
    while term > 1e-18:
        m += 1
        term *= (top + 4) / (top + 1 + m)
    return m


def _cholesky(M: Rows) -> Rows:
    """Lower triangular, of a few entries."""
    n = len(M)
    L: Rows = [[0.0] * n for _ in range(n)]
    for j in range(n):
        pivot = M[j][j] - sum(L[j][k] * L[j][k] for k in range(j))
        L[j][j] = jnp.sqrt(jnp.maximum(pivot, jnp.finfo(pivot.dtype).eps * M[j][j]))
        for i in range(j + 1, n):
            L[i][j] = (M[i][j] - sum(L[i][k] * L[j][k] for k in range(j))) / L[j][j]
    return L
