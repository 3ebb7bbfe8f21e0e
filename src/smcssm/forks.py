"""After a fork the child has copies of engines whose threads and devices are the parent's: it is told so at once.

JAX runs threads that a child does not have, and hangs there when it waits for one of them.
"""

from __future__ import annotations

import os
import weakref
from contextlib import AbstractContextManager
from typing import Any, Never

_OWNED: weakref.WeakSet[Any] = weakref.WeakSet()


class Elsewhere(AbstractContextManager):
    """In the place of a lock that was left behind in the parent, maybe locked."""

    def __enter__(self) -> Never:
        raise RuntimeError(
            "this engine belongs to the parent process: JAX does not survive a fork. Start processes with "
            'multiprocessing.get_context("spawn"), and hand engines over with save and load'
        )

    def __exit__(self, *_: object) -> None:
        """Never entered."""


def guarded[T](owner: Any, lock: T) -> T:
    """The lock, whose owner's attribute ``lock`` will be another one in every child."""
    _OWNED.add(owner)
    return lock


def _in_child() -> None:
    for owner in list(_OWNED):
        owner.lock = Elsewhere()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
