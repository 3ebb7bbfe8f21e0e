"""What the driver asks of the fleet of a shard; functions, so that they travel by name."""

from __future__ import annotations

import io
import warnings
from typing import Any

from smcssm import container, persist
from smcssm.engine import Engine
from smcssm.errors import SmcssmWarning
from smcssm.fleet import Fleet


def seen(fleet: Fleet) -> tuple[Any, ...]:
    """What rows to come are checked against."""
    state = fleet._runtime.state
    return state.taken, state.last, state.zone, state.layout, state.rows, state.quarantine


def engine_bytes(fleet: Fleet, name: Any) -> bytes | None:
    """One series as an engine, as ``Engine.save`` writes it; None if it is elsewhere."""
    if name not in fleet.names:
        return None
    file = io.BytesIO()
    container.pack(file, persist.whole_contents(fleet.engine(name)))
    return file.getvalue()


def engine_from(data: bytes, model: Any, prior: Any) -> Engine:
    """It again; that this machine may be another one than the worker's is no news."""
    found = container.unpack(io.BytesIO(data), "the engine")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmcssmWarning)
        return persist.from_contents(Engine, found, "the engine", model, prior)
