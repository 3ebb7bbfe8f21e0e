"""Series that leave a fleet, join it, or go their own way as an engine."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Int

from smcssm import clock
from smcssm.engine import Engine
from smcssm.fleets.runtime import FleetRuntime, State
from smcssm.history import History
from smcssm.record import Ring
from smcssm.runtime import Committed, Runtime
from smcssm.smc2.adapt import compiled
from smcssm.smc2.batch import take
from smcssm.smc2.population import sort_marginals

RECORD = 10_000


def engine_of(runtime: FleetRuntime, timing: clock.Timing, place: int) -> Engine:
    """An engine that goes on as one series would; its record begins there."""
    state, smc = runtime.state, replace(runtime.smc, record=True)
    here, taken, length = np.asarray([place]), int(state.taken[place]), int(state.lengths[place])
    history = History()
    if length:
        rows, marks = state.histories.own(place, length)
        history.append(rows, length, marks)
    stamp = None if state.last is None or taken == 0 else state.last[place]
    with jax.enable_x64(True):
        population = compiled(sort_marginals, smc)(take(state.population, here))
        pending = take(state.pending, here)
    known = clock.Clock(taken, stamp, (), None if stamp is None else state.zone)
    committed = Committed(
        population, pending, state.log_evidence[here], known, state.layout if taken else None, length
    )
    shell = Runtime(smc, 1, runtime.n_particles, runtime.seed, history, committed)
    return Engine._around(shell, timing, Ring(RECORD, unseen=taken), runtime.seed)


def joined(runtime: FleetRuntime, numbers: Int[np.ndarray, " new"]) -> State:
    """The state with further series, at their prior, behind the others."""
    state, new = runtime.state, runtime.fresh(numbers)
    n, more = len(state.taken), len(numbers)
    with jax.enable_x64(True):
        population, pending = jax.tree.map(
            lambda a, b: np.concatenate([a, b], axis=max(np.ndim(a) - 2, 0)),
            (state.population, state.pending),
            (new.population, new.pending),
        )
    last = state.last
    if last is not None:
        unknown = np.full(more, np.datetime64("NaT") if last.dtype.kind == "M" else np.nan, last.dtype)
        last = np.concatenate([last, unknown])
    return state._replace(
        population=population,
        pending=pending,
        histories=state.histories.chosen(np.arange(n + more)),
        sums={name: _longer(values, more) for name, values in state.sums.items()},
        last=last,
        **{
            name: np.concatenate([getattr(state, name), getattr(new, name)])
            for name in ("log_evidence", "taken", "lengths", "number", "quarantine")
        },
    )


def kept(runtime: FleetRuntime, places: Int[np.ndarray, " s"]) -> State:
    """The state with these series alone."""
    state = runtime.state
    with jax.enable_x64(True):
        population, pending = take((state.population, state.pending), places)
    return state._replace(
        population=population,
        pending=pending,
        histories=state.histories.chosen(places),
        sums={name: values[..., places, :] if name == "scores" else values[places] for name, values in state.sums.items()},
        last=None if state.last is None else state.last[places],
        **{
            name: getattr(state, name)[places]
            for name in ("log_evidence", "taken", "lengths", "number", "quarantine")
        },
    )


def _longer(sums: np.ndarray, more: int) -> np.ndarray:
    """Sums with zeros for further series; of scores ``[channel, s, :]``, else ``[s]``."""
    axis = 0 if sums.ndim == 1 else 1
    shape = (*sums.shape[:axis], more, *sums.shape[axis + 1 :])
    return np.concatenate([sums, np.zeros(shape, sums.dtype)], axis=axis)
