"""A linear Gaussian model from your own function of the hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from smcssm.core import AbstractLinearGaussian, AbstractPrior, Matrix, Observation, System, Theta
from smcssm.errors import ModelError
from smcssm.linalg import rows, triangularise
from smcssm.models.arguments import count, labels, numbered, shapes_of
from smcssm.models.matrices import complete
from smcssm.models.user_function import MatrixFunction, Step


class LinearGaussian(AbstractLinearGaussian):
    """Your own linear Gaussian model.

    Args:
        function: (theta) or (theta, step) -> dict(m0=, chol_P0=, F=, c=, chol_Q=, H=, d=, chol_R=), for one particle:
            ``theta["name"]`` and the fields of ``step`` (see ``Step``) are scalars or vectors, to be used with
            jax.numpy. All keys but F and H may be left out: chol_P0 is then the identity, everything else zero.
            chol_Q is (nx, nq) with nq <= nx. The square roots need not be triangular and may be singular. Numbers in
            nested lists are known when compiling, and zeros and ones among them cost nothing; an array that is
            computed in one piece counts as computed in all its entries.
        names: the hyperparameters it reads.
        n_inputs: number of inputs, called input0, input1, ...; or
        input_names: their names.
        channels: names of the channels; "y", or y0, y1, ... where there are several, by default.
        states: names of the states; x0, x1, ... by default.
        shapes: name -> shape of each hyperparameter that is not a scalar: {"phi": (2,)}.

    A function that reads ``step.dt`` is taken to hold for any dt; without, one observation is one step.
    """

    function: MatrixFunction
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    input_names: tuple[str, ...]
    channel_names: tuple[str, ...]
    state_names: tuple[str, ...]
    reads: frozenset[str]
    """The fields of the step that the function reads."""

    def __init__(
        self,
        function: Callable[..., Mapping[str, Any]],
        names: Sequence[str],
        *,
        n_inputs: int = 0,
        input_names: Sequence[str] | None = None,
        channels: Sequence[str] | None = None,
        states: Sequence[str] | None = None,
        shapes: Mapping[str, int | tuple[int, ...]] | None = None,
    ) -> None:
        self.names = labels("LinearGaussian(names)", names)
        self.shapes = shapes_of("LinearGaussian(shapes)", self.names, shapes or {})
        inputs = numbered("input", count("LinearGaussian(n_inputs)", n_inputs, 0))
        self.input_names = inputs if input_names is None else labels("LinearGaussian(input_names)", input_names)
        self.function = MatrixFunction(function, self.names, self.shapes, len(self.input_names), complete)
        example, self.reads = _example(self.function, None if channels is None else len(channels))
        nx, ny = len(example["F"]), len(example["H"])
        default = ("y",) if ny == 1 else numbered("y", ny)
        self.channel_names = default if channels is None else labels("LinearGaussian(channels)", channels)
        self.state_names = numbered("x", nx) if states is None else labels("LinearGaussian(states)", states)
        _check(self, nx, ny)

    @property
    def continuous_time(self) -> bool:
        """Whether the function looks at dt."""
        return "dt" in self.reads

    def params(self, theta: Theta) -> PyTree[Array]:
        """The hyperparameters; of a function of theta alone, what it computes, once."""
        own = {name: jnp.asarray(theta[name]) for name in self.names}
        return own if self.function.takes_step else self.function.computed(own)

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Everywhere."""
        return jnp.asarray(True)

    def initial(self, params: PyTree[Array], obs: Observation) -> tuple[Matrix, Matrix]:
        """m0 and chol_P0, made lower triangular."""
        found = self._matrices(params, obs)
        chol = rows(found["chol_P0"])
        above = [entry for i, row in enumerate(chol) for entry in row[i + 1 :]]
        lower = all(isinstance(entry, float) and entry == 0.0 for entry in above)
        return found["m0"], chol if lower else triangularise(chol)

    def matrices(self, params: PyTree[Array], obs: Observation) -> System:
        """What the function returns; over dt = 0, where the state stays, a transition that does not count.

        It is that over dt = 1: a square root of something that is 0 at dt = 0 would have no derivative.
        """
        found = self._matrices(params, obs)
        if "dt" in self.reads:
            moved = self._matrices(params, replace(obs, dt=jnp.where(obs.dt == 0, 1, obs.dt)))
            found |= {key: moved[key] for key in ("F", "c", "chol_Q")}
        return System(*(found[key] for key in System._fields))

    def function_named(self, method: str, arguments: tuple, broken: Callable[[Any], bool]) -> str:
        """The user's function."""
        return self.function.label

    def complaint(self, theta: Theta) -> str | None:
        """That the function returns NaN at theta, of one particle, and a step; None where it does not."""
        inputs = jnp.ones(len(self.input_names)) if self.input_names else None
        try:
            step = Step(jnp.asarray(1), jnp.asarray(1.0), inputs) if self.function.takes_step else None
            found = self.function.computed(theta, step)
        except ModelError:  # of a function that needs a noise_sd
            return None
        if not any(jnp.isnan(entry).any() for entry in found):
            return None
        at = ", ".join(f"{name}={np.asarray(theta[name]).tolist()}" for name in self.names)
        return f"{self.function.label} returned NaN at {at}"

    def default_prior(self, scale: float) -> AbstractPrior:
        """There is none: only its author knows what a name means.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"a model from your own function has no default prior: give one for {', '.join(self.names)}, "
            "a pm.Model() or ss.priors.FromFunctions(...)"
        )

    def _matrices(self, params: PyTree[Array], obs: Observation) -> dict[str, Any]:
        if obs.noise_sd is not None and "noise_sd" not in self.reads:
            raise ModelError(f"noise_sd was given, but {self.function.label} does not read step.noise_sd")
        return self.function.over_population(params, obs) if self.function.takes_step else self.function.fill(params)


def _example(function: MatrixFunction, n_channels: int | None) -> tuple[dict[str, Any], frozenset[str]]:
    """The function's matrices on placeholders, with noise_sd where it does not run without."""
    try:
        return function.examine()
    except ModelError as first:
        if not function.takes_step:
            raise
        try:
            return function.examine(n_channels or 1)
        except ModelError:
            raise first from first.__cause__


def _check(model: LinearGaussian, nx: int, ny: int) -> None:
    label, inputs = model.function.label, model.input_names
    if not model.names:
        raise ModelError("LinearGaussian(names): expected at least one hyperparameter")
    for what, names, n in (("channels", model.channel_names, ny), ("states", model.state_names, nx)):
        if len(names) != n:
            raise ModelError(f"LinearGaussian({what}): got {len(names)} names, but {label} returns {n} {what}")
    if inputs and "inputs" not in model.reads:
        raise ModelError(f"{label} does not read step.inputs, but the model was given the inputs {', '.join(inputs)}")
