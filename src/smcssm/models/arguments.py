"""Checks of what a user passes to a model; numbers become tuples of floats: models compare and hash by value."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smcssm.errors import ModelError

Numbers = Any
"""A number or a sequence of numbers, of any kind: kept as floats."""


def numbers(what: str, value: Numbers, n: int) -> tuple[float, ...]:
    """n finite floats; a single number stands for n equal ones.

    Raises:
        ModelError: naming ``what``, where that is not what was given.
    """
    try:
        given = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ModelError(f"{what}: expected a number or {n} of them, got {value!r}") from None
    if given.shape not in ((), (n,)):
        raise ModelError(f"{what}: expected a number or {n} of them, got an array of shape {given.shape}")
    if not np.isfinite(given).all():
        raise ModelError(f"{what}: expected finite numbers, got {value!r}")
    return tuple(np.broadcast_to(given, (n,)).tolist())


def deviations(what: str, value: Numbers, n: int) -> tuple[float, ...]:
    """n standard deviations: finite and not negative; 0 means known exactly."""
    given = numbers(what, value, n)
    if any(sd < 0 for sd in given):
        raise ModelError(f"{what}: expected standard deviations, which are never negative, got {value!r}")
    return given


def level_and_slope(component: str, **given: Numbers) -> None:
    """Refuse a single number where level and slope need one each: they are in different units."""
    for what, value in given.items():
        if np.ndim(value) == 0:
            raise ModelError(f"{component}({what}): expected two numbers, (level, slope), got {value!r}")


def count(what: str, value: Any, least: int) -> int:
    """A whole number that is at least ``least``."""
    try:
        given = operator.index(value)
    except TypeError:
        raise ModelError(f"{what}: expected a whole number >= {least}, got {value!r}") from None
    if given < least:
        raise ModelError(f"{what}: expected a whole number >= {least}, got {given}")
    return given


def labels(what: str, value: Sequence[str]) -> tuple[str, ...]:
    """Different, non-empty names."""
    if isinstance(value, str):
        raise ModelError(f"{what}: expected several names, got one string; write ({value!r},)")
    given = tuple(value)
    if not all(isinstance(name, str) and name for name in given) or len(set(given)) < len(given):
        raise ModelError(f"{what}: expected different, non-empty names, got {given!r}")
    return given


def numbered(stem: str, n: int) -> tuple[str, ...]:
    """stem0, stem1, ...: the names of things that were given as a number of them."""
    return tuple(f"{stem}{i}" for i in range(n))


def shapes_of(
    what: str, names: tuple[str, ...], given: Mapping[str, int | tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """The shape of each hyperparameter; a scalar where none is given, a vector where a length is."""
    if unknown := sorted(set(given) - set(names)):
        raise ModelError(f"{what}: {', '.join(unknown)} is not among the names {', '.join(names)}")
    shapes = [given.get(name, ()) for name in names]
    return tuple((shape,) if isinstance(shape, int) else tuple(shape) for shape in shapes)


def regime_axes(
    what: str, given: Any, shapes: Mapping[str, tuple[int, ...] | None], n_regimes: int
) -> tuple[tuple[str, int], ...]:
    """Hyperparameters of regimes, and how many of their leading axes count them: each of length ``n_regimes``.

    ``shapes`` has all hyperparameters; None where the shape is not known.
    """
    if not isinstance(given, Mapping | None):
        raise ModelError(f"{what}: expected a mapping from hyperparameters to numbers of axes, got {given!r}")
    checked = []
    for name, value in (given or {}).items():
        if name not in shapes:
            raise ModelError(f"{what}: {name!r} is not among the names {', '.join(shapes)}")
        axes, shape = count(f"{what}: {name}", value, 1), shapes[name]
        if shape is not None and shape[:axes] != (n_regimes,) * axes:
            raise ModelError(
                f"{what}: {name}={axes} says that {'the first axis' if axes == 1 else f'the first {axes} axes'} of "
                f"{name} count {n_regimes} regimes, but its shape is {shape}"
            )
        checked.append((name, axes))
    return tuple(checked)


def diagonal(values: Sequence[Any]) -> list[list[Any]]:
    """A diagonal matrix of entries, known zeros beside it."""
    return [[v if i == j else 0.0 for j in range(len(values))] for i, v in enumerate(values)]
