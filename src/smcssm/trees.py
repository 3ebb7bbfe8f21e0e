"""Nested state in words and named arrays, and back: what a checkpoint holds of an engine.

Numbers and text stay as they are; arrays go into a table, each under the path that leads to it; of an object there is
the name of its class and its fields. Classes are looked up among those the reader allows, and filled without running
any of their code. So a file can put numbers into known places, and nothing else.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcssm.errors import CheckpointError

Words = Any
"""What JSON can hold."""
Classes = Mapping[str, type]

DEVICE, HOST, SCALAR = "device", "host", "scalar"
_MOMENTS: dict[str, Any] = {"M": np.datetime64, "m": np.timedelta64}
_OFFSETS = {
    "DateOffset": "months",
    **dict.fromkeys(("MonthEnd", "BusinessMonthBegin", "BusinessMonthEnd", "BusinessDay"), "n"),
}


def described(tree: Any, arrays: dict[str, np.ndarray], path: str) -> Words:
    """The words of a tree; its arrays are added under names that start with ``path``.

    Raises:
        TypeError: it holds something that is neither.
    """
    if tree is None or type(tree) in (bool, int, str):
        return tree
    if _is_array(tree):
        return {"array": _put(arrays, path, tree), "in": _place(tree)}
    if isinstance(tree, dict):
        return {"dict": [[k, described(v, arrays, f"{path}.{_plain(k)}")] for k, v in tree.items()]}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [described(v, arrays, f"{path}.{i}") for i, v in enumerate(tree)]}
    return _described_object(tree, arrays, path)


def _described_object(tree: Any, arrays: dict[str, np.ndarray], path: str) -> Words:
    kind = type(tree).__name__
    if kind == "float":
        return {"float": tree.hex()}
    if kind in ("datetime64", "timedelta64"):
        return {"moment": int(tree.astype(f"{tree.dtype.kind}8[ns]").astype(np.int64)), "kind": tree.dtype.kind}
    if (count := _OFFSETS.get(kind)) is not None:
        return {"offset": kind, "n": int(tree.kwds[count] if count == "months" else tree.n)}
    fields = _fields(type(tree))
    if fields is None:
        raise TypeError(f"{path} is of a kind that a checkpoint cannot hold: {kind}")
    each = {name: described(getattr(tree, name), arrays, f"{path}.{_plain(name)}") for name in fields}
    return {"class": kind, "fields": each}


def rebuilt(words: Words, arrays: Mapping[str, np.ndarray], classes: Classes) -> Any:
    """The tree of these words.

    Raises:
        CheckpointError: a class, field or array that there is none of.
    """
    if words is None or type(words) in (bool, int, str):
        return words
    kind = next((k for k in _KINDS if k in words), None) if isinstance(words, dict) else None
    if kind is None:
        raise CheckpointError(f"it holds something unknown: {str(words)[:60]}")
    return _KINDS[kind](words, arrays, classes)


def classes_of(*trees: Any) -> dict[str, type]:
    """The classes in trees, by name."""
    found: dict[str, type] = {}
    for tree in trees:
        if isinstance(tree, dict):
            found |= classes_of(*tree.values())
        elif type(tree) in (tuple, list):
            found |= classes_of(*tree)
        elif (fields := _fields(type(tree))) is not None:
            found |= {type(tree).__name__: type(tree)} | classes_of(*(getattr(tree, f) for f in fields))
    return found


def named(classes: Iterable[type]) -> dict[str, type]:
    """Classes by name."""
    return {c.__name__: c for c in classes}


def _is_array(tree: Any) -> bool:
    """Moments have words of their own."""
    return isinstance(tree, (jax.Array, np.ndarray, np.number, np.bool_)) and not isinstance(tree, np.timedelta64)


def _put(arrays: dict[str, np.ndarray], path: str, array: Any) -> str:
    """Under its path; two paths that read alike are told apart."""
    name, n = path, 1
    while name in arrays:
        name, n = f"{path}_{n}", n + 1
    arrays[name] = np.asarray(array)
    return name


def _place(array: Any) -> str:
    return DEVICE if isinstance(array, jax.Array) else HOST if isinstance(array, np.ndarray) else SCALAR


def _plain(name: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", str(name)) or "_"


def _fields(kind: type) -> tuple[str, ...] | None:
    """Of a named tuple, dataclass or module."""
    if issubclass(kind, tuple):
        return getattr(kind, "_fields", None)
    return tuple(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


def _array(words: Words, arrays: Mapping[str, np.ndarray], classes: Classes) -> Any:
    del classes
    if words["array"] not in arrays:
        raise CheckpointError(f"the array {words['array']!r} is missing")
    array = arrays[words["array"]]
    return jnp.asarray(array) if words["in"] == DEVICE else array[()] if words["in"] == SCALAR else array


def _object(words: Words, arrays: Mapping[str, np.ndarray], classes: Classes) -> Any:
    kind = classes.get(words["class"])
    fields = None if kind is None else _fields(kind)
    if kind is None or fields is None:
        raise CheckpointError(f"it holds a {words['class']!r}, which has no place in this engine")
    since = getattr(kind, "_field_defaults", {})  # of a later version than the file, perhaps
    differ = set(words["fields"]) ^ set(fields)
    if differ - since.keys():
        names = ", ".join(sorted(differ))
        raise CheckpointError(f"{words['class']} has other fields in this version of smcssm: {names}")
    values = {name: rebuilt(words["fields"][name], arrays, classes) for name in fields if name not in differ}
    values |= {name: since[name] for name in differ}
    if issubclass(kind, tuple):
        return tuple.__new__(kind, [values[name] for name in fields])
    new = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(new, name, value)
    return new


def _offset(words: Words, arrays: Mapping[str, np.ndarray], classes: Classes) -> Any:
    del arrays, classes
    from pandas.tseries import offsets

    if words["offset"] not in _OFFSETS:
        raise CheckpointError(f"it holds an unknown step of a calendar: {words['offset']!r}")
    return getattr(offsets, words["offset"])(**{_OFFSETS[words["offset"]]: int(words["n"])})


_KINDS: dict[str, Any] = {
    "array": _array,
    "class": _object,
    "float": lambda words, arrays, classes: float.fromhex(words["float"]),
    "tuple": lambda words, arrays, classes: tuple(rebuilt(w, arrays, classes) for w in words["tuple"]),
    "list": lambda words, arrays, classes: [rebuilt(w, arrays, classes) for w in words["list"]],
    "dict": lambda words, arrays, classes: {k: rebuilt(w, arrays, classes) for k, w in words["dict"]},
    "offset": _offset,
    "moment": lambda words, arrays, classes: _MOMENTS[words["kind"]](words["moment"], "ns"),
}
