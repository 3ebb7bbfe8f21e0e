"""A part of a fleet in a folder of shared storage, which one process at a time serves: its present incarnation.

    shard-00003/000007/    the journal of incarnation 7: it begins with a copy of what 6 had written, and only 7 writes
    shard-00003/000006/    of a process that was lost, or was thought to be: whatever it still writes, nobody reads

So a process that comes back from the dead can neither overwrite nor add anything, and no lock of it has to be waited
for. Incarnations are numbered by the driver; one that finds a later one beside it stops by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smcssm.distributed.handover import copy, sweep
from smcssm.distributed.storage import FencedError
from smcssm.errors import JournalError
from smcssm.fleet import Fleet
from smcssm.fleets.rows import Block
from smcssm.journal import HEADER, Disk, Journal
from smcssm.runtime import alone


class Part(NamedTuple):
    """Which series a shard has: their names, and the number of the first among all. Its own number."""

    number: int
    names: tuple[Any, ...]
    first: int


class Setup(NamedTuple):
    """How the fleet of every shard is built, and for which driver; ``policy`` is their journals', whatever its path."""

    model: Any
    prior: Any
    options: dict[str, Any]
    policy: Journal
    driver: str


class Answer(NamedTuple):
    """What a shard says: who it is, how many records it has, how many of them a power cut would leave, and the rest."""

    incarnation: int
    length: int
    durable: int
    told: Any = None


class BrokenError(JournalError):
    """This incarnation cannot go on: what of a call that failed it has kept is not known."""


class Shard:
    """One incarnation.

    Args:
        setup: how fleets are built.
        folder: of the shard.
        part: its series.
        incarnation: the number of this one.
        upto: how many records of the last incarnation are to be taken over; all by default. Of a call all or none are.
    """

    def __init__(self, setup: Setup, folder: Path, part: Part, incarnation: int, upto: int | None) -> None:
        self.folder, self.incarnation = folder, incarnation
        policy = replace(setup.policy, path=folder / f"{incarnation:06d}")
        if _taken_over(folder, incarnation, Path(policy.path), upto):
            self.fleet = Fleet.open(policy, setup.model, setup.prior, **setup.options)
            if self.fleet.names != part.names:
                raise JournalError(f"{policy.path} is of the series {self.fleet.names}, expected {part.names}")
        else:
            options = dict(setup.options, series=part.names, first=part.first, journal=policy)
            self.fleet = Fleet(setup.model, setup.prior, **options)
        for old in incarnations(folder)[:-2]:
            shutil.rmtree(folder / f"{old:06d}", ignore_errors=True)
        sweep(folder)

    def take(self, start: int, call: Block | np.ndarray, sync: bool) -> Answer:
        """Rows, or the series to be released, as records from number ``start`` on.

        Raises:
            BrokenError: it failed, and this incarnation cannot take it again.
            SmcssmError: it failed, and the shard is as it was.
        """
        self._check_fence()
        length = self.fleet._runtime.state.length
        if start != length:
            raise JournalError(f"{self.folder}: record {start} was sent, and {length} is the next one")
        try:
            if isinstance(call, Block):
                with alone(self.fleet._runtime):
                    told = self.fleet._taken(call)
            else:
                told = self.fleet._release(call)
            if sync:
                self._disk.sync()
        except Exception as error:
            if self._disk.lost or self.fleet._runtime.state.length != length:
                raise BrokenError(f"{self.folder}: {error}") from error
            raise
        return self.answer(told)

    def ask(self, question: Callable[[Fleet], Any]) -> Answer:
        """What a function of the fleet gives."""
        return self.answer(question(self.fleet))

    def close(self) -> Answer:
        """Leave the journal, safe on the disk and with a checkpoint, to the next incarnation."""
        if self.fleet._runtime.state.length:
            self.fleet.checkpoint()
        self.fleet.close()
        return self.answer()

    def answer(self, told: Any = None) -> Answer:
        """Of this incarnation, now."""
        return Answer(self.incarnation, self.fleet._runtime.state.length, self._disk.durable, told)

    @property
    def _disk(self) -> Disk:
        store = self.fleet._runtime.store
        assert isinstance(store, Disk)
        return store

    def _check_fence(self) -> None:
        if not (found := incarnations(self.folder)):
            raise JournalError(f"{self.folder} is gone: nothing can be written there")
        if (newest := found[-1]) > self.incarnation:
            raise FencedError(f"{self.folder}: incarnation {newest} has taken over from {self.incarnation}")


def incarnations(folder: Path) -> list[int]:
    """Those that are complete, in order."""
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdecimal()) if folder.exists() else []


def _taken_over(folder: Path, incarnation: int, target: Path, upto: int | None) -> bool:
    """Copy what the last incarnation has written; False if that is nothing."""
    before = [n for n in incarnations(folder) if n < incarnation]
    last = folder / f"{before[-1]:06d}" if before else None
    if last is None or not (last / HEADER).exists():
        return False
    copy(last, target, upto)
    return True
