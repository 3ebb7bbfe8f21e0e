"""A user's function of one particle, evaluated over a population, what it leaves constant kept as numbers.

Which entries of its matrices are constant is found by running it once on placeholders, eagerly and under vmap: an
entry that is no tracer was computed without hyperparameters and step. Asked again for each program that is compiled,
so that constants have that program's precision.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from smcssm.core import Observation, Theta
from smcssm.errors import ModelError


class Step(NamedTuple):
    """What a function may read of the step that ends in an observation: scalars, or vectors of inputs and channels."""

    t: Any
    """Index of the observation."""
    dt: Any
    """Time since the previous observation; 0 at the first."""
    inputs: Any = None
    """Inputs, in the order of their names; None where the model has none."""
    noise_sd: Any = None
    """The given noise of each channel, a standard deviation; None where none was given."""


class MatrixFunction(eqx.Module):
    """(theta) or (theta, step) -> dict of matrices, or what ``finish`` makes one of."""

    function: Callable[..., Any]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    n_inputs: int
    finish: Callable[[Any], Mapping[str, Any]]
    """Checks what the function returned, and makes nested lists of entries of it."""
    takes_step: bool = eqx.field(init=False)

    def __post_init__(self) -> None:
        """See whether it takes a step."""
        self.takes_step = _takes_step(self.function)

    @property
    def label(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def reads(self) -> frozenset[str]:
        """The fields of ``Step`` that it reads."""
        return self.examine()[1]

    def over_population(self, theta: Theta, obs: Observation) -> dict[str, Any]:
        """Matrices of one step for hyperparameters ``[..., s, n]``; only for functions that take a step."""
        step = Step(obs.index, obs.dt, obs.inputs if self.n_inputs else None, obs.noise_sd)
        if self.n_inputs and obs.inputs is None:
            raise ModelError(f"{self.label} reads {self.n_inputs} inputs: give inputs=... at each step")
        particles = jax.vmap(self.computed, in_axes=(-1, None), out_axes=-1)
        series = jax.vmap(particles, in_axes=(-2, -1), out_axes=-2)
        per_series = jax.tree.map(lambda leaf: leaf[..., 0], step)
        return self.fill(series(dict(theta), per_series), None if step.noise_sd is None else len(step.noise_sd))

    def computed(self, theta: Theta, step: Step | None = None) -> list[Array]:
        """The entries that depend on theta or step, for one particle."""
        noises = None if step is None or step.noise_sd is None else len(step.noise_sd)
        template, _ = self.examine(noises)
        entries = _leaves(self._call(theta, step))
        dtype = jnp.result_type(float, *theta.values())
        return [jnp.asarray(e, dtype) for e, known in zip(entries, _leaves(template), strict=True) if known is None]

    def fill(self, computed: list[Array], noises: int | None = None) -> dict[str, Any]:
        """All matrices from the entries that were computed."""
        template, _ = self.examine(noises)
        remaining = iter(computed)
        return {key: _fill(value, remaining) for key, value in template.items()}

    def examine(self, noises: int | None = None) -> tuple[dict[str, Any], frozenset[str]]:
        """All matrices, None for the entries that are computed; and the fields of ``Step`` that are read.

        Args:
            noises: number of channels for which noise_sd is given, or None.
        """
        seen: list[dict[str, Any]] = []
        reads: set[str] = set()

        def one(theta: dict[str, Array], step: Step) -> Array:
            seen.append(self._call(theta, Recorder(step, reads) if self.takes_step else None))
            return step.dt

        with jax.ensure_compile_time_eval():  # placeholders have values, even while another program is traced
            theta = {name: jnp.full((1, *shape), 0.5) for name, shape in zip(self.names, self.shapes, strict=True)}
            inputs = jnp.ones((1, self.n_inputs)) if self.n_inputs else None
            noise_sd = None if noises is None else jnp.ones((1, noises))
            jax.vmap(one)(theta, Step(jnp.ones(1, int), jnp.ones(1), inputs, noise_sd))
        return {key: _known(value) for key, value in seen[0].items()}, frozenset(reads)

    def _call(self, theta: Theta, step: Any) -> dict[str, Any]:
        own, function = {name: theta[name] for name in self.names}, plain(self.function)
        try:
            return dict(self.finish(function(own, step) if self.takes_step else function(own)))
        except ModelError as error:
            raise ModelError(f"{self.label}: {error}") from error
        except Exception as error:
            without_noise = "NoneType" in str(error) and step is not None and step.noise_sd is None
            shapes = ", ".join(f"{name} {shape}" for name, shape in zip(self.names, self.shapes, strict=True))
            raise ModelError(
                f"{self.label} raised {type(error).__name__}: {error}. It is run by JAX for one particle, with "
                f"hyperparameters of shapes {shapes}: use jax.numpy, and give shapes={{...}} for what is no scalar"
                + ("; step.noise_sd is None where none is given, and for the initial law" if without_noise else "")
            ) from error


class Recorder:
    """A Step that notes which fields are read."""

    def __init__(self, step: Step, reads: set[str]) -> None:
        self._step, self._reads = step, reads

    @property
    def step(self) -> Step:
        """Unwatched."""
        return self._step

    def __getattr__(self, field: str) -> Any:
        value = getattr(self._step, field)
        self._reads.add(field)
        return value


def plain(function: Callable) -> Callable:
    """Without ``jax.jit``, under which nobody sees what a function reads."""
    while isinstance(function, jax.stages.Wrapped) and (inside := getattr(function, "__wrapped__", None)) is not None:
        function = inside
    return function


def _takes_step(function: Callable) -> bool:
    if not callable(function):
        raise ModelError(f"expected a function of (theta) or (theta, step), got {type(function).__name__}")
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in positional if p.default is p.empty or p.name == "step"]
    if len(needed) not in (1, 2):
        raise ModelError(f"expected a function of (theta) or (theta, step), got one of ({', '.join(needed)})")
    return len(needed) == 2


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for v in value for leaf in _leaves(v)] if isinstance(value, list) else [value]


def _known(value: Any) -> Any:
    if isinstance(value, list):
        return [_known(v) for v in value]
    return value if isinstance(value, float) else None


def _fill(template: Any, computed: Iterator[Array]) -> Any:
    if isinstance(template, list):
        return [_fill(v, computed) for v in template]
    return next(computed) if template is None else template
