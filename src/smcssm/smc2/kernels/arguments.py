"""Checks of what a user gives to a move."""

from __future__ import annotations

from typing import Any

from smcssm.errors import ModelError


def whole(what: str, value: Any, least: int = 1) -> int:
    """A whole number that is large enough."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ModelError(f"{what}: expected a whole number >= {least}, got {value!r}")
    return value


def share(what: str, value: Any) -> float:
    """An acceptance to aim at."""
    if not isinstance(value, float) or not 0 < value < 1:
        raise ModelError(f"{what}: expected an acceptance between 0 and 1, got {value!r}")
    return value
