"""The process that serves some shards: a Ray actor, or for tests an object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from smcssm.distributed.shard import Answer, Part, Setup, Shard
from smcssm.distributed.storage import FencedError, check_claim, folder_of
from smcssm.files import folder
from smcssm.fleet import Fleet
from smcssm.fleets.rows import Block


class Worker:
    """Answers one question at a time."""

    def __init__(self, setup: Setup, storage: str) -> None:
        self._setup, self._storage = setup, Path(storage)
        self._shards: dict[int, Shard] = {}

    def open(self, part: Part, incarnation: int, upto: int | None) -> Answer:
        """Begin to serve a shard, as this incarnation of it."""
        check_claim(self._storage, self._setup.driver)
        home = folder_of(self._storage, part.number)
        folder(home)
        shard = self._shards[part.number] = Shard(self._setup, home, part, incarnation, upto)
        return shard.answer()

    def take(self, number: int, incarnation: int, start: int, call: Block | np.ndarray, sync: bool) -> Answer:
        """See ``Shard.take``."""
        return self._shard(number, incarnation).take(start, call, sync)

    def ask(self, number: int, incarnation: int, question: Callable[[Fleet], Any]) -> Answer:
        """See ``Shard.ask``."""
        return self._shard(number, incarnation).ask(question)

    def close(self, number: int, incarnation: int) -> Answer:
        """Serve a shard no more."""
        answer = self._shard(number, incarnation).close()
        del self._shards[number]
        return answer

    def _shard(self, number: int, incarnation: int) -> Shard:
        shard = self._shards.get(number)
        if shard is None or shard.incarnation != incarnation:
            raise FencedError(f"this process does not serve incarnation {incarnation} of shard {number}")
        return shard
