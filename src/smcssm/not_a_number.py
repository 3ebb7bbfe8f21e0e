"""Which function of a model made a likelihood that is no number: the step of the filter once more, call by call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from smcssm.core import Observation
from smcssm.filters import inner
from smcssm.filters.particle import Particles
from smcssm.smc2.population import SMC2, Population, Stream, at_particles, stream

ASIDE = ("look_ahead", "predictive", "sample_observation", "emission")  # likelihoods do not depend on these
DENSITY = "log_observation"  # which may be infinite only one way
PROBABILITIES = ("start", "successors", "initial_probabilities", "transition")


class Call(NamedTuple):
    """Of a method of the model."""

    method: str
    arguments: tuple
    found: PyTree


class Watched:
    """A model that remembers how its methods were called."""

    def __init__(self, model: Any) -> None:
        self._model, self.calls = model, []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        if not callable(value):
            return value

        def called(*arguments: Any) -> Any:
            with jax.disable_jit(False):  # loops in it are quick only when compiled
                found = value(*arguments)
            self.calls.append(Call(name, arguments, found))
            return found

        return called


def told(
    smc: SMC2, population: Population, belief: PyTree, rows: Sequence[Observation], lost: Bool[np.ndarray, " s"]
) -> str:
    """What happened at the first of the rows after ``belief`` that left some of the ``lost`` series with a NaN.

    Of a model of the user's own functions. Run outside of any program, as what is compiled has no calls any more.
    """
    watched, belief = Watched(smc.filter.model), _without_the_dead(belief)
    filter = eqx.tree_at(lambda f: f.model, smc.filter, watched)
    alive = np.isfinite(np.asarray(population.log_weight)) & lost[:, None]
    for row in rows:
        obs = jax.tree.map(jnp.asarray, row)
        watched.calls.clear()
        key = stream(population.key, Stream.FILTER, obs.index)
        before = belief
        with jax.disable_jit():
            belief, info = filter.step(key, population.params, before, at_particles(obs))
        log_lik = np.asarray(info.log_lik)
        if (broken := alive & (np.isnan(log_lik) | np.isposinf(log_lik))).any():
            s, n = (int(i) for i in np.argwhere(broken)[0])
            share = f"{broken[s].sum()} of {alive[s].sum()} particles, and a positive one for none"
            given = _hyperparameters(smc, population.z[:, s, n])
            step = f"step.t={int(obs.index[s])}, step.dt={float(obs.dt[s]):g}"
            blame = _blame(watched, s, n) or _unblamed(before, s, n)
            return f"has a likelihood of NaN for {share}. {blame} At {given}, {step}"
    return "has a likelihood of NaN"


def _without_the_dead(belief: PyTree) -> PyTree:
    """Inner particles of weight zero, which may be anything, with the state of one that has some."""
    if not isinstance(belief, Particles):
        return belief
    alive = jnp.isfinite(belief.log_weight)
    return replace(belief, x=jnp.where(alive[None], belief.x, inner.take(belief.x, jnp.argmax(alive, axis=0)[None])))


def _blame(watched: Watched, s: int, n: int) -> str | None:
    """The first call of this row that gave a NaN to particle n of series s, which was not given one."""

    def at(tree: PyTree) -> list[np.ndarray]:
        return [_of_particle(np.asarray(leaf), s, n) for leaf in jax.tree.leaves(tree)]

    def broken(tree: PyTree) -> bool:
        return any(np.isnan(a).any() for a in at(tree) if a.dtype.kind == "f")

    for call in watched.calls:
        if call.method in ASIDE:
            continue
        found = at(call.found)
        infinite = call.method == DENSITY and any(np.isposinf(a).any() for a in found)
        if infinite or broken(call.found):
            name, state = _named(watched, call, broken), _state(call, found, at)
            what = "+inf" if infinite and not broken(call.found) else "NaN"
            if call.method in PROBABILITIES:
                what = "no probabilities: a NaN, a negative number, or a row that does not add up to 1"
            if state is not None and np.isnan(state).any():
                return _origin(watched, call, at)
            return f"{name} returned {what}{'' if state is None else f' for x={_written(state)}'}."
    return None


def _unblamed(before: PyTree, s: int, n: int) -> str:
    """What is known where no call of this row is to blame."""
    if any(np.isnan(_of_particle(np.asarray(leaf), s, n)).any() for leaf in jax.tree.leaves(before)):
        return "The state was NaN before: a function returned it as the initial law, or at an earlier time."
    return "No function of the model returned NaN, but what they returned does not give a number."


def _named(watched: Watched, call: Call, broken: Callable[[PyTree], bool]) -> str:
    """The function as its author calls it."""
    return watched._model.function_named(*call[:2], broken)


def _state(call: Call, found: list[np.ndarray], at: Callable[[PyTree], list[np.ndarray]]) -> Float[Any, " x"] | None:
    """Of the first inner particle that got a NaN, from a state without if there is one; None where x is no argument."""
    states = [a for a in call.arguments if isinstance(a, jax.Array) and a.ndim == 4 and a.dtype.kind == "f"]
    if not states:
        return None
    (x,) = at(states[0])
    bad = np.any([~np.isfinite(a).reshape(-1, x.shape[-1]).all(axis=0) for a in found], axis=0)
    fine = bad & ~np.isnan(x).any(axis=0)
    return x[:, int(np.argmax(fine if fine.any() else bad))]


def _origin(watched: Watched, call: Call, at: Callable[[PyTree], list[np.ndarray]]) -> str:
    """Which of the two functions that make states gave one of NaN, that this call was given."""
    *_, params, x, obs = call.arguments
    keys = jax.random.split(jax.random.key(0), x.shape[-2])
    first = at(watched._model.sample_initial(keys, params, obs, x.shape[1]))
    method, when = ("sample_initial", "") if np.isnan(first[0]).any() else ("sample_transition", " at an earlier time")
    return f"{_named(watched, Call(method, (), None), lambda _: True)} returned NaN{when}."


def _of_particle(a: np.ndarray, s: int, n: int) -> np.ndarray:
    """What a leaf ``[..., #s, #n]`` holds for it."""
    if a.ndim < 2:
        return a
    return a[..., s if a.shape[-2] > 1 else 0, n if a.shape[-1] > 1 else 0]


def _hyperparameters(smc: SMC2, z: Float[Array, " z"]) -> str:
    theta = smc.prior.constrain(z)
    return ", ".join(f"{name}={_written(np.asarray(theta[name]))}" for name in smc.filter.model.names)


def _written(value: np.ndarray) -> str:
    return f"{value.item():.6g}" if value.size == 1 else np.array2string(value, precision=6, separator=", ")
