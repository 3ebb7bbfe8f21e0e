"""Univariate models as sums of components: Level() + Seasonal(12) + Regression(2) + Noise().

Harvey (1989), Forecasting, Structural Time Series Models and the Kalman Filter, chapter 2. A component is a block of
the state with its own transition, and a row that says how the block enters the observation; a sum stacks the blocks.
Its methods see the whole population: entries of ``theta`` end in ``[s, n]``, leaves of ``obs`` in ``[s, 1]``.
"""

import abc
import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from smcssm.core import AbstractLinearGaussian, AbstractPrior, Matrix, Observation, System, Theta
from smcssm.errors import ModelError
from smcssm.linalg.entries import block_diagonal
from smcssm.priors.base import HalfNormal, Independent, Marginal


class AbstractComponent(eqx.Module):
    """A summand of a structural model. Give ``name`` to tell two components of a kind apart."""

    name: eqx.AbstractVar[str | None]
    parameters: eqx.AbstractVar[Mapping[str, tuple[int, ...]]]
    """The hyperparameters and their shapes, () for a scalar; without the component's name. What is called sigma_... is
    a standard deviation: the support has no negative ones."""
    states: eqx.AbstractVar[tuple[str, ...]]
    """The states, without the component's name."""
    inputs: eqx.AbstractVar[tuple[str, ...]]
    """The inputs that the component reads, in the order of its coefficients."""
    continuous_time: eqx.AbstractVar[bool]
    """Whether the transition is exact for any dt > 0; otherwise it is one step, whatever dt."""

    @property
    def averages(self) -> bool:
        """Whether it is averaged over the exposure of an observation. A hook: others are seen as at its end."""
        return False

    @abc.abstractmethod
    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """m0 and chol_P0 of the block."""

    @abc.abstractmethod
    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """F and chol_Q of the block; rows of chol_Q are empty where the block has no noise."""

    @abc.abstractmethod
    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The row of H. ``obs.inputs`` are the component's own."""

    def support(self, theta: Theta) -> Bool[Array, ""] | bool:
        """Whether one particle's hyperparameters are admissible. A hook: most components accept all."""
        return True

    @abc.abstractmethod
    def marginals(self, scale: float) -> dict[str, Marginal]:
        """Weakly informative priors for data that vary by about ``scale``."""

    def __add__(self, other: object) -> "Structural":
        """A structural model of both."""
        return _sum(self, other)


class Noise(eqx.Module):
    """Observation noise: y = signal + sigma_obs n; ``sigma_obs`` is a standard deviation.

    Where observations bring their own ``noise_sd``, known from the instrument, variances add: the total standard
    deviation is sqrt(sigma_obs² + noise_sd²). In a sum without ``Noise()`` it is ``noise_sd``, or zero.
    """

    def __add__(self, other: object) -> "Structural":
        """Noise may stand anywhere in a sum."""
        return _sum(self, other)


