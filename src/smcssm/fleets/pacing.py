"""Paced moves of many series: who takes challengers through history now, and who may send off new ones.

    a row of every series has been taken; then, of the series that took one:
        follow     challengers on their way take `budget` rows of history, each of its own series, in batches
        ready      they have caught up, and are judged
        asking     a move is wanted, and no challengers are on their way
        room       the schedule's `share` of the series, or 8, less those on their way: so many asking or ready ones may
                   start new challengers, those first that have waited longest, those just ready last

So a step of S series x N particles takes at most S N + R K N budget filter steps, R = max(8, share S) rounded up to
batches, however long the streams. Moves over short histories do not wait: there each row halves the sample.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from smcssm.fleets.histories import Histories
from smcssm.smc2 import batch
from smcssm.smc2.adapt import compiled
from smcssm.smc2.batch import batches
from smcssm.smc2.cycle import Cycle, Feed, follow
from smcssm.smc2.population import SMC2
from smcssm.smc2.report import Row
from smcssm.smc2.schedules import Paced

LEAST = batch.SIZES[0]  # series that there is room for in any case

FOLLOWED = ("at", "rows", "work", "since", "fresh", "unmoved")


class Turn(NamedTuple):
    """Which series need their schedule now: to move, or only to judge a surprise; and which may start challengers."""

    due: Bool[np.ndarray, " s"]
    surprised: Bool[np.ndarray, " s"]
    may_start: Bool[np.ndarray, " s"]


def turn(
    smc: SMC2, pending: PyTree, lengths: Int[np.ndarray, " s"], taken: np.ndarray, pooled: np.ndarray, wants: np.ndarray
) -> tuple[PyTree, Turn]:
    """Whose turn it is once a row was ``taken``, as a surprise where it is ``pooled``, and a move is wanted by some.

    Returns also what is pending, in which those that wait have waited for one observation more.
    """
    if not isinstance(smc.schedule, Paced):
        return pending, Turn(wants & taken, np.zeros_like(taken), np.ones_like(taken))
    active, at, rows, waiting = jax.device_get((pending.active, pending.at, pending.rows, pending.waiting))
    ready = taken & active & (at == rows)
    asking = taken & ~active & (wants | (waiting > 0))
    short = lengths <= smc.schedule.turns(smc)[0]
    room = max(LEAST, int(smc.schedule.share * len(taken))) - int((taken & active & ~ready).sum())
    queue = np.lexsort((-waiting, ready))  # those that ask first, and of them those that have waited longest
    queue = queue[(ready | (asking & ~short))[queue]]
    may_start = np.zeros_like(taken)
    may_start[queue[: max(room, 0)]] = True
    pending = replace(pending, waiting=jnp.asarray(np.where(asking & ~short, waiting + 1, waiting)))
    due = ready | (asking & (short | may_start))
    return pending, Turn(due, taken & pooled & ~due, may_start)


def followed(
    smc: SMC2, pending: PyTree, histories: Histories, lengths: Int[np.ndarray, " s"], taken: np.ndarray, row: Row
) -> PyTree:
    """Challengers one observation further, where series took one; ``lengths`` count it, and histories have it."""
    if not isinstance(pending, Cycle):
        return pending
    active = np.asarray(pending.active)
    going, surprised = taken & active, taken & row.pooled & ~active  # these only note it: there is no way to go
    for some in (*batches(going, lengths, ()), *batches(surprised, lengths, ())):
        here = some.series
        feed = _feed(pending, histories, lengths, here)
        told = Row(*(leaf[..., here] for leaf in row))
        pending = compiled(_follow, smc)(pending, here, some.back(len(taken)), told, feed)
    return pending


def _feed(
    pending: Cycle, histories: Histories, lengths: Int[np.ndarray, " s"], series: Int[np.ndarray, " b"]
) -> Feed:
    """The rows that challengers of some series take next."""
    at, budget, since = (np.asarray(a)[series] for a in (pending.at, pending.budget, pending.since))
    numbers = at + np.arange(budget.max())[:, None]
    rows, marks = histories.rows(np.minimum(numbers, lengths[series] - 1), series)
    return Feed(rows, marks & (numbers >= since), lengths[series])


def _follow(
    smc: SMC2, cycle: Cycle, series: Int[Array, " b"], back: Int[Array, " b"], row: Row, feed: Feed
) -> Cycle:
    """``cycle.follow`` for some series; what it does not change is not copied."""
    new = follow(smc, some_of(cycle, series), row, feed)
    old, moved = cycle.challengers, new.challengers
    progress = ([getattr(cycle, f) for f in FOLLOWED], old.belief, old.log_lik, old.pending)
    part = ([getattr(new, f) for f in FOLLOWED], moved.belief, moved.log_lik, moved.pending)
    vectors, belief, log_lik, pooled = batch.put(progress, back, part)
    challengers = replace(old, belief=belief, log_lik=log_lik, pending=pooled)
    return replace(cycle, challengers=challengers, **dict(zip(FOLLOWED, vectors, strict=True)))


@jax.jit
def some_of(pending: PyTree[Array], series: Int[Array, " b"]) -> PyTree[Array]:
    """What is pending of some series."""
    if not isinstance(pending, Cycle):
        return pending
    tuning = jax.tree.map(lambda a: a[_folds(pending, a, series)], pending.tuning)
    return replace(batch.take(replace(pending, tuning=()), series), tuning=tuning)


@jax.jit
def put_back(pending: PyTree[Array], back: Int[Array, " b"], part: PyTree[Array]) -> PyTree[Array]:
    """The same with these series replaced; numbers past the last series go nowhere."""
    if not isinstance(pending, Cycle):
        return pending

    def put(a: Array, b: Array) -> Array:
        return a.at[_folds(pending, a, back)].set(b, mode="drop")

    tuning = jax.tree.map(put, pending.tuning, part.tuning)
    rest = batch.put(replace(pending, tuning=()), back, replace(part, tuning=()))
    return replace(rest, tuning=tuning)


def with_others(pending: PyTree[Array], others: PyTree[Array]) -> PyTree[Array]:
    """The same with what is pending of further series behind."""
    if not isinstance(pending, Cycle):
        return pending
    tuning = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pending.tuning, others.tuning)
    return replace(batch.behind(replace(pending, tuning=()), replace(others, tuning=())), tuning=tuning)


def _folds(cycle: Cycle, leaf: Array, series: Int[Array, " b"]) -> Int[Array, " f"]:
    """Where the folds of these series are in a leaf of the tuning, which has those of all series in front."""
    each = len(leaf) // len(cycle.at)
    return (series[:, None] * each + np.arange(each)[None]).reshape(-1)
