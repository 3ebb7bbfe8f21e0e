"""Series that join a fleet, leave it, or go their own way as an engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from smcssm import clock
from smcssm.engine import Engine
from smcssm.fleets.pacing import some_of, with_others
from smcssm.fleets.runtime import FleetRuntime, State
from smcssm.history import History
from smcssm.record import Ring
from smcssm.runtime import Committed, Runtime
from smcssm.smc2.adapt import compiled
from smcssm.smc2.batch import behind, take
from smcssm.smc2.population import sort_marginals

RECORD = 10_000
_OF_SERIES = ("log_evidence", "taken", "lengths", "quarantine")


def engine_of(runtime: FleetRuntime, timing: clock.Timing, place: int) -> Engine:
    """An engine that goes on as one series would; its record begins there."""
    state, smc = runtime.state, replace(runtime.smc, record=True)
    here, taken, length = np.asarray([place]), int(state.taken[place]), int(state.lengths[place])
    history, known = History(), clock.Clock(taken)
    if length:
        rows, marks = state.histories.own(place, length)
        history.append(rows, length, marks)
        if state.last is not None:
            last = state.last[place]
            known = clock.Clock(taken, last, (), state.zone, clock.began(timing, last, rows.dt[:, 0]))
    with jax.enable_x64(True):
        population, pending = take(state.population, here), some_of(state.pending, here)
        population = compiled(sort_marginals, smc)(population)
    layout = state.layout if taken else None
    committed = Committed(population, pending, state.log_evidence[place : place + 1], known, layout, length)
    shell = Runtime(smc, 1, runtime.n_particles, runtime.seed, history, committed)
    return Engine._around(shell, timing, Ring(RECORD, unseen=taken), runtime.seed)


def joined(runtime: FleetRuntime, names: tuple[Any, ...]) -> State:
    """The state with further series, at their prior, behind the others."""
    state, new = runtime.state, runtime.fresh(names, runtime.state.born)
    n, more = len(state.names), len(names)

    with jax.enable_x64(True):
        population, pending = behind(state.population, new.population), with_others(state.pending, new.pending)
    last = state.last
    if last is not None:
        unknown = np.datetime64("NaT", "ns") if last.dtype.kind == "M" else np.nan
        last = np.concatenate([last, np.full(more, unknown, last.dtype)])
    return state._replace(
        names=state.names + names,
        born=new.born,
        population=population,
        pending=pending,
        histories=state.histories.chosen(np.arange(n + more)),
        sums={
            name: np.concatenate([sums, new.sums[name]], axis=max(sums.ndim - 2, 0))
            for name, sums in state.sums.items()
        },
        last=last,
        **{name: np.concatenate([getattr(state, name), getattr(new, name)]) for name in _OF_SERIES},
    )


def kept(runtime: FleetRuntime, places: Int[np.ndarray, " s"]) -> State:
    """The state with these series alone."""
    state = runtime.state
    with jax.enable_x64(True):
        population, pending = take(state.population, places), some_of(state.pending, places)
    return state._replace(
        names=tuple(state.names[i] for i in places),
        population=population,
        pending=pending,
        histories=state.histories.chosen(places),
        sums={name: np.take(sums, places, axis=max(sums.ndim - 2, 0)) for name, sums in state.sums.items()},
        last=None if state.last is None else state.last[places],
        **{name: getattr(state, name)[places] for name in _OF_SERIES},
    )
