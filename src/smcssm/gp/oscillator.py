"""The stochastically driven, damped harmonic oscillator, and kernels made of it.

Foreman-Mackey, Agol, Ambikasaran & Angus (2017), doi:10.3847/1538-3881/aa9332. With r = omega dt, a = 1 / (2 quality)
and b² = 1 - a² (negative where overdamped), the state (f, f' / omega) has the stationary covariance sigma² I and

    F = E [[C + a S, S], [-S, C - a S]],       E = exp(-a r),  C = cos(b r),  S = sin(b r) / b

C and S are entire functions of (b r)², so that nothing happens at quality 1/2. Noise enters f', so that
Q = 4 a sigma² int_0^r g g' with g = E (S, C - a S), hence, for sigma = 1,

    Q_12 = 2 a (E S)²            Q_22 = 1 - E² + 2 a E S E C - 2 a² (E S)²
    Q_11 = 4 a int (E S)²        whose integrand solves y''' + 6a y'' + (8a² + 4) y' + 8a y = 0, y = r² + ...: a power
                                 series for small steps; else closed forms that do not cancel where they are used
    root [[sqrt(Q_11 - Q_12² / Q_22), Q_12 / sqrt(Q_22)], [0, sqrt(Q_22)]]

At small r, Q_12² / Q_22 is three quarters of Q_11: no cancellation worth the name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from smcssm.errors import ModelError
from smcssm.gp.kernel import Block, Kernel
from smcssm.linalg.entries import Rows
from smcssm.linalg.panels import fence

SMALL = 1.0  # r and 2 a r up to which the power series is used
TERMS = 26
OVERDAMPED = 1.2  # a from which on the three exponentials of (E S)² are told apart


class SHO(Block):
    """The stationary motion of an oscillator driven by white noise, with standard deviation ``sigma``.

    ``omega`` is its undamped frequency in radians per unit of time, ``quality`` the number of radians in which it
    forgets: above 1/2 it oscillates, at 1/2 it is ``Matern32(sqrt(3) / omega)``, below it creeps. One derivative.
    """

    omega: Any
    quality: Any
    sigma: Any = 1.0

    signs: ClassVar[Mapping[str, str]] = {"omega": "positive", "quality": "positive", "sigma": "nonnegative"}

    @property
    def derivatives(self) -> int | float:
        """One."""
        return 1

    def stationary_root(self) -> Rows:
        """Isotropic."""
        return [[self.sigma, 0.0], [0.0, self.sigma]]

    def transition(self, dt: Any) -> Rows:
        """A damped rotation, or a relaxation."""
        a = 0.5 / self.quality
        C, S, _ = _damped(a, self.omega * dt)
        return [[C + a * S, S], [-S, C - a * S]]

    def noise_root(self, dt: Any) -> Rows:
        """Triangular from the last row up."""
        a, r = 0.5 / self.quality, self.omega * dt
        C, S, lost = _damped(a, r)
        last = fence(jnp.sqrt(lost[0] + 2 * a * S * (C - a * S)))
        both = fence(2 * a * S * (S / last))
        first = _of_position(a, r, C, S, lost) - both * both
        tiny = jnp.finfo(first.dtype).tiny
        return [[self.sigma * jnp.sqrt(jnp.maximum(first, tiny)), self.sigma * both], [0.0, self.sigma * last]]

    def drift(self) -> Rows:
        """omega [[0, 1], [-1, -1/quality]]."""
        return [[0.0, self.omega], [-self.omega, -self.omega / self.quality]]

    def diffusion(self) -> Rows:
        """White noise drives the velocity."""
        return [[0.0], [self.sigma * jnp.sqrt(2 * self.omega / self.quality)]]

    def row(self, output: Any = None) -> list[Any]:
        """The position."""
        return [1.0, 0.0]


class Celerite(Block):
    """exp(-c lag) (a cos(d lag) + b sin(d lag)), which is a kernel where |b d| <= a c, a, c > 0.

    An oscillator of frequency w = sqrt(c² + d²) and damping c / w of which position and velocity are seen together, by
    sqrt((a + b d / c) / 2) and sqrt((a - b d / c) / 2): its spectrum has that numerator.
    """

    a: Any
    b: Any
    c: Any
    d: Any

    signs: ClassVar[Mapping[str, str]] = {"a": "positive", "b": "any", "c": "positive", "d": "any"}

    def __check_init__(self) -> None:
        """|b d| <= a c."""
        given = (self.a, self.b, self.c, self.d)
        if all(isinstance(v, (int, float)) for v in given) and abs(self.b * self.d) > self.a * self.c * (1 + 1e-12):
            raise ModelError(f"Celerite{given}: expected |b d| <= a c; otherwise this is not a covariance")

    @property
    def derivatives(self) -> int | float:
        """None, in general."""
        return 0

    def admissible(self) -> Any:
        """The signs, and |b d| <= a c."""
        return jnp.asarray(Block.admissible(self)) & jnp.all(jnp.abs(self.b * self.d) <= self.a * self.c)

    def stationary_root(self) -> Rows:
        """Isotropic."""
        return self._oscillator.stationary_root()

    def transition(self, dt: Any) -> Rows:
        """That of the oscillator."""
        return self._oscillator.transition(dt)

    def noise_root(self, dt: Any) -> Rows:
        """That of the oscillator."""
        return self._oscillator.noise_root(dt)

    def drift(self) -> Rows:
        """That of the oscillator."""
        return self._oscillator.drift()

    def diffusion(self) -> Rows:
        """That of the oscillator."""
        return self._oscillator.diffusion()

    def row(self, output: Any = None) -> list[Any]:
        """Position and velocity."""
        tilt = self.b * self.d / self.c
        return [jnp.sqrt(0.5 * (self.a + tilt)), jnp.sqrt(jnp.maximum(0.5 * (self.a - tilt), 0))]

    @property
    def _oscillator(self) -> SHO:
        omega = jnp.hypot(self.c, self.d)
        return SHO(omega, 0.5 * omega / self.c)


class Rotation(Kernel):
    """Two oscillators, at ``period`` and half of it: the light of a spotted star that rotates.

    Qualities 1/2 + quality + delta_quality and 1/2 + quality; ``mix`` is the variance at half the period as a share of
    that at the period, ``sigma`` the standard deviation of both together: celerite2's ``RotationTerm``.
    """

    period: Any
    quality: Any
    delta_quality: Any
    mix: Any
    sigma: Any = 1.0

    @property
    def derivatives(self) -> int | float:
        """One."""
        return 1

    @property
    def n_outputs(self) -> int:
        """One."""
        return 1

    def blocks(self) -> tuple[Block, ...]:
        """The oscillators; period is that of the damped oscillation."""
        amplitude = self.sigma / jnp.sqrt(1 + self.mix)
        first, second = 0.5 + self.quality + self.delta_quality, 0.5 + self.quality
        return (
            SHO(_undamped(self.period, first), first, amplitude),
            SHO(_undamped(0.5 * self.period, second), second, amplitude * jnp.sqrt(self.mix)),
        )


def _undamped(period: Any, quality: Any) -> Any:
    """The frequency of an oscillator, from the period of its damped oscillation; quality > 1/2."""
    return 4 * math.pi * quality / (period * jnp.sqrt((2 * quality - 1) * (2 * quality + 1)))


def _damped(a: Any, r: Any) -> tuple[Any, Any, tuple[Any, Any, Any]]:
    """E C and E S, smooth in a > 0; what 1 - E² and, where overdamped, its slow and fast part have."""
    square = (1 - a) * (1 + a) * r * r
    turns, creeps = square > 1, square < -1
    z = jnp.where(turns | creeps, 0.0, square)
    cos, sinc = jnp.ones_like(z), jnp.ones_like(z)
    for k in range(10, 0, -1):
        cos = 1 - cos * z * (1 / (2 * k * (2 * k - 1)))
        sinc = 1 - sinc * z * (1 / (2 * k * (2 * k + 1)))
    rate = a + _overdamping(a)  # a - g = 1 / (a + g), without cancellation
    mean, slow, fast = fence((jnp.expm1(-a * r), jnp.expm1(-r / rate), jnp.expm1(-r * rate)))
    kept = 1 + mean

    angle = fence(jnp.sqrt(jnp.where(turns, square, 1.0)))
    C = kept * jnp.where(turns, jnp.cos(angle), cos)
    S = kept * r * jnp.where(turns, jnp.sin(angle) / angle, sinc)
    C = jnp.where(creeps, 1 + 0.5 * (slow + fast), C)
    S = jnp.where(creeps, (slow - fast) / (2 * _overdamping(a)), S)
    C, S = fence((C, S))
    return C, S, (-mean * (2 + mean), -slow * (2 + slow), -fast * (2 + fast))


def _overdamping(a: Any) -> Any:
    """g = sqrt(a² - 1) where overdamped."""
    return jnp.sqrt(jnp.where(a > 1, (a - 1) * (a + 1), 1.0))


def _of_position(a: Any, r: Any, C: Any, S: Any, lost: tuple[Any, Any, Any]) -> Any:
    """Q_11."""
    g = _overdamping(a)
    three = 0.5 * lost[1] * (a + g) - lost[0] / a + 0.5 * lost[2] / (a + g)
    closed = jnp.where(a > OVERDAMPED, (a / (g * g)) * three, lost[0] - 2 * a * S * (C + a * S))
    small = (r <= SMALL) & (2 * a * r <= SMALL)
    return jnp.where(small, 4 * a * r * r * r * _series(a, jnp.where(small, r, 0.0)), closed)


def _series(a: Any, r: Any) -> Any:
    """int_0^r (E S)² / r³ in powers of the larger of r and 2 a r, whose coefficients are those of one oscillator."""
    larger = jnp.maximum(1.0, 2 * a)
    b, square = 2 * a / larger, 1 / (larger * larger)
    before, last, now = jnp.zeros_like(b), jnp.zeros_like(b), jnp.ones_like(b)
    coefficients = [now / 3]
    for m in range(TERMS):
        following = (
            3 * b * (m + 2) * (m + 1) * now + (2 * b * b + 4 * square) * (m + 1) * last + 4 * b * square * before
        )
        before, last, now = last, now, following * (-1 / ((m + 3) * (m + 2) * (m + 1)))
        coefficients.append(now * (1 / (m + 4)))
    known, x = coefficients, larger * r
    total = known[-1]
    for c in reversed(known[:-1]):
        total = c + x * total
    return total
