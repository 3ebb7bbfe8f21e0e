"""Exposures as events: where they start and end, and which average of the state each of them is.

An exposure is open from its start to its end. Between two events in a row nothing opens or closes, so that an average
over an exposure is put together piece by piece,

    z <- carry z + share (average of f over the piece),       carry = 0 at the first piece, share = length / exposure

in one of as many slots as exposures are ever open at once (interval colouring: the first slot that is free). A closed
slot is zero. An exposure of length zero is an observation like any other and needs no slot.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np

from smcssm.errors import InputError

STAMPS = {"start": 1.0, "middle": 0.5, "end": 0.0}
ROUNDING = 1e-9  # of an exposure: a start so close to the end of another is there


class Events(NamedTuple):
    """Times in order, the row of each datum, and per row and slot: 1 / exposure where open, carry, output, observed.

    ``slots`` is ``[t, 4 slots]``; ``plain`` says of each row whether what it observes is no average.
    """

    times: np.ndarray
    place: np.ndarray
    slots: np.ndarray
    plain: np.ndarray


def lengths(exposure: Any, stamp: str, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The exposures, one for each time, and the times when they end."""
    if stamp not in STAMPS:
        raise InputError(f'stamp={stamp!r}: expected "start", "middle" or "end", what times are of an exposure')
    try:
        found = np.asarray(0.0 if exposure is None else exposure, np.float64)
    except Exception:
        raise InputError("exposure: expected known numbers, as for times; close over them") from None
    if found.shape not in ((), times.shape):
        raise InputError(f"exposure: expected a number or {len(times)} of them, got shape {found.shape}")
    if not (np.isfinite(found) & (found >= 0)).all():
        raise InputError("exposure: expected finite lengths of time >= 0")
    found = np.broadcast_to(found, times.shape)
    return found, times + STAMPS[stamp] * found


def events(ends: np.ndarray, exposure: np.ndarray, labels: np.ndarray) -> Events:
    """Of data that end at ``ends``."""
    long = exposure > 0
    if not long.any():
        order = np.argsort(ends, kind="stable")
        return Events(ends[order], np.argsort(order), np.zeros((len(ends), 0)), np.ones(len(ends)))
    starts = _starts(ends, exposure)[long]
    extra = np.setdiff1d(starts, ends)
    both = np.concatenate([ends, extra])
    order = np.argsort(both, kind="stable")
    times, place = both[order], np.argsort(order)[: len(ends)]
    slot = _coloured(starts, ends[long])
    slots, plain = np.zeros((len(times), 1 + slot.max(), 4)), np.ones(len(times))
    first = np.searchsorted(times, starts, side="right")  # the row that ends the first piece
    beyond = np.searchsorted(times, ends[long], side="right")
    owner = np.zeros((len(times) + 1, slots.shape[1]), np.int64)
    np.add.at(owner, (first, slot), np.arange(1, len(starts) + 1))
    np.add.at(owner, (beyond, slot), -np.arange(1, len(starts) + 1))
    owner = np.cumsum(owner, axis=0)[:-1] - 1
    at = owner >= 0
    slots[at, 0], slots[at, 1], slots[at, 2] = 1 / exposure[long][owner[at]], 1.0, labels[long][owner[at]]
    slots[first, slot, 1] = 0.0
    slots[place[long], slot, 3] = 1.0
    plain[place[long]] = 0.0
    return Events(times, place, slots.reshape(len(times), -1), plain)


def _starts(ends: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Where exposures start; next to where another one ends, there: the difference is rounding."""
    starts, known = ends - exposure, np.unique(ends)
    after = np.minimum(np.searchsorted(known, starts), len(known) - 1)
    for candidate in (known[np.maximum(after - 1, 0)], known[after]):
        near = np.abs(candidate - starts) <= ROUNDING * exposure + 4 * np.spacing(np.abs(ends))
        starts = np.where(near, candidate, starts)
    return starts


def _coloured(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The slot of each exposure, so that two of one slot have no more than an end in common."""
    order, slot = np.argsort(starts, kind="stable"), np.zeros(len(starts), np.int64)
    if (starts[order][1:] >= ends[order][:-1]).all():
        return slot
    free, busy, made = [], [], 0
    for i in order:
        while busy and busy[0][0] <= starts[i]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            heapq.heappush(free, made)
            made += 1
        slot[i] = heapq.heappop(free)
        heapq.heappush(busy, (ends[i], slot[i]))
    return slot
