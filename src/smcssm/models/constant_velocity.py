"""Tracking in the plane: nearly constant velocity, disturbed by white-noise acceleration.

Bar-Shalom, Li & Kirubarajan (2001), Estimation with Applications to Tracking and Navigation, section 6.2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.core import AbstractLinearGaussian, AbstractPrior, Matrix, Observation, System, Theta
from smcssm.errors import ModelError
from smcssm.linalg.entries import block_diagonal, multiply
from smcssm.models.arguments import Numbers, deviations, diagonal, labels, numbers
from smcssm.models.integrated_wiener import integrated_noise, taylor
from smcssm.models.structural import noise_sd, nonnegative
from smcssm.priors.base import HalfNormal, Independent


class ConstantVelocity(AbstractLinearGaussian):
    """d(position) = velocity dt, d(velocity) = sigma_acceleration dW, x and y independent: exact for any dt.

    States x, vx, y, vy. ``sigma_acceleration`` is the standard deviation of the change of a velocity over one unit of
    time (length / time^(3/2)), ``sigma_obs`` that of one position measured by one sensor (length): a scalar for one
    sensor, a vector above. Sensors that do not report are missing values; noise_sd given with a row adds in variance.

    Args:
        sensors: names of several position sensors, with channels {sensor}_x and {sensor}_y; one sensor without a
            name (channels x and y) by default.
        initial_mean: of x, vx, y, vy at the first observation.
        initial_sd: their standard deviations, independent.
    """

    sensors: tuple[str, ...] | None
    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]

    state_names: ClassVar[tuple[str, ...]] = ("x", "vx", "y", "vy")
    names: ClassVar[tuple[str, ...]] = ("sigma_acceleration", "sigma_obs")
    input_names: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = True

    def __init__(
        self, sensors: Sequence[str] | None = None, *, initial_mean: Numbers = 0.0, initial_sd: Numbers = 1.0
    ) -> None:
        self.sensors = None if sensors is None else labels("ConstantVelocity(sensors)", sensors)
        if self.sensors == ():
            raise ModelError("ConstantVelocity(sensors=()): expected at least one sensor; leave it out for one")
        self.initial_mean = numbers("ConstantVelocity(initial_mean)", initial_mean, 4)
        self.initial_sd = deviations("ConstantVelocity(initial_sd)", initial_sd, 4)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """x and y, of each sensor."""
        return ("x", "y") if self.sensors is None else tuple(f"{s}_{axis}" for s in self.sensors for axis in "xy")

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """A standard deviation for each sensor."""
        n = len(self.channel_names) // 2
        return (), () if n == 1 else (n,)

    def params(self, theta: Theta) -> dict[str, Array]:
        """The hyperparameters themselves."""
        return {name: jnp.asarray(theta[name]) for name in self.names}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Where no standard deviation is negative."""
        return nonnegative(theta, self.names)

    def initial(self, params: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """Independent positions and velocities."""
        return self.initial_mean, diagonal(self.initial_sd)

    def matrices(self, params: Theta, obs: Observation) -> System:
        """Position and velocity along either axis are an integrated Wiener process."""
        sigma = params["sigma_acceleration"]
        chol = [[multiply(sigma, e) for e in row] for row in integrated_noise(2, obs.dt)]
        move = taylor(2, obs.dt)
        sensors = len(self.channel_names) // 2
        H = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]] * sensors
        chol_R = diagonal([noise_sd(self._sigma(params, i // 2), obs, i) for i in range(2 * sensors)])
        return System(
            block_diagonal([move, move]), [0.0] * 4, block_diagonal([chol, chol]), H, [0.0] * 2 * sensors, chol_R
        )

    def default_prior(self, scale: float) -> AbstractPrior:
        """HalfNormal(scale) for each."""
        return Independent({n: HalfNormal(scale, shape) for n, shape in zip(self.names, self.shapes, strict=True)})

    def _sigma(self, params: Theta, sensor: int) -> Any:
        return params["sigma_obs"] if self.shapes[1] == () else params["sigma_obs"][sensor]
