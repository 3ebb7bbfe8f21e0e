"""Finite Markov chains of regimes: probabilities from a user's functions, and what a filter asks of them.

Probabilities are entries (numbers or arrays [s, n]) of a user's function; as arrays they are NaN in a row that has a
negative entry or does not add up to one within 1e-6, so that a wrong number never passes for a likelihood: the particle
gets status NOT_FINITE and weight zero. Rows of numbers are checked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smcssm.core import Observation, Theta
from smcssm.errors import ModelError
from smcssm.linalg import stack
from smcssm.models.matrices import as_entries
from smcssm.models.user_function import MatrixFunction
from smcssm.relabelling import in_order as in_order
from smcssm.relabelling import permuted as permuted

SLACK = 1e-6
"""How far from one a row of probabilities may add up."""


class Chain(eqx.Module):
    """Laws of u_1 and of u_t given u_t-1, as functions of theta, or of theta and the step."""

    start: MatrixFunction
    move: MatrixFunction
    size: int

    def __init__(
        self,
        initial: Any,
        transition: Any,
        names: tuple[str, ...],
        shapes: tuple[tuple[int, ...], ...],
        size: int,
        n_inputs: int = 0,
    ) -> None:
        self.size = size
        initial = [1.0 / size] * size if initial is None else initial
        self.start = _function("initial", initial, (size,), names, shapes, 0)
        self.move = _function("transition", transition, (size, size), names, shapes, n_inputs)
        if self.start.takes_step:
            raise ModelError(f"initial={self.start.label}: expected a function of theta alone")

    @property
    def reads(self) -> frozenset[str]:
        """The fields of the step that the transition reads."""
        return self.move.reads

    def params(self, theta: Theta) -> dict[str, Any]:
        """What is computed of theta once."""
        own = {name: jnp.asarray(theta[name]) for name in self.move.names}
        return {"start": self.start.computed(own), "move": own if self.move.takes_step else self.move.computed(own)}

    def initial_probabilities(self, params: dict[str, Any], like: Float[Array, "s n"]) -> Float[Array, "k s n"]:
        """Law of u_1."""
        return checked(stack(self.start.fill(params["start"])["initial"], like))

    def transition(
        self, params: dict[str, Any], obs: Observation, like: Float[Array, "s n"]
    ) -> Float[Array, "k k s n"]:
        """P[i, j]: from i to j over dt > 0; the identity over dt = 0."""
        move = self.move
        found = move.over_population(params["move"], obs) if move.takes_step else move.fill(params["move"])
        P = checked(stack(found["transition"], like), axis=1)
        same = jnp.eye(self.size, dtype=like.dtype)[:, :, None, None]
        return jnp.where((obs.dt == 0)[None, None], same, P)

    def function_named(self, initial: bool) -> str:
        """One of the two functions."""
        return f"initial ({self.start.label})" if initial else f"transition ({self.move.label})"

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """Whether theta, of one particle, gives probabilities; rows that depend on the step are seen when it comes."""
        good = jnp.asarray(True)
        for function, key in ((self.start, "initial"), (self.move, "transition")):
            if not function.takes_step:
                own = {name: jnp.asarray(theta[name]) for name in function.names}
                rows = function.fill(function.computed(own))[key]
                good = good & ~jnp.any(jnp.isnan(checked(stack(rows, jnp.zeros(())), axis=-1)))
        return good

    def complaint(self, theta: Theta) -> str | None:
        """What is wrong with the probabilities at theta, of one particle; None where nothing is."""
        for function, key in ((self.start, "initial"), (self.move, "transition")):
            if function.takes_step:
                continue
            found = function.fill(function.computed({name: jnp.asarray(theta[name]) for name in function.names}))[key]
            values = np.atleast_2d(np.asarray(stack(found, jnp.zeros(())), float))
            where = _first_bad(values)
            if where is not None:
                at = ", ".join(f"{name}={np.asarray(theta[name]).tolist()}" for name in function.names)
                return _told(function.label, key, where, values[where], f" at {at}")
        return None


def log(p: Array) -> Array:
    """log p, -inf at 0."""
    return jnp.where(p == 0, -jnp.inf, jnp.log(jnp.where(p == 0, 1.0, p)))


def checked(p: Array, axis: int = 0) -> Array:
    """Probabilities along an axis, made to add up to one to the last digit; NaN where they are none."""
    total = jnp.sum(p, axis=axis, keepdims=True)
    good = jnp.all(p >= 0, axis=axis, keepdims=True) & (jnp.abs(total - 1) <= SLACK)
    return jnp.where(good, p / total, jnp.nan)


def drawn(u: Float[Array, "s n"], p: Float[Array, "k s n"]) -> Int[Array, "s n"]:
    """The regime that a uniform number falls into."""
    cumulative = jnp.cumsum(p, axis=0)
    return jnp.sum(cumulative <= u[None] * cumulative[-1:], axis=0).clip(0, len(p) - 1).astype(jnp.int32)


def of_regime(u: Int[Array, "*m s n"], values: Sequence[Array]) -> Array:
    """Values [s, n] of the regime u."""
    out = lifted(values[0], u.ndim)
    for k, value in enumerate(values[1:], start=1):
        out = jnp.where(u == k, lifted(value, u.ndim), out)
    return out


def select(u: Int[Array, "*m s n"], entries: Sequence[Any], dtype: Any) -> Any:
    """The entry, of one per regime, that belongs to u; nested lists too. A number where all are that number."""
    if isinstance(entries[0], (list, tuple)):
        return [select(u, each, dtype) for each in zip(*entries, strict=True)]
    if all(isinstance(e, float) and e == entries[0] for e in entries):
        return entries[0]
    return of_regime(u, [jnp.asarray(e, dtype) for e in entries])


def lift(entries: Any, ndim: int) -> Any:
    """Nested entries with axes of size 1 in front; numbers stay as they are."""
    if isinstance(entries, (list, tuple)):
        return [lift(e, ndim) for e in entries]
    return entries if isinstance(entries, float) else lifted(entries, ndim)


def lifted(a: Array, ndim: int) -> Array:
    """With axes of size 1 in front."""
    return a.reshape((1,) * (ndim - a.ndim) + a.shape)


class Constant(eqx.Module):
    """A function that always returns the same, hashable."""

    values: tuple

    def __call__(self, theta: Theta) -> Any:
        """The values."""
        return self.values


def _function(
    key: str,
    given: Any,
    shape: tuple[int, ...],
    names: tuple[str, ...],
    shapes: tuple[tuple[int, ...], ...],
    n_inputs: int,
) -> MatrixFunction:
    """A user's function, or their numbers, as entries of that shape; rows of numbers that are no law are refused."""
    function: Callable = given if callable(given) else Constant(_frozen(key, given))
    made = MatrixFunction(function, names, shapes, n_inputs, Probabilities(key, shape))
    entries = made.examine()[0][key]
    for i, row in enumerate([entries] if len(shape) == 1 else entries):
        if None not in row and _first_bad(np.array([row])) is not None:
            raise ModelError(_told(made.label, key, i, np.array(row), ""))
    return made


