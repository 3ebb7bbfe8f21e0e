"""Shards, their workers, and what is done when one is lost: sends calls until each is answered once.

Calls that wait are sent, a few ahead, as long as no more than ``limit`` records are not durable: then the driver waits.
A worker that is lost is replaced; its shards begin anew, as a later incarnation, with what the last one had written,
and from there the calls in the buffer are sent once more.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from smcssm import forks
from smcssm.distributed.line import Line
from smcssm.distributed.pool import Lost, Pool
from smcssm.distributed.shard import Answer, BrokenError, Part
from smcssm.errors import JournalError

LOG = logging.getLogger("smcssm")
AHEAD = 2  # calls to a shard that are under way at a time
TRIES = 4  # times that a shard is opened in vain, or lost with the same call


class Given(NamedTuple):
    """The last call: how many rows the fleet was given with it, how many records it is, and each shard's next and part.

    It counts as soon as it is here, whatever is interrupted then.
    """

    rows: int = 0
    length: int = 0
    parts: tuple[tuple[int, Any], ...] = ()


class Crew:
    """All shards of a fleet.

    Args:
        pool: where workers come from.
        parts: the shards.
        n_workers: how many workers there are.
        incarnations: of each shard, the last number that was in use.
        limit: how many records may be sent to a shard that are not durable yet.
        patience: seconds without an answer after which a worker counts as lost.
    """

    def __init__(
        self, pool: Pool, parts: list[Part], n_workers: int, incarnations: list[int], limit: int, patience: float
    ) -> None:
        self.pool, self.limit, self.patience = pool, limit, patience
        self.lock, self.busy = forks.guarded(self, threading.RLock()), False
        self.workers = [pool.start() for _ in range(n_workers)]
        self.lines = [Line(part, i % n_workers, n) for i, (part, n) in enumerate(zip(parts, incarnations, strict=True))]
        self.lost = 0
        self._refs: list[deque[Any]] = [deque() for _ in parts]
        self.given = Given()
        self._closed: dict[int, int | None] = {i: None for i in range(len(parts))}
        self._open(found=True)
        while len(lengths := {line.replied for line in self.lines}) > 1:
            # Nobody was told of records that only some have: these give them up.
            self._closed = {i: min(lengths) for i, line in enumerate(self.lines) if line.replied > min(lengths)}
            self._open(found=True)

    @property
    def durable(self) -> int:
        """Records that every shard has for good."""
        return min(line.durable for line in self.lines)

    def send(self, whats: list[Any], length: int, rows: int) -> list[Any]:
        """Send each shard a call of so many records, after those that still wait; what it says to this one.

        The fleet was given so many ``rows`` then.

        Raises:
            SmcssmError: a shard could not take it; it waits in the buffer, and is sent again with the next call.
        """
        self.given = Given(rows, length, tuple((line.end, w) for line, w in zip(self.lines, whats, strict=True)))
        told = self.run()
        return [told[i][line.end - length] for i, line in enumerate(self.lines)]

    def run(self) -> list[dict[int, Any]]:
        """Until nothing waits and nothing is under way; answers by the number of their first record.

        Raises:
            JournalError: a shard is lost each time that it is sent the same call.
            SmcssmError: a shard could not take a call.
        """
        told: list[dict[int, Any]] = [{} for _ in self.lines]
        refused: dict[int, Exception] = {}
        self._recover()
        while True:
            for i in range(len(self.lines)):
                if i not in refused:
                    self._send_some(i)
            oldest = {refs[0]: i for i, refs in enumerate(self._refs) if refs}
            if not oldest:
                break
            done = self.pool.wait(list(oldest), self.patience)
            for ref in done:
                self._take_answer(oldest[ref], told, refused)
            if not done:
                self._replace({self.lines[i].worker for i in oldest.values()}, f"no answer for {self.patience:g} s")
            self._check_progress()
        if refused:
            raise next(iter(refused.values()))
        return told

    def _check_progress(self) -> None:
        """A call that ends every process which takes it would go round for ever."""
        if vain := [line for line in self.lines if line.vain >= TRIES]:
            for line in vain:
                line.vain = 0
            which = ", ".join(f"{line.part.number} (record {line.replied})" for line in vain)
            raise JournalError(
                f"{TRIES} times in a row these shards were lost before they answered: {which}. The warnings say why; "
                "what they were sent waits, and is sent again with the next call"
            )

    def _recover(self) -> None:
        """All shards have the last call, whatever was interrupted; of which calls answers were lost is not known."""
        for line, (end, what) in zip(self.lines, self.given.parts, strict=False):
            if line.end == end:
                line.accept(what, self.given.length)
        for i, line in enumerate(self.lines):
            if len(line.flight) != len(self._refs[i]):
                self._refs[i].clear()
                self._closed.setdefault(i, line.replied)
        self._open()

    def _send_some(self, i: int) -> None:
        """As many calls to a shard as may be under way; the one that fills the buffer has it synced."""
        line = self.lines[i]
        while line.waiting and len(line.flight) < AHEAD and line.held < self.limit:
            call = line.send()
            self._refs[i].append(self._call(line, "take", call.start, call.what, line.held >= self.limit))

    def _take_answer(self, i: int, told: list[dict[int, Any]], refused: dict[int, Exception]) -> None:
        """The oldest call of a shard has ended."""
        line = self.lines[i]
        if not self._refs[i]:
            return  # its worker was lost meanwhile
        ref = self._refs[i].popleft()
        try:
            answer: Answer = self.pool.result(ref)
            told[i][line.answered(answer).start] = answer.told
        except Lost as lost:
            self._replace({line.worker}, str(lost))
        except BrokenError as error:
            LOG.warning("shard %s is opened once more: %s", line.part.number, error)
            self._leave(i)
            self._open()
        except Exception as error:  # the shard is as it was: this call and those after it are for another time
            refused.setdefault(i, error)
            while self._refs[i]:
                self._settle(self._refs[i].popleft(), line)
            line.rewind(line.replied)

    def _settle(self, ref: Any, line: Line) -> None:
        """Wait for a call that fails because the one before it did."""
        try:
            self._result(ref)
        except Lost as lost:
            self._replace({line.worker}, str(lost))
        except Exception as error:
            LOG.debug("shard %s: %s", line.part.number, error)

    def ask(self, question: Callable[[Any], Any]) -> list[Any]:
        """What a function of a fleet gives for each shard, once nothing waits."""
        answers: dict[int, Any] = {}
        for _ in range(TRIES):
            self.run()
            calls = [(i, self._call(line, "ask", question)) for i, line in enumerate(self.lines) if i not in answers]
            lost = {}
            for i, call in calls:
                try:
                    answers[i] = self._result(call).told
                except Lost as error:
                    lost[self.lines[i].worker] = str(error)
            self._replace(set(lost), "; ".join(lost.values()))
            if not lost:
                return [answers[i] for i in range(len(self.lines))]
        raise JournalError(f"workers are lost as fast as they are replaced ({TRIES} times)")

    def rescale(self, n_workers: int) -> None:
        """So many workers, with equally many shards or one more; shards that can stay where they are do."""
        self.run()
        least, more = divmod(len(self.lines), n_workers)
        load, moving = [0] * n_workers, []
        for i, line in enumerate(self.lines):
            k = line.worker
            if k < n_workers and load[k] < least + (k < more):
                load[k] += 1
            else:
                moving.append(i)
        self.close(moving)
        while len(self.workers) < n_workers:
            self.workers.append(self.pool.start())
        for i in moving:
            self.lines[i].worker = place = load.index(min(load))
            load[place] += 1
        while len(self.workers) > n_workers:
            self.pool.stop(self.workers.pop())
        self._open()

    def close(self, shards: list[int]) -> None:
        """Have some shards left to their next incarnation; in vain or not, these are not sent anything any more."""
        self._closed |= {i: self.lines[i].replied for i in shards}
        for call in [self._call(self.lines[i], "close") for i in shards]:
            try:
                self._result(call)
            except Lost as lost:
                LOG.warning("a worker was lost when it should close its shards: %s", lost)

    def stop(self) -> None:
        """All shards safe, all workers gone."""
        self.run()
        self.close(list(range(len(self.lines))))
        workers, self.workers = self.workers, []
        for worker in workers:
            self.pool.stop(worker)

    def _call(self, line: Line, method: str, *arguments: Any) -> Any:
        return self.pool.call(self.workers[line.worker], method, line.part.number, line.incarnation, *arguments)

    def _result(self, call: Any) -> Answer:
        if not self.pool.wait([call], self.patience):
            raise Lost(f"no answer for {self.patience:g} s")
        return self.pool.result(call)

    def _replace(self, workers: set[int], why: str) -> None:
        """Give up some workers, and have their shards opened by others."""
        for k in workers:
            self._give_up(k, why)
        self._open()

    def _give_up(self, k: int, why: str) -> None:
        """A worker, whatever it may still say."""
        LOG.warning("worker %s is lost and replaced: %s", k, why)
        self.lost += 1
        for i, line in enumerate(self.lines):
            if line.worker == k:
                self._leave(i)
        self.pool.stop(self.workers[k])
        self.workers[k] = self.pool.start()

    def _leave(self, i: int) -> None:
        """A shard to its next incarnation, and what it was sent with it."""
        line = self.lines[i]
        line.vain += bool(line.flight)
        self._closed.setdefault(i, line.replied)
        self._refs[i].clear()

    def _open(self, found: bool = False) -> None:
        """Begin a later incarnation of every shard that has none; as it was ``found``, whatever the driver knows."""
        lost: dict[int, str] = {}
        for _ in range(TRIES):
            calls = []
            for i, upto in self._closed.items():
                line = self.lines[i]
                line.incarnation += 1
                worker = self.workers[line.worker]
                calls.append((i, self.pool.call(worker, "open", line.part, line.incarnation, upto)))
            lost = {}
            for i, call in calls:
                try:
                    self._opened(self.lines[i], self._result(call), found)
                    del self._closed[i]
                except Lost as error:
                    lost[self.lines[i].worker] = str(error)
            if not lost:
                return
            for k, why in lost.items():
                self._give_up(k, why)
        raise JournalError(f"shards {sorted(self._closed)} could not be opened: {'; '.join(lost.values())}")

    def _opened(self, line: Line, answer: Answer, found: bool) -> None:
        if found:
            line.replied = answer.length
        elif answer.length < line.durable or not line.rewind(answer.length):
            raise JournalError(
                f"the storage of shard {line.part.number} has lost records: it has {answer.length}, and {line.durable} "
                "were said to be safe"
            )
        line.durable = answer.durable
