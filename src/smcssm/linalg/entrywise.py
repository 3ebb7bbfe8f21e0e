"""A function of many small matrices, done entry by entry: every entry of a matrix is an array over the population.

Arrays ``[..., s, n]`` become as many arrays ``[s, n]`` as they have entries, and what moves entries about (slices,
stacks, transposes) happens while the program is traced. What is left is arithmetic on arrays of one shape, of which
XLA makes one kernel on a GPU, intermediates in registers; of arrays of different shapes it makes one for each. (A
triangularisation of four states: 17 kernels, and now 1.) On a CPU compiling is slower, and running too.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

FEW = 8  # rows
MOST = 4000  # operations on entries; of more, compiling takes minutes and registers run out
Entries = np.ndarray
"""An array of objects: arrays ``[s, n]``, or of size 1 along either axis, or numbers; it ends in [1, 1]."""


class NotEntrywise(Exception):
    """A primitive that mixes entries in a way that is not known here, or too many operations."""


def in_one_kernel(f: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """``f(*args)``; on a GPU entry by entry."""
    return f(*args) if jax.default_backend() == "cpu" else entrywise(f, *args)


def scan_entries(f: Callable[[Any, Any], tuple[Any, Any]], carry: PyTree, rows: PyTree) -> tuple[PyTree, PyTree]:
    """``lax.scan``, on a CPU; on a GPU, of up to ``FEW`` rows, written out, so that it can be done entry by entry."""
    count = len(jax.tree.leaves(rows)[0])
    if jax.default_backend() == "cpu" or count > FEW:
        return jax.lax.scan(f, carry, rows)
    out = []
    for i in range(count):
        carry, told = f(carry, jax.tree.map(operator.itemgetter(i), rows))
        out.append(told)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *out)


def at_entry(a: jax.Array, i: Any) -> jax.Array:
    """``a[i]``, where i may be known only when running, as in a scan."""
    return jax.lax.dynamic_index_in_dim(a, i, keepdims=False) if isinstance(i, jax.Array) else a[int(i)]


def entrywise(f: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """``f(*args)`` of leaves ``[..., s, n]`` (or 1 for s or n), f being the same for every series and particle.

    What cannot be done entry by entry is done as it stands.
    """
    leaves, tree = jax.tree.flatten(args)
    if min(leaf.ndim for leaf in leaves) < 2:
        return f(*args)
    shape = np.broadcast_shapes(*(leaf.shape[-2:] for leaf in leaves))
    one = [jax.ShapeDtypeStruct((*leaf.shape[:-2], 1, 1), leaf.dtype) for leaf in leaves]
    closed, out = jax.make_jaxpr(lambda *x: f(*jax.tree.unflatten(tree, x)), return_shape=True)(*one)
    try:
        told = _Run(MOST)(closed.jaxpr, closed.consts, [_apart(leaf) for leaf in leaves])
    except NotEntrywise:
        return f(*args)
    like, tree = jax.tree.flatten(out)
    return jax.tree.unflatten(tree, [_together(e, as_one, shape) for e, as_one in zip(told, like, strict=True)])


def _apart(leaf: jax.Array) -> Entries:
    out = np.empty((*leaf.shape[:-2], 1, 1), object)
    for i in np.ndindex(leaf.shape[:-2]):
        out[i][0, 0] = leaf[i]
    return out


def _together(entries: Entries, like: Any, shape: tuple[int, ...]) -> jax.Array:
    flat = [jnp.broadcast_to(jnp.asarray(e, like.dtype), shape) for e in entries.reshape(-1)]
    return jnp.stack(flat).reshape(*entries.shape[:-2], *shape) if flat else jnp.zeros((*entries.shape[:-2], *shape))


def _constant(value: Any) -> Entries:
    out = np.empty(np.shape(value), object)
    for i in np.ndindex(out.shape):
        out[i] = np.asarray(value)[i]
    return out


class _Run:
    """Runs a program on entries, and counts."""

    def __init__(self, most: int) -> None:
        self.left = most

    def __call__(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Entries]) -> list[Entries]:
        known: dict[Any, Entries] = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
        known |= dict(zip(jaxpr.invars, args, strict=True))

        def read(v: Any) -> Entries:
            return _constant(np.asarray(v.val, v.aval.dtype)) if hasattr(v, "val") else known[v]

        for eqn in jaxpr.eqns:
            known.update(zip(eqn.outvars, self._one(eqn, [read(v) for v in eqn.invars]), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _one(self, eqn: Any, args: list[Entries]) -> Sequence[Entries]:
        name = eqn.primitive.name
        if name in _ARITHMETIC:
            return [self._arithmetic(eqn, args)]
        if name in _MOVED:
            return _MOVED[name](eqn.params, *args)
        if name in _REDUCED:
            return [self._reduced(_REDUCED[name], eqn.params["axes"], args[0])]
        if name in _CALLED:
            inner = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params)
            return self(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), args)
        raise NotEntrywise(name)

    def _arithmetic(self, eqn: Any, args: list[Entries]) -> Entries:
        """Entry by entry; entries that are the same object, of a broadcast array, once."""
        shape, seen = eqn.outvars[0].aval.shape, {}
        out, args = np.empty(shape, object), [np.broadcast_to(a, shape) for a in args]
        for i in np.ndindex(shape):
            xs = [a[i] for a in args]
            same = tuple(map(id, xs))
            if same not in seen:
                self._count()
                wide = np.broadcast_shapes(*map(np.shape, xs))
                typed = [jnp.asarray(x, v.aval.dtype) for x, v in zip(xs, eqn.invars, strict=True)]
                seen[same] = eqn.primitive.bind(*(jnp.broadcast_to(x, wide) for x in typed), **eqn.params), xs
            out[i] = seen[same][0]
        return out

    def _reduced(self, f: Callable[[Any, Any], Any], axes: tuple[int, ...], a: Entries) -> Entries:
        last = np.moveaxis(a, axes, range(a.ndim - len(axes), a.ndim))
        if not a.size:
            raise NotEntrywise("a reduction of nothing")
        last = last.reshape(*last.shape[: a.ndim - len(axes)], -1)
        out = np.empty(last.shape[:-1], object)
        for i in np.ndindex(out.shape):
            out[i] = functools.reduce(f, map(jnp.asarray, last[i]))
            self._count(last.shape[-1] - 1)
        return out

    def _count(self, operations: int = 1) -> None:
        self.left -= operations
        if self.left < 0:
            raise NotEntrywise("too many operations")


def _broadcast(params: dict[str, Any], a: Entries, *_: Any) -> list[Entries]:
    wide = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], a.shape, strict=True):
        wide[axis] = size
    return [np.broadcast_to(a.reshape(wide), params["shape"])]


def _slice(params: dict[str, Any], a: Entries) -> list[Entries]:
    steps = params["strides"] or (1,) * a.ndim
    return [a[tuple(map(slice, params["start_indices"], params["limit_indices"], steps))]]


def _iota(params: dict[str, Any]) -> list[Entries]:
    along = [-1 if axis == params["dimension"] else 1 for axis in range(len(params["shape"]))]
    numbers = np.arange(params["shape"][params["dimension"]], dtype=params["dtype"]).reshape(along)
    return [_constant(np.broadcast_to(numbers, params["shape"]))]


_MOVED: dict[str, Callable[..., Sequence[Entries]]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda p, *xs: [np.concatenate(xs, p["dimension"])],
    "expand_dims": lambda p, x: [np.expand_dims(x, tuple(p["dimensions"]))],
    "iota": _iota,
    "optimization_barrier": lambda p, *xs: xs,
    "reshape": lambda p, x: [x.reshape(p["new_sizes"])],
    "rev": lambda p, x: [np.flip(x, p["dimensions"])],
    "slice": _slice,
    "split": lambda p, x: np.split(x, np.cumsum(p["sizes"])[:-1], p["axis"]),
    "squeeze": lambda p, x: [np.squeeze(x, tuple(p["dimensions"]))],
    "stack": lambda p, *xs: [np.stack(xs, p["axis"])],
    "transpose": lambda p, x: [x.transpose(p["permutation"])],
    "unstack": lambda p, x: list(np.moveaxis(x, p["axis"], 0)),
}
_REDUCED: dict[str, Callable[[Any, Any], Any]] = {
    "reduce_and": operator.and_,
    "reduce_max": jnp.maximum,
    "reduce_min": jnp.minimum,
    "reduce_or": operator.or_,
    "reduce_prod": operator.mul,
    "reduce_sum": operator.add,
}
_CALLED = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call"}
_ARITHMETIC = set(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos cosh
    digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt
    max min mul ne neg nextafter not or pow rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan
    tanh xor
    """.split()
)
