"""A user's functions of one particle, tried out once on examples: what they return, or what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from smcssm.errors import ModelError
from smcssm.models.user_function import Recorder, Step, plain

Shape = tuple[int, ...]

CALLED = {
    "sample_initial": "(key, theta)",
    "sample_transition": "(key, theta, x, step)",
    "sample_observation": "(key, theta, x, step)",
    "log_observation": "(theta, x, y, step)",
    "proposal": "(key, theta, x, y, step) -> (x', log_ratio)",
    "look_ahead": "(theta, x, y, step)",
}
OF_REGIMES = {
    "log_observation": "(theta, y, step)",
    "sample": "(key, theta, regime, step)",
    "moments": "(theta, step) -> mean, sd",
    "cdf": "(theta, y, step)",
}


class Functions(eqx.Module):
    """What the user gave, called as in ``CALLED``."""

    sample_initial: Callable[..., Any]
    sample_transition: Callable[..., Any]
    log_observation: Callable[..., Any]
    sample_observation: Callable[..., Any] | None
    proposal: Callable[..., Any] | None
    look_ahead: Callable[..., Any] | None


def try_out(
    functions: Functions, shapes: Mapping[str, Shape], sizes: tuple[int, int], given: Mapping[str, Any]
) -> tuple[Shape, frozenset[str]]:
    """The shape of the state, and the fields of ``Step`` that are read; ``sizes`` are numbers of channels and inputs.

    Raises:
        ModelError: naming the function: it raised, returned another shape than expected, or NaN.
    """
    return _at_example("Nonlinear", shapes, sizes, given, lambda theta, step: _run(functions, theta, step, sizes[0]))


def try_out_regimes(
    functions: Mapping[str, Callable[..., Any]],
    shapes: Mapping[str, Shape],
    sizes: tuple[int, int],
    given: Mapping[str, Any],
) -> frozenset[str]:
    """The same of those of ``OF_REGIMES`` that there are; ``sizes`` are numbers of regimes and channels."""
    at_example = partial(_at_example, "HiddenMarkov", shapes, (sizes[1], 0), given)
    return at_example(lambda theta, step: _run_regimes(functions, theta, step, sizes))


def _at_example[T](
    model: str,
    shapes: Mapping[str, Shape],
    sizes: tuple[int, int],
    given: Mapping[str, Any],
    run: Callable[[dict[str, Array], Step], T],
) -> T:
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        theta = {name: _example(model, name, shape, given) for name, shape in shapes.items()}
        if unknown := sorted(set(given) - set(shapes)):
            raise ModelError(f"{model}(example): {', '.join(unknown)} is not among the names {', '.join(shapes)}")
        step = Step(jnp.asarray(1), jnp.asarray(1.0), jnp.ones(sizes[1]) if sizes[1] else None)
        try:
            return run(theta, step)
        except ModelError as first:
            try:  # perhaps it needs a noise_sd
                return run(theta, step._replace(noise_sd=jnp.ones(sizes[0])))
            except ModelError:
                raise first from first.__cause__


def _example(model: str, name: str, shape: Shape, given: Mapping[str, Any]) -> Array:
    value = jnp.asarray(given.get(name, jnp.full(shape, 0.5)), float)
    if value.shape != shape:
        raise ModelError(f"{model}(example): {name} has shape {value.shape}, expected {shape}")
    return value


def _run(functions: Functions, theta: dict[str, Array], step: Step, n_channels: int) -> tuple[Shape, frozenset[str]]:
    """Every function once, each given what the ones before returned; of dt it counts that the transition reads it."""
    reads: set[str] = set()
    moving: set[str] = set()
    trial = _Trial({name: getattr(functions, name) for name in CALLED}, CALLED, theta)
    key, told, f = jax.random.key(0), Recorder(step, reads), functions
    x = trial.call("sample_initial", key, theta)
    trial.check("sample_initial", x, x.shape if x.ndim <= 1 and x.size else ("number of states",))
    trial.at = f", x={x}, step.t={step.t}, step.dt={step.dt}"
    trial.check("sample_transition", trial.call("sample_transition", key, theta, x, Recorder(step, moving)), x.shape)
    of_y = ((), (1,)) if n_channels == 1 else ((n_channels,),)
    y = jnp.full(of_y[0], 0.5)
    if f.sample_observation is not None:
        drawn = trial.call("sample_observation", key, theta, x, told)
        trial.check("sample_observation", drawn, *of_y)
        y = drawn.reshape(of_y[0]).astype(float)
    trial.at += f", y={y}"
    log_g = trial.call("log_observation", theta, x, y, told)
    if f.sample_observation is None:
        log_g = jnp.nan_to_num(log_g)  # y is made up: its density need not make sense
    trial.check("log_observation", log_g, *dict.fromkeys(((), *of_y)))
    if f.proposal is not None:
        new, log_ratio = trial.call("proposal", key, theta, x, y, told)
        trial.check("proposal", new, x.shape)
        trial.check("proposal", log_ratio, ())
    if f.look_ahead is not None:
        trial.check("look_ahead", trial.call("look_ahead", theta, x, y, told), ())
    return x.shape, frozenset(reads - {"dt"} | moving)


def _run_regimes(
    functions: Mapping[str, Callable[..., Any]], theta: dict[str, Array], step: Step, sizes: tuple[int, int]
) -> frozenset[str]:
    """As ``_run``; of a y that is made up no density or probability need make sense."""
    reads: set[str] = set()
    trial, told, (K, ny) = _Trial(functions, OF_REGIMES, theta), Recorder(step, reads), sizes
    shapes = ((K, ny), (K,)) if ny == 1 else ((K, ny),)
    y, trial.at = jnp.full(ny, 0.5), f", step.t={step.t}, step.dt={step.dt}"
    if drawn := "sample" in functions:
        for regime in range(K):
            found = trial.call("sample", jax.random.key(0), theta, jnp.asarray(regime), told)
            trial.check("sample", found, (ny,), *(((),) if ny == 1 else ()))
            y = found.reshape(ny).astype(float)
    seen = y[0] if ny == 1 else y
    if "moments" in functions:
        for moment in trial.call("moments", theta, told):
            trial.check("moments", moment, *shapes)
    trial.at += f", y={seen}"
    for name in ("log_observation", "cdf"):
        if name in functions:
            value = trial.call(name, theta, seen, told)
            trial.check(name, value if drawn else jnp.nan_to_num(value), *shapes)
    return frozenset(reads)


class _Trial:
    """Calls of a user's functions, ``called`` so, and complaints about them; ``at`` says where."""

    def __init__(
        self, functions: Mapping[str, Any], called: Mapping[str, str], theta: Mapping[str, Array]
    ) -> None:
        self.functions, self.called = functions, called
        self.told, self.at = ", ".join(f"{k}={v}" for k, v in theta.items()), ""

    def call(self, name: str, *arguments: Any) -> Any:
        """What a function returns for numbers; placeholders it must take too, as it is compiled for many particles."""
        function = self.functions[name]
        try:
            found = plain(function)(*arguments)
            jax.eval_shape(plain(function), *(a.step if isinstance(a, Recorder) else a for a in arguments))
            if "->" in self.called[name]:
                one, other = found
                return jnp.asarray(one), jnp.asarray(other)
            return jnp.asarray(found)
        except Exception as error:
            raise ModelError(
                f"{label(name, function)} raised {type(error).__name__}: {error}. It is called as {self.called[name]}, "
                f"run by JAX for one particle, with hyperparameters {self.told}: use jax.numpy"
            ) from error

    def check(self, name: str, value: Array, *allowed: Any) -> None:
        own = label(name, self.functions[name])
        if value.shape not in allowed:
            raise ModelError(f"{own} returned shape {value.shape}, expected {' or '.join(map(str, allowed))}")
        if bool(jnp.isnan(value).any()):
            raise ModelError(
                f"{own} returned NaN at {self.told}{self.at}. If these hyperparameters make no sense, say which do: "
                "example={...}"
            )


def label(name: str, function: Any) -> str:
    """Of a function: what it is for, and its own name."""
    own = getattr(function, "__name__", type(function).__name__)
    return name if own in (name, "<lambda>") else f"{name} ({own})"
