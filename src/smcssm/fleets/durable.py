"""A fleet that outlives its process: as ``smcssm.durable`` for an engine, with a journal of the rows of all series.

Checkpoints hold everything but the histories of series, which the journal gives back: so they do not grow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from smcssm import assemble, persist
from smcssm.checkpoint import Folder
from smcssm.container import Contents
from smcssm.durable import Keeper, Moment, warn_of_passed_over
from smcssm.errors import CheckpointError, JournalError, ModelError
from smcssm.fleets.histories import Histories
from smcssm.fleets.ledger import calls, histories_of
from smcssm.fleets.runtime import FleetRuntime, State
from smcssm.history import Store
from smcssm.journal import CHECKPOINTS, Disk, Journal, created, reopened
from smcssm.replayed import Replayed
from smcssm.trees import Words, classes_of, described, named, rebuilt

Fleet = Any
"""``smcssm.fleet.Fleet``, which delegates to here."""

STATE = persist.STATE | named((State, Histories))


def begin(fleet: Fleet, journal: str | os.PathLike[str] | Journal | None) -> Keeper | None:
    """Give a new fleet the folder that it is to write to."""
    if journal is None:
        return None
    journal = assemble.policy(journal)
    runtime = fleet._runtime
    about = assemble.about(runtime.smc, len(fleet)) | {"series": in_words(fleet.names)}
    prior = persist.at_centre(runtime.smc, runtime.state.population)
    disk = created(journal, about | {"options": options(fleet), "prior": prior, "zone": None, "note": journal.note})
    runtime.store = disk
    return Keeper(journal, disk.path, 0)


def in_words(names: tuple[Any, ...]) -> list[Words]:
    """Names of series, for a file."""
    try:
        return [described(name, {}, "series") for name in names]
    except TypeError as error:
        raise ModelError(f"series: the names of a fleet with a journal are texts or numbers: {error}") from None


def options(fleet: Fleet) -> dict[str, Words]:
    """The options of a fleet in words."""
    runtime = fleet._runtime
    own = {"n_particles": runtime.n_particles, "seed": runtime.seed, "first": runtime.first}
    return own | persist.shared_options(runtime.smc, fleet._timing)


def _arguments(told: Mapping[str, Words], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``Fleet``."""
    impossible = {"error": "quarantine"}
    told = {**told, "impossible": impossible.get(told["impossible"], told["impossible"])}
    found = persist.arguments(told, given, objects=("move", "schedule"))
    return {name: v for name, v in found.items() if name not in ("resampling", "forgetting", "origin")}


def moment(fleet: Fleet) -> Moment:
    """What a checkpoint of a fleet is made from. Under its lock."""
    runtime = fleet._runtime
    state, store = runtime.state, runtime.store
    words = {
        "t": state.length,
        "length": state.length,
        "options": options(fleet),
        "about": assemble.about(runtime.smc, len(state.names)),
        "built": persist.built_with(),
        "prior": persist.at_centre(runtime.smc, state.population),
        "seal": store.seal(state.length),
    }
    trees = {"state": state._replace(histories=None), "foretold": runtime.foretold()}
    return Moment(state.length, store.sync, partial(_contents, words, trees))


def _contents(words: Mapping[str, Any], trees: Mapping[str, Any]) -> Contents:
    arrays: dict[str, np.ndarray] = {}
    return Contents({**words, **{name: described(tree, arrays, name) for name, tree in trees.items()}}, arrays)


def open_journal(
    kind: type, path: str | os.PathLike[str] | Journal, model: Any, prior: Any, given: Mapping[str, Any]
) -> Fleet:
    """The fleet of a journal, current and ready to write."""
    journal = assemble.policy(path)
    header, disk = reopened(journal)
    try:
        fleet = _newest(kind, journal, model, prior, given, header, disk)
        at = fleet._runtime.state.length
        _take_again(fleet, disk, header["zone"])
    except BaseException:
        disk.close()
        raise
    fleet._keeper = Keeper(journal, disk.path, at)
    return fleet


def _newest(
    kind: type, journal: Journal, model: Any, prior: Any, given: Mapping[str, Any], header: dict[str, Any], disk: Disk
) -> Fleet:
    """The fleet where the newest good checkpoint has it."""
    if "series" not in header:
        raise JournalError(f"{disk.path} is not the journal of a fleet: ss.Engine.open resumes that of an engine")
    names = rebuilt({"tuple": header["series"]}, {}, {})
    fleet = kind(model, prior, series=names, **_arguments(header["options"], given))
    runtime = fleet._runtime
    persist.check_options(options(fleet), header["options"], str(disk.path))
    persist.assert_same(str(disk.path), header, assemble.about(runtime.smc, len(names)))
    persist.check_prior(header["prior"], persist.at_centre(runtime.smc, runtime.state.population))
    folder = Folder(disk.path / CHECKPOINTS, journal.keep, journal.hmac_key)
    _, skipped = folder.newest(partial(_use, fleet, disk))
    warn_of_passed_over(disk.path, skipped)
    return fleet


def _use(fleet: Fleet, disk: Disk, found: Contents) -> bool:
    """Make the fleet that of a checkpoint, if it goes with the journal; or leave it as it was."""
    runtime, words = fleet._runtime, found.words
    length = int(words["length"])
    if length > len(disk):
        raise CheckpointError(f"it counts {length} rows and the journal has {len(disk)}")
    if disk.seal(length) != words["seal"]:
        raise CheckpointError("it was made from another journal")
    persist.check_options(options(fleet), words["options"], "the checkpoint")
    fresh = runtime.state
    with jax.enable_x64(True):
        classes = classes_of(fresh.population, fresh.pending) | STATE
        state, foretold = (rebuilt(words[n], found.arrays, classes) for n in ("state", "foretold"))
        persist.check_state(runtime.smc, fresh, state)
        persist.check_prior(words["prior"], persist.at_centre(runtime.smc, state.population))
    needed, dtype = runtime.smc.schedule.remembers, runtime.smc.dtype
    histories, lengths = histories_of(disk, length, len(fleet), needed, dtype)
    if (state.names, state.length) != (fresh.names, length) or not np.array_equal(state.lengths, lengths):
        raise CheckpointError("its series, or how many rows they have taken, are not those of the journal")
    try:
        runtime.state = state._replace(histories=histories)
        persist.check_foretold(runtime.smc, foretold, runtime.foretold())
    except BaseException:
        runtime.state = fresh
        raise
    persist.warn_of_differences(words["built"])
    return True


def _take_again(fleet: Fleet, disk: Store, zone: str | None) -> None:
    """The rows after the checkpoint, and releases; then the fleet goes on writing."""
    runtime: FleetRuntime = fleet._runtime
    runtime.store = Replayed(disk, runtime.state.length)
    for block, released in calls(disk, runtime.state.length, zone):
        if block is None:
            fleet._release(released)
        else:
            fleet._take(block)
    runtime.store = disk
