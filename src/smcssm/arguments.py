"""Checks of numbers that a user gives to a part of an engine."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Callable, Iterable
from typing import Any

from smcssm.errors import ModelError


def whole(what: str, value: Any, least: int = 1) -> int:
    """A whole number that is large enough."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ModelError(f"{what}: expected a whole number >= {least}, got {value!r}")
    return value


def number(what: str, value: Any, told: str, good: Callable[[Any], bool]) -> float:
    """A number for which ``good`` holds; ``told`` says which these are."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not good(value):
        raise ModelError(f"{what}: expected {told}, got {value!r}")
    return float(value)


def guess(name: str, known: Iterable[str]) -> str:
    """What was meant by a name that is not known, in brackets; nothing where no name is much like it."""
    spelt = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), spelt, 1, 0.7)
    return f" (did you mean {spelt[close[0]]!r}?)" if close else ""


def share(what: str, value: Any) -> float:
    """An acceptance to aim at."""
    return number(what, value, "an acceptance between 0 and 1", lambda v: 0 < v < 1)
