"""The matrices that a user's function returns: completed by defaults, checked, as nested lists of entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from smcssm.errors import ModelError
from smcssm.models.arguments import diagonal

KEYS = ("m0", "chol_P0", "F", "c", "chol_Q", "H", "d", "chol_R")
_VECTORS = ("m0", "c", "d")


def complete(result: Any) -> dict[str, list]:
    """Every key of ``KEYS`` as nested lists of entries; what was left out is zero, chol_P0 the identity.

    Raises:
        ModelError: for unknown or missing keys, for entries that are no numbers and for shapes that do not fit.
    """
    if not isinstance(result, Mapping):
        raise ModelError(f"expected dict(F=..., H=..., ...), got {type(result).__name__}")
    unknown, missing = sorted(set(result) - set(KEYS)), sorted({"F", "H"} - set(result))
    if unknown:
        raise ModelError(f"unknown key {', '.join(map(repr, unknown))}; expected some of {', '.join(KEYS)}")
    if missing:
        raise ModelError(f"missing {' and '.join(missing)}; every other matrix has a default")
    found = {key: as_entries(key, value) for key, value in result.items()}
    nx, ny = len(found["F"]), len(found["H"])
    zeros = {"m0": nx, "c": nx, "d": ny, "chol_Q": (nx, 1), "chol_R": (ny, ny)}
    defaults = {key: np.zeros(shape).tolist() for key, shape in zeros.items()} | {"chol_P0": diagonal([1.0] * nx)}
    out = {key: found.get(key, defaults.get(key)) for key in KEYS}
    _check_shapes({key: _shape(key, value) for key, value in out.items()}, nx, ny)
    return out


def _check_shapes(got: dict[str, tuple[int, ...]], nx: int, ny: int) -> None:
    noises = got["chol_Q"][-1]
    if noises > nx:
        raise ModelError(f"chol_Q: got shape {got['chol_Q']}, expected at most {nx} columns, as many as states")
    expected = {"F": (nx, nx), "H": (ny, nx), "m0": (nx,), "chol_P0": (nx, nx), "c": (nx,)}
    expected |= {"chol_Q": (nx, noises), "d": (ny,), "chol_R": (ny, ny)}
    for key, shape in expected.items():
        if got[key] != shape:
            size = f"{nx} states (the rows of F) and {ny} channels (the rows of H)"
            raise ModelError(f"{key}: got shape {got[key]}, expected {shape} for {size}")


def as_entries(key: str, value: Any) -> Any:
    """Nested lists down to numbers and scalar arrays."""
    if isinstance(value, (list, tuple)):
        return [as_entries(key, v) for v in value]
    if isinstance(value, (int, float, np.generic)):
        return float(value)
    if isinstance(value, (np.ndarray, jax.Array)):
        known = not isinstance(value, Tracer)
        if value.ndim == 0:
            return float(value) if known else value
        return [as_entries(key, v) for v in (np.asarray(value) if known else value)]
    raise ModelError(f"{key}: expected numbers, arrays and nested lists of them, got {type(value).__name__}")


def _shape(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    inner = {_shape(key, v) for v in value}
    if len(inner) > 1:
        raise ModelError(f"{key}: its rows have different lengths")
    return (len(value), *(inner.pop() if inner else ()))
