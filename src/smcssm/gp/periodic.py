"""Kernels that never forget, and the quasiperiodic one that does.

The periodic kernel is a sum of oscillations (Solin & Särkkä 2014, Explicit link between periodic covariance functions
and state space models, PMLR 33:904-912), with x = gamma / 2 and I_j modified Bessel functions:

    exp(-gamma sin²(pi lag / period)) = exp(-x) (I_0(x) + 2 sum_j I_j(x) cos(2 pi j lag / period))

All weights are positive and add up to 1, so that what is left out is the error at lag 0, the largest there is. They
come from the ratios I_j / I_{j-1} = x / (2 j + x I_{j+1} / I_j), downwards (Miller), and from their sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from smcssm.errors import ModelError
from smcssm.gp.kernel import Block, Kernel
from smcssm.gp.matern import Exponential
from smcssm.linalg.entries import Rows


class Constant(Block):
    """sigma²: one random number."""

    sigma: Any = 1.0

    signs: ClassVar[Mapping[str, str]] = {"sigma": "nonnegative"}

    @property
    def derivatives(self) -> int | float:
        """All of them."""
        return math.inf

    def stationary_root(self) -> Rows:
        """sigma."""
        return [[self.sigma]]

    def transition(self, dt: Any) -> Rows:
        """It stays."""
        return [[1.0]]

    def noise_root(self, dt: Any) -> Rows:
        """None."""
        return [[]]

    def drift(self) -> Rows:
        """None."""
        return [[0.0]]

    def diffusion(self) -> Rows:
        """None."""
        return [[]]

    def row(self, output: Any = None) -> list[Any]:
        """The number."""
        return [1.0]


class Cosine(Block):
    """sigma² cos(2 pi lag / scale): an oscillation of random amplitude and phase."""

    scale: Any
    sigma: Any = 1.0

    signs: ClassVar[Mapping[str, str]] = {"scale": "positive", "sigma": "nonnegative"}

    @property
    def derivatives(self) -> int | float:
        """All of them."""
        return math.inf

    def stationary_root(self) -> Rows:
        """Isotropic."""
        return [[self.sigma, 0.0], [0.0, self.sigma]]

    def transition(self, dt: Any) -> Rows:
        """A rotation; a remainder is exact, however many turns."""
        angle = 2 * math.pi * (jnp.fmod(dt, self.scale) / self.scale)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return [[cos, sin], [-sin, cos]]

    def noise_root(self, dt: Any) -> Rows:
        """None."""
        return [[], []]

    def drift(self) -> Rows:
        """A rotation."""
        omega = 2 * math.pi / self.scale
        return [[0.0, omega], [-omega, 0.0]]

    def diffusion(self) -> Rows:
        """None."""
        return [[], []]

    def row(self, output: Any = None) -> list[Any]:
        """The process; beside it stands its derivative over the frequency."""
        return [1.0, 0.0]


class ExpSineSquared(Kernel):
    """sigma² exp(-gamma sin²(pi lag / period)), by the first ``order`` harmonics: 2 order + 1 states.

    Args:
        period: after which all repeats itself.
        gamma: how fast it varies within a period.
        sigma: the standard deviation.
        order: the number of harmonics. By default as many as leave out no more than ``error``.
        error: the largest error of the kernel as a share of sigma²: the variance of the harmonics that are left out.
        largest_gamma: what gamma may grow to, for ``order``, where gamma is no known number.
    """

    period: Any
    gamma: Any
    sigma: Any
    order: int = eqx.field(static=True)

    def __init__(
        self,
        period: Any,
        gamma: Any = 1.0,
        sigma: Any = 1.0,
        *,
        order: int | None = None,
        error: float = 1e-6,
        largest_gamma: float | None = None,
    ) -> None:
        self.period, self.gamma, self.sigma = period, gamma, sigma
        known = largest_gamma if largest_gamma is not None else gamma
        if order is None and isinstance(known, (str, Tracer)):
            raise ModelError(
                "ExpSineSquared: gamma is not a known number: give order= (how many harmonics) or largest_gamma="
            )
        self.order = int(order) if order is not None else harmonics(float(known), error)

    @property
    def derivatives(self) -> int | float:
        """All of them."""
        return math.inf

    @property
    def n_outputs(self) -> int:
        """One."""
        return 1

    def blocks(self) -> tuple[Block, ...]:
        """A constant and harmonics."""
        first, *others = _weights(0.5 * self.gamma, self.order)
        waves = (Cosine(self.period / j, self.sigma * jnp.sqrt(2 * w)) for j, w in enumerate(others, 1))
        return (Constant(self.sigma * jnp.sqrt(first)), *waves)


def Quasiperiodic(
    period: Any,
    gamma: Any,
    scale: Any,
    sigma: Any = 1.0,
    *,
    order: int | None = None,
    error: float = 1e-6,
    largest_gamma: float | None = None,
) -> Kernel:
    """sigma² exp(-lag / scale) exp(-gamma sin²(pi lag / period)): a periodic process that is slowly forgotten."""
    periodic = ExpSineSquared(period, gamma, order=order, error=error, largest_gamma=largest_gamma)
    return Exponential(scale, sigma) * periodic


def harmonics(gamma: float, error: float) -> int:
    """The least order that leaves out no more than ``error`` of the variance."""
    if not (gamma > 0 and 0 < error < 1):
        raise ModelError(f"ExpSineSquared: expected gamma > 0 and 0 < error < 1, got {gamma!r} and {error!r}")
    x, ratio, ratios = 0.5 * gamma, 0.0, []
    for j in range(int(40 + x + 12 * math.sqrt(x)), 0, -1):
        ratio = x / (2 * j + x * ratio)
        ratios.append(ratio)
    weights = np.cumprod([1.0, *ratios[::-1]]) * np.r_[1.0, np.full(len(ratios), 2.0)]
    left_out = np.cumsum(weights[::-1])[::-1] / weights.sum()
    return int(np.argmax(left_out[1:] <= error))


def _weights(x: Any, order: int) -> list[Any]:
    """exp(-x) I_j(x), j = 0, ..., order."""
    ratio: Any = 0.0
    ratios = []
    for j in range(order + 40, 0, -1):
        ratio = x / (2 * j + x * ratio)
        ratios.append(ratio)
    terms: list[Any] = [1.0]
    for ratio in reversed(ratios):
        terms.append(terms[-1] * ratio)
    total = 1 + 2 * sum(terms[1:])
    return [term / total for term in terms[: order + 1]]
