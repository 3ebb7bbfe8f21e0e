"""Regression on inputs, the coefficients in the state: linear and Gaussian, so they cost no hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from smcssm.core import Matrix, Observation, Theta
from smcssm.errors import ModelError
from smcssm.models.arguments import Numbers, count, deviations, diagonal, labels, numbered, numbers
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import HalfNormal, Marginal


class Regression(AbstractComponent):
    """sum_i beta_i inputs_i, with beta_i ~ N(initial_mean_i, initial_sd_i²) at the first observation.

    Fixed coefficients, the posterior over them exact, or drifting ones: beta' = beta + sigma_beta sqrt(dt) e, exact
    for any dt. ``sigma_beta`` is a standard deviation per square root of a unit of time, in units of the observation
    over those of the input; a scalar for one input and a vector above.

    Args:
        n: number of inputs, called input0, input1, ... (after the component's name, where it has one).
        names: names of the inputs instead, as in the columns of a frame.
        drifting: whether coefficients move.
        initial_mean: one number, or one for each coefficient.
        initial_sd: standard deviations, likewise; 0 holds a coefficient at its mean.
        name: tells two regressions apart.
    """

    inputs: tuple[str, ...]
    states: tuple[str, ...]
    drifting: bool
    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]
    name: str | None

    continuous_time: ClassVar[bool] = True

    def __init__(
        self,
        n: int | None = None,
        *,
        names: Sequence[str] | None = None,
        drifting: bool = False,
        initial_mean: Numbers = 0.0,
        initial_sd: Numbers = 1.0,
        name: str | None = None,
    ) -> None:
        if (n is None) == (names is None):
            raise ModelError("Regression needs the number of inputs or their names: Regression(2) or names=('a', 'b')")
        if names is None:
            size = count("Regression(n)", n, 1)
            self.inputs = numbered("input" if name is None else f"{name}_input", size)
            self.states = numbered("beta", size)
        else:
            self.inputs = labels("Regression(names)", names)
            size = count("Regression(names): number of names", len(self.inputs), 1)
            self.states = tuple(f"beta_{i}" for i in self.inputs)
        self.drifting, self.name = bool(drifting), name
        self.initial_mean = numbers("Regression(initial_mean)", initial_mean, size)
        self.initial_sd = deviations("Regression(initial_sd)", initial_sd, size)

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Standard deviations of drifting coefficients."""
        n = len(self.inputs)
        return {"sigma_beta": () if n == 1 else (n,)} if self.drifting else {}

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """Independent coefficients."""
        return self.initial_mean, diagonal(self.initial_sd)

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """Coefficients stay, or walk at random."""
        n = len(self.inputs)
        return diagonal([1.0] * n), self._noise(theta, obs) if self.drifting else [[]] * n

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The inputs."""
        if obs.inputs is None:
            raise ModelError(f"the model reads the inputs {', '.join(self.inputs)}: give inputs=... at each step")
        return [obs.inputs[i] for i in range(len(self.inputs))]

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """HalfNormal of a tenth of the scale: inputs are taken to vary by about 1."""
        return {p: HalfNormal(0.1 * scale, shape) for p, shape in self.parameters.items()}

    def _noise(self, theta: Theta, obs: Observation) -> list[list[Any]]:
        n, sigma = len(self.inputs), theta["sigma_beta"]
        return diagonal([s * jnp.sqrt(obs.dt) for s in ([sigma] if n == 1 else [sigma[i] for i in range(n)])])
