"""Tracking in the plane by bearings, with or without ranges: motion of nearly constant velocity, angles on a circle.

Gordon, Salmond & Smith (1993, doi:10.1049/ip-f-2.1993.0015), section 4; Bar-Shalom, Li & Kirubarajan (2001),
Estimation with Applications to Tracking and Navigation, chapters 1 and 6. For a sensor at (a, b):

    bearing = atan2(y - b, x - a) + sigma_bearing n        modulo 2 pi, in radians from the x axis
    range   = |(x - a, y - b)| + sigma_range n
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float

from smcssm.core import AbstractNonlinear, AbstractPrior, Observation, Theta
from smcssm.errors import ModelError
from smcssm.gaussian import affine, normal
from smcssm.models.arguments import Numbers, numbers
from smcssm.models.constant_velocity import ConstantVelocity
from smcssm.models.structural import noise_sd, nonnegative
from smcssm.priors.base import HalfNormal, Independent

Sensors = Any
"""A mapping, name -> place (x, y)."""


class AbstractTracking(AbstractNonlinear):
    """States x, vx, y, vy of ``ConstantVelocity``, exact for any dt, and sensors that see them.

    Sensors stand where they are told; without any, one observer moves, whose place is given with each row by the
    inputs ``observer_x`` and ``observer_y``. What a sensor does not report is a missing value.
    """

    motion: eqx.AbstractVar[ConstantVelocity]
    sensors: eqx.AbstractVar[tuple[tuple[str, tuple[float, ...]], ...]]
    measures: eqx.AbstractClassVar[tuple[str, ...]]
    """What every sensor reports; the standard deviation is sigma_{measure}."""

    state_names: ClassVar[tuple[str, ...]] = ConstantVelocity.state_names
    continuous_time: ClassVar[bool] = True
    guided: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the motion, and of each kind of measurement."""
        return ("sigma_acceleration", *(f"sigma_{measure}" for measure in self.measures))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Scalars."""
        return ((),) * len(self.names)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """{sensor}_{measure}; of a moving observer the measures alone."""
        if not self.sensors:
            return self.measures
        return tuple(f"{sensor}_{measure}" for sensor, _ in self.sensors for measure in self.measures)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Where a moving observer is."""
        return () if self.sensors else ("observer_x", "observer_y")

    def params(self, theta: Theta) -> dict[str, Array]:
        """The hyperparameters themselves."""
        return {name: jnp.asarray(theta[name]) for name in self.names}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Where no standard deviation is negative."""
        return nonnegative(theta, self.names)

    def default_prior(self, scale: float) -> AbstractPrior:
        """Lengths of about ``scale``; bearings good to a tenth of a radian."""
        return Independent({name: HalfNormal(0.1 if name == "sigma_bearing" else scale) for name in self.names})

    def sample_initial(self, key: Array, params: Theta, obs: Observation, n_inner: int) -> Float[Array, "x m s n"]:
        """Independent positions and velocities."""
        like = jnp.zeros((n_inner, *params["sigma_acceleration"].shape[-2:]), obs.y.dtype)
        m0, chol_P0 = self.motion.initial(params, obs)
        return affine(key, [[]] * 4, jnp.zeros((0, *like.shape), like.dtype), m0, chol_P0, like)

    def sample_transition(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "x m s n"]:
        """An integrated Wiener process along either axis."""
        unseen = eqx.tree_at(lambda o: o.noise_sd, obs, None, is_leaf=lambda leaf: leaf is None)
        system = self.motion.matrices({**params, "sigma_obs": jnp.zeros(())}, unseen)
        return affine(key, system.F, x, system.c, system.chol_Q, x[0])

    def log_observation(self, params: Theta, x: Float[Array, "x m s n"], obs: Observation) -> Float[Array, "m s n"]:
        """Of each channel by itself; bearings by the wrapped normal law."""
        total = jnp.zeros_like(x[0])
        for i, (angular, where, sd) in enumerate(self._channels(params, x, obs)):
            density = _log_wrapped_normal(obs.y[i] - where, sd) if angular else norm.logpdf(obs.y[i], where, sd)
            total = total + jnp.where(obs.mask[i], density, 0.0)
        return total

    def sample_observation(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> Float[Array, "y m s n"]:
        """Bearings from -pi to pi."""
        channels = self._channels(params, x, obs)
        e = normal(key, jnp.broadcast_to(x[:1], (len(channels), *x.shape[1:])))
        drawn = [where + sd * e for (_, where, sd), e in zip(channels, e, strict=True)]
        return jnp.stack([wrapped(y) if c[0] else y for c, y in zip(channels, drawn, strict=True)])

    def predictive(
        self, key: Array, params: Theta, x: Float[Array, "x m s n"], obs: Observation
    ) -> tuple[Array, Array, Array, Array]:
        """Of a draw; bearings as numbers from -pi to pi, so that their mean and sd make sense away from pi."""
        y = self.sample_observation(key, params, x, obs)
        angular = jnp.asarray([c[0] for c in self._channels(params, x, obs)])[:, None, None, None]
        seen = jnp.where(angular, wrapped(obs.y), obs.y)
        return y, jnp.zeros_like(y), (y < seen).astype(y.dtype), (y <= seen).astype(y.dtype)

    def _channels(self, params: Theta, x: Float[Array, "x m s n"], obs: Observation) -> list[tuple[bool, Array, Any]]:
        """Whether it is an angle, its value without noise, and the sd of its noise."""
        places: list[Any] = [place for _, place in self.sensors] or [obs.inputs]
        out = []
        for a, b in places:
            east, north = x[0] - a, x[2] - b
            value = {"bearing": jnp.arctan2(north, east), "range": jnp.hypot(east, north)}
            for measure in self.measures:
                sd = noise_sd(params[f"sigma_{measure}"], obs, len(out))
                out.append((measure == "bearing", value[measure], sd))
        return out


class BearingsOnly(AbstractTracking):
    """A target seen by its direction alone; hyperparameters ``sigma_acceleration`` and ``sigma_bearing`` (radians).

    Args:
        sensors: name -> place (x, y), with a channel {name}_bearing each; without, a moving observer with the inputs
            ``observer_x`` and ``observer_y``, and the channel ``bearing``.
        initial_mean: of x, vx, y, vy at the first observation.
        initial_sd: their standard deviations, independent.
    """

    motion: ConstantVelocity
    sensors: tuple[tuple[str, tuple[float, ...]], ...]

    measures: ClassVar[tuple[str, ...]] = ("bearing",)

    def __init__(
        self, sensors: Sensors = None, *, initial_mean: Numbers = 0.0, initial_sd: Numbers = 1.0
    ) -> None:
        self.sensors = _places("BearingsOnly(sensors)", sensors)
        self.motion = ConstantVelocity(initial_mean=initial_mean, initial_sd=initial_sd)


class RangeBearing(AbstractTracking):
    """A target seen by distance and direction, by radar say.

    Hyperparameters ``sigma_acceleration``, ``sigma_range`` and ``sigma_bearing`` (radians).

    Args:
        sensors: name -> place (x, y), with channels {name}_range and {name}_bearing each; without, a moving observer
            with the inputs ``observer_x`` and ``observer_y``, and the channels ``range`` and ``bearing``.
        initial_mean: of x, vx, y, vy at the first observation.
        initial_sd: their standard deviations, independent.
    """

    motion: ConstantVelocity
    sensors: tuple[tuple[str, tuple[float, ...]], ...]

    measures: ClassVar[tuple[str, ...]] = ("range", "bearing")

    def __init__(
        self, sensors: Sensors = None, *, initial_mean: Numbers = 0.0, initial_sd: Numbers = 1.0
    ) -> None:
        self.sensors = _places("RangeBearing(sensors)", sensors)
        self.motion = ConstantVelocity(initial_mean=initial_mean, initial_sd=initial_sd)


def wrapped(angle: Array) -> Array:
    """The same angle between -pi and pi."""
    return angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))


def _log_wrapped_normal(angle: Array, sd: Array) -> Array:
    """Log density of an angle that is 0 but for noise; two turns either way are enough up to sd = 3."""
    turns = jax.tree.map(lambda k: norm.logpdf(wrapped(angle) + 2 * math.pi * k, 0.0, sd), [-2, -1, 0, 1, 2])
    return logsumexp(jnp.stack(turns), axis=0)


def _places(what: str, sensors: Sensors) -> tuple[tuple[str, tuple[float, ...]], ...]:
    if sensors is None:
        return ()
    if not isinstance(sensors, Mapping) or not sensors:
        raise ModelError(f"{what}: expected a mapping of names to places (x, y), got {sensors!r}")
    return tuple((str(name), numbers(f"{what}[{name!r}]", place, 2)) for name, place in sensors.items())