def _frozen(key: str, given: Any) -> tuple:
    try:
        values = np.asarray(given, float)
    except (TypeError, ValueError):
        raise ModelError(f"{key}={given!r}: expected probabilities, or a function of theta that returns them") from None

    def as_tuple(a: Any) -> Any:
        return tuple(map(as_tuple, a)) if isinstance(a, list) else a

    return as_tuple(np.atleast_1d(values).tolist())


class Probabilities(eqx.Module):
    """Checks what a function returned: entries of one vector or matrix."""

    key: str
    shape: tuple[int, ...]

    def __call__(self, result: Any) -> dict[str, Any]:
        """Nested lists of entries."""
        entries = as_entries(self.key, result)
        got = _shape_of(entries)
        if got != self.shape:
            raise ModelError(f"{self.key}: got shape {got}, expected {self.shape} for {self.shape[0]} regimes")
        return {self.key: entries}


def _shape_of(entries: Any) -> tuple[int, ...]:
    if not isinstance(entries, list):
        return ()
    inner = {_shape_of(e) for e in entries}
    return (len(entries), *inner.pop()) if len(inner) == 1 else (len(entries), -1)


def _first_bad(values: np.ndarray) -> int | None:
    good = (values >= 0).all(axis=-1) & (np.abs(values.sum(axis=-1) - 1) <= SLACK)
    return None if good.all() else int(np.argmin(good))


def _told(label: str, key: str, row: int, values: np.ndarray, at: str) -> str:
    which = "" if key == "initial" else f"row {row} of "
    numbers = ", ".join(f"{v:.6g}" for v in values)
    return (
        f"{which}{key} ({label}) is [{numbers}]{at}: expected probabilities that add up to 1, got a sum of "
        f"{values.sum():.6g}. Rows are the regime before, columns the regime after"
    )