class Structural(AbstractLinearGaussian):
    """A sum of components, with or without observation noise; one channel, ``y``."""

    components: tuple[AbstractComponent, ...]
    noise: Noise | None = None
    names: tuple[str, ...] = eqx.field(init=False)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(init=False)
    state_names: tuple[str, ...] = eqx.field(init=False)
    input_names: tuple[str, ...] = eqx.field(init=False)
    continuous_time: bool = eqx.field(init=False)

    channel_names: ClassVar[tuple[str, ...]] = ("y",)

    def __post_init__(self) -> None:
        """Collect the names of the parts, and refuse two parts that would share one."""
        if not self.components:
            raise ModelError("a model needs a component beside its noise: Level() + Noise()")
        parameters = [(_full(c, p), shape) for c in self.components for p, shape in c.parameters.items()]
        parameters += [("sigma_obs", ())] if self.noise is not None else []
        names = tuple(name for name, _ in parameters)
        states = tuple(_full(c, s) for c in self.components for s in c.states)
        inputs = tuple(i for c in self.components for i in c.inputs)
        for kind, found in (("state", states), ("hyperparameter", names), ("input", inputs)):
            twice = sorted({n for n in found if found.count(n) > 1})
            if twice:
                raise ModelError(f"two components share the {kind} {', '.join(twice)}: give one of them name=...")
        self.names, self.shapes = names, tuple(shape for _, shape in parameters)
        self.state_names, self.input_names = states, inputs
        self.continuous_time = all(c.continuous_time for c in self.components)

    @property
    def averages(self) -> bool:
        """Whether a component is averaged over exposures."""
        return any(c.averages for c in self.components)

    @property
    def deviations(self) -> tuple[str, ...]:
        """The hyperparameters that are standard deviations."""
        own = [_full(c, p) for c in self.components for p in c.parameters if p.startswith("sigma_")]
        return (*own, "sigma_obs") if self.noise is not None else tuple(own)

    def __add__(self, other: object) -> "Structural":
        """Append a component, noise, or the parts of another sum."""
        return _sum(self, other)

    def params(self, theta: Theta) -> dict[str, Array]:
        """The hyperparameters themselves."""
        return {name: jnp.asarray(theta[name]) for name in self.names}

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Whether no standard deviation is negative, and every component accepts its hyperparameters."""
        accepted = [jnp.asarray(c.support(_own(c, theta))) for c in self.components]
        return reduce(operator.and_, accepted, nonnegative(theta, self.deviations))

    def initial(self, params: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """Blocks of all components."""
        blocks = [c.initial(_own(c, params)) for c in self.components]
        return [m for m0, _ in blocks for m in m0], block_diagonal([chol for _, chol in blocks])

    def matrices(self, params: Theta, obs: Observation) -> System:
        """Blocks of all components, side by side in the observation."""
        blocks, row, start = [], [], 0
        for c in self.components:
            own, width = _own(c, params), len(c.inputs)
            part = _with_inputs(obs, start, width)
            blocks.append(c.transition(own, part))
            row += list(c.row(own, part))
            start += width
        F = block_diagonal([F for F, _ in blocks])
        chol_Q = [entries or [0.0] for entries in block_diagonal([Q for _, Q in blocks])]
        sd = noise_sd(params["sigma_obs"] if self.noise is not None else 0.0, obs, 0)
        return System(F, [0.0] * len(F), chol_Q, [row], [0.0], [[sd]])

    def default_prior(self, scale: float) -> AbstractPrior:
        """Independent weakly informative priors."""
        marginals = {_full(c, p): m for c in self.components for p, m in c.marginals(scale).items()}
        if self.noise is not None:
            marginals["sigma_obs"] = HalfNormal(scale)
        return Independent(marginals)


def nonnegative(theta: Theta, names: Sequence[str]) -> Bool[Array, ""]:
    """Whether none of these is negative."""
    return reduce(operator.and_, [jnp.all(theta[name] >= 0) for name in names], jnp.asarray(True))


def noise_sd(sigma: Any, obs: Observation, channel: int) -> Any:
    """Standard deviation of a channel's noise: the model's own and the given one together."""
    if obs.noise_sd is None:
        return sigma
    given = obs.noise_sd[channel]
    return given if isinstance(sigma, float) and sigma == 0.0 else jnp.sqrt(sigma * sigma + given * given)


def _sum(*summands: object) -> Any:
    components, noises = [], []
    for part in summands:
        if isinstance(part, Structural):
            components += part.components
            noises += [part.noise] if part.noise is not None else []
        elif isinstance(part, AbstractComponent):
            components.append(part)
        elif isinstance(part, Noise):
            noises.append(part)
        else:
            return NotImplemented
    if len(noises) > 1:
        raise ModelError("a sum has room for one Noise()")
    return Structural(tuple(components), *noises)


def _full(component: AbstractComponent, name: str) -> str:
    return name if component.name is None else f"{component.name}_{name}"


def _own(component: AbstractComponent, theta: Theta) -> dict[str, Array]:
    return {p: theta[_full(component, p)] for p in component.parameters}


def _with_inputs(obs: Observation, start: int, width: int) -> Observation:
    if width == 0 or obs.inputs is None:
        return obs
    return eqx.tree_at(lambda o: o.inputs, obs, obs.inputs[start : start + width])
