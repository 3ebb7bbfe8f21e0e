"""An engine that outlives its process: the journal has every observation, checkpoints what came of them.

    write    row into the journal, then commit;  from time to time, beside the stream: sync the journal, checkpoint
    resume   newest good checkpoint;  the rows after it once more, by the ordinary step

Rows are taken again by the same programs with the same keys, so that what is resumed is equal to what was never
interrupted, bit for bit on the same machine and versions. A checkpoint counts only with the journal it was made from:
the seal of its last row must be there.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from smcssm import assemble, clock, persist
from smcssm.checkpoint import Background, Folder
from smcssm.container import Contents
from smcssm.errors import CheckpointError, JournalError, SmcssmWarning
from smcssm.history import SEGMENT, TIMES, History
from smcssm.ingest import Layout
from smcssm.journal import CHECKPOINTS, Disk, Journal, reopened
from smcssm.persist import Engine
from smcssm.replayed import Replayed, upto
from smcssm.timeline import moments


class Moment(NamedTuple):
    """What a checkpoint is made from: nothing of it is altered later, so that the stream may go on meanwhile."""

    t: int
    sync: Callable[[], None]
    contents: Callable[[], Contents]


class Keeper:
    """Writes the checkpoints of an engine, or a fleet, with a journal."""

    def __init__(self, journal: Journal, folder: Path, t: int) -> None:
        self.folder = Folder(folder / CHECKPOINTS, journal.keep, journal.hmac_key)
        self._every, self._rows = journal.checkpoint_every, journal.checkpoint_rows
        self._background, self._t, self._then = Background(), t, time.monotonic()

    def after(self, t: int, moment: Callable[[], Moment]) -> None:
        """A call has ended: see whether a checkpoint is due, and tell of one that failed. Under the engine's lock.

        The call's rows are committed: so nothing that goes wrong here is an error of it.
        """
        if (error := self._background.trouble()) is not None:
            warnings.warn(
                f"{error}. The journal has all observations; to resume will take longer", SmcssmWarning, stacklevel=4
            )
        rows = t - self._t
        due = time.monotonic() - self._then >= self._every or (self._rows is not None and rows >= self._rows)
        if rows and due and not self._background.busy:
            self._begun(t)
            with self._background.told():
                self._background.start(partial(self._write, moment()))

    def wait(self) -> None:
        """Until none is being written."""
        self._background.wait()

    def now(self, moment: Callable[[], Moment]) -> None:
        """Write one and wait for it; an error is raised. Under the engine's lock."""
        self._background.wait()
        made = moment()
        self._begun(made.t)
        self._write(made)

    def _begun(self, t: int) -> None:
        self._t, self._then = t, time.monotonic()

    def _write(self, moment: Moment) -> None:
        try:
            moment.sync()
        except OSError as error:
            raise CheckpointError(f"no checkpoint was written, for the journal cannot be synced: {error}") from error
        with jax.enable_x64(True):
            self.folder.write(moment.t, moment.contents())


def moment(engine: Engine) -> Moment:
    """Of an engine. Under its lock."""
    frozen, foretold = persist.freeze(engine), engine._runtime.foretold()
    return Moment(engine.t, engine._runtime.history.sync, partial(persist.contents, frozen, foretold))


def keeper(engine: Engine, journal: str | os.PathLike[str] | Journal | None) -> Keeper | None:
    """Of an engine with a new journal, whose header is to say how the engine is built."""
    history = engine._runtime.history
    if journal is None or history.path is None:
        return None
    state, smc = engine._runtime.state, engine._runtime.smc
    prior = persist.at_centre(smc, state.population)
    journal = assemble.policy(journal)
    history.note(options=persist.options(engine), prior=prior, zone=None, warm=False, note=journal.note)
    return Keeper(journal, history.path, 0)


