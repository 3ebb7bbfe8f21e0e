"""A Gaussian process as a component of a structural model: its hyperparameters named, exact at any times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.core import Matrix, Observation, Theta
from smcssm.errors import ModelError
from smcssm.gp import Kernel, state
from smcssm.models.arguments import labels, numbered
from smcssm.models.structural import AbstractComponent, Structural
from smcssm.priors.base import HalfNormal, LogNormal, Marginal


def GP(
    kernel: Kernel | Callable[[Theta], Kernel],
    names: Sequence[str] | None = None,
    *,
    exposure: bool = False,
    name: str | None = None,
) -> Structural:
    """A Gaussian process in time, to be observed with the noise that observations bring, or ``+ Noise()``.

    ``GP(SHO(omega="omega", quality=3.0, sigma="sigma_gp"))``: a hyperparameter is a number where it is known and a
    name where it is not. Or a function of the hyperparameters, and their names:
    ``GP(lambda theta: SHO(2 * jnp.pi / theta["period"], 3.0, theta["sigma"]), names=("period", "sigma"))``. It starts
    stationary and can be added to other components. Where the kernel has several outputs, the input ``output`` says
    which one an observation is of.

    Args:
        kernel: of ``ss.gp``, or a function of the hyperparameters that returns one.
        names: the hyperparameters that a function reads.
        exposure: whether observations come with exposures, ``engine.step(y, time=t, exposure=e)``: y is then the
            average of the process over (t - e, t], which takes one state more. Exposures must not overlap. What is
            added to the process, a ``Level()`` say, is seen as it is at t.
        name: tells two components of this kind apart.
    """
    return Structural((GaussianProcess(kernel, names, exposure=exposure, name=name),))


class GaussianProcess(AbstractComponent):
    """The component; ``GP`` makes a model of it."""

    kernel: Any
    exposure: bool
    name: str | None
    hyperparameters: tuple[str, ...]
    states: tuple[str, ...]
    inputs: tuple[str, ...]

    continuous_time: ClassVar[bool] = True

    def __init__(
        self,
        kernel: Kernel | Callable[[Theta], Kernel],
        names: Sequence[str] | None = None,
        *,
        exposure: bool = False,
        name: str | None = None,
    ) -> None:
        if isinstance(kernel, Kernel):
            if names is not None:
                raise ModelError("GP(names): only for a function of the hyperparameters; a kernel has the names in it")
            kernel = jax.tree.map(lambda leaf: leaf if isinstance(leaf, str) else float(leaf), kernel)
            found = tuple(dict.fromkeys(leaf for leaf in jax.tree.leaves(kernel) if isinstance(leaf, str)))
        elif callable(kernel):
            found = labels("GP(names)", () if names is None else names)
            if not found:
                raise ModelError('GP: a function of the hyperparameters needs names=("...",), those that it reads')
        else:
            raise ModelError(
                f"GP: expected a kernel of ss.gp or a function that returns one, got {type(kernel).__name__}"
            )
        self.kernel, self.exposure, self.name = kernel, bool(exposure), name
        self.hyperparameters = found
        n_states, n_outputs = self._examined()
        self.states = (("gp",) if n_states == 1 else numbered("gp", n_states)) + ("gp_average",) * self.averages
        self.inputs = ("output",) if n_outputs > 1 else ()

    @property
    def averages(self) -> bool:
        """If it was made so."""
        return self.exposure

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """What is named."""
        return dict.fromkeys(self.hyperparameters, ())

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """The stationary law."""
        L = state.stationary_root(self._at(theta), int(self.averages))
        return [0.0] * len(L), L

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """Those of all its blocks, and of the average over an exposure that ends with the step."""
        kernel = self._at(theta)
        if not self.averages:
            return state.transition(kernel, obs.dt)
        exposure = jnp.zeros_like(obs.dt) if obs.exposure is None else obs.exposure[0]
        return state.averaging(kernel, obs.dt, exposure, self._output(obs))

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The sum of its blocks, or the output that ``output`` says."""
        h = state.row(self._at(theta), self._output(obs))
        if not self.averages:
            return h
        if obs.exposure is None:
            return [*h, 0.0]
        on = obs.exposure[0] > 0
        return [*(jnp.where(on, 0.0, e) for e in h), jnp.where(on, 1.0, 0.0)]

    def support(self, theta: Theta) -> Bool[Array, ""] | bool:
        """Where the kernel has such hyperparameters."""
        return state.admissible(self._at(theta))

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """By what a hyperparameter is of its kernel: see ``_LAWS``."""
        if not isinstance(self.kernel, Kernel):
            raise ModelError(f"a function has no default prior: give one for {', '.join(self.parameters)}")
        laws = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.kernel):
            if isinstance(leaf, str):
                field = str(getattr(path[-1], "name", path[-1]))
                if field not in _LAWS:
                    raise ModelError(f"there is no default prior for {leaf!r}, the {field} of a kernel: give one")
                laws[leaf] = _LAWS[field](scale)
        return laws

    def _output(self, obs: Observation) -> Array | None:
        if self.inputs and obs.inputs is None:
            raise ModelError('the kernel has several outputs: give inputs={"output": number} at each step')
        return obs.inputs[0] if self.inputs and obs.inputs is not None else None

    def _at(self, theta: Theta) -> Kernel:
        if isinstance(self.kernel, Kernel):
            return jax.tree.map(lambda leaf: theta[leaf] if isinstance(leaf, str) else leaf, self.kernel)
        kernel = self.kernel(theta)
        if not isinstance(kernel, Kernel):
            raise ModelError(f"GP: the function returned {type(kernel).__name__}, expected a kernel of ss.gp")
        return kernel

    def _examined(self) -> tuple[int, int]:
        """The numbers of states and of outputs, whatever the hyperparameters."""
        outputs = []

        def look(theta: Theta) -> Array:
            kernel = self._at(theta)
            outputs.append(kernel.n_outputs)
            return jnp.zeros(len(state.stationary_root(kernel)))

        size = jax.eval_shape(look, {name: jnp.ones(()) for name in self.parameters})
        return size.shape[0], outputs[0]


_LAWS: Mapping[str, Callable[[float], Marginal]] = {
    "sigma": HalfNormal,
    "scale": lambda _: LogNormal(10.0, 1.5),
    "period": lambda _: LogNormal(10.0, 1.0),
    "omega": lambda _: LogNormal(0.6, 1.0),
    "quality": lambda _: LogNormal(2.0, 1.0),
    "gamma": lambda _: LogNormal(1.0, 1.0),
    "factor": lambda _: LogNormal(1.0, 1.5),
}
"""Times are taken to be of the order of 10 units, as for ``OrnsteinUhlenbeck`` and ``Cycle``."""