def resume(
    kind: type, journal: Journal, model: Any, prior: Any, given: Mapping[str, Any]
) -> tuple[Engine, History, dict[str, Any], list[str]]:
    """The engine of a journal where its newest good checkpoint has it.

    Returns also the whole history, the header, and which checkpoints were passed over.
    """
    header, disk = reopened(journal)
    try:
        return _resumed(kind, journal, model, prior, given, header, disk)
    except BaseException:
        disk.close()
        raise


def _resumed(
    kind: type, journal: Journal, model: Any, prior: Any, given: Mapping[str, Any], header: dict[str, Any], disk: Disk
) -> tuple[Engine, History, dict[str, Any], list[str]]:
    if "options" not in header:
        raise JournalError(f"{disk.path} says nothing of its engine: it was written by an earlier version")
    if "series" in header:
        raise JournalError(f"{disk.path} is the journal of a fleet: ss.Fleet.open resumes it")
    engine = kind(model, prior, **persist.arguments(header["options"], given))
    persist.check_options(persist.options(engine), header["options"], str(disk.path))
    runtime = engine._runtime
    persist.assert_same(str(disk.path), header, assemble.about(runtime.smc, runtime.n_series))
    persist.check_prior(header["prior"], persist.at_centre(runtime.smc, runtime.state.population))
    folder = Folder(disk.path / CHECKPOINTS, journal.keep, journal.hmac_key)
    used, skipped = folder.newest(partial(_use, engine, disk))
    if used is None:
        if header["warm"]:
            raise JournalError(
                f"{disk.path} began with draws from elsewhere, and no checkpoint that holds them is left"
                + "".join(f"; {line}" for line in skipped)
            )
        runtime.history = upto(disk, 0, clock.timeline(engine._timing))
    return engine, History(disk, runtime.history.timeline), header, skipped


def _use(engine: Engine, disk: Disk, found: Contents) -> bool:
    """Make the engine that of a checkpoint, if it goes with the journal."""
    length, seal = int(found.words["length"]), found.words["seal"]
    if length > len(disk):
        raise CheckpointError(f"it counts {length} rows and the journal has {len(disk)}")
    if disk.seal(length) != seal:
        raise CheckpointError("it was made from another journal")
    persist.restore(engine, found, upto(disk, length, clock.timeline(engine._timing)))
    return True


def take_again(engine: Engine, history: History, zone: str | None) -> None:
    """The rows after the checkpoint; then the engine goes on writing."""
    runtime = engine._runtime
    store = runtime.history._store
    assert isinstance(store, Replayed)
    disk = store.store
    while len(store) < len(disk):
        start, stop = len(store), min(len(store) + SEGMENT, len(disk))
        rows = disk.read(start, stop)
        stamps = moments(rows[TIMES]) if TIMES in rows else None
        block = History(Replayed(disk, stop)).rows(start, stop)
        before = runtime.state.clock
        passed, now = clock.passed(engine._timing, before, stamps, zone if stamps is not None else None, stop - start)
        layout = Layout(block.noise_sd is not None, block.exposure is not None)
        engine._assimilate(block, now, layout, passed)
    runtime.history = history


def warn_of_passed_over(path: Path, skipped: list[str]) -> None:
    """Checkpoints that were no good."""
    if skipped:
        warnings.warn(
            f"checkpoints of {path} were passed over: {'; '.join(skipped)}. Nothing is lost: what came after an "
            "earlier one, or all, was taken again from the journal",
            SmcssmWarning,
            stacklevel=4,
        )


def open_journal(
    kind: type, path: str | os.PathLike[str] | Journal, model: Any, prior: Any, given: Mapping[str, Any]
) -> Engine:
    """The engine of a journal, current and ready to write."""
    journal = assemble.policy(path)
    engine, history, header, skipped = resume(kind, journal, model, prior, given)
    assert history.path is not None
    at = engine.t
    try:
        warn_of_passed_over(history.path, skipped)
        take_again(engine, history, header["zone"])
    except BaseException:
        history.close()
        raise
    engine._keeper = Keeper(journal, history.path, at)
    return engine
