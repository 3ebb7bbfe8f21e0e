"""What the driver knows of one shard, and its buffer: every call that is not durable yet, to be sent again if need be.

    waiting   not sent yet, or to be sent once more
    flight    sent, no answer yet
    unsaved   answered, but a power cut might take it

A call leaves the buffer when a reply says that the storage has it for good. It is put where it goes before it is taken
from where it was: an interrupt may leave it in both, and ``rewind`` makes it one again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from smcssm.distributed.shard import Answer, Part


class Call(NamedTuple):
    """Records ``start`` to ``stop`` of a shard: a block of rows, or which series to release."""

    start: int
    stop: int
    what: Any


@dataclass
class Line:
    """One shard: ``replied`` records are answered, and ``durable`` of those safe.

    It was lost ``vain`` times with calls under way since the last answer.
    """

    part: Part
    worker: int
    incarnation: int
    replied: int = 0
    durable: int = 0
    vain: int = 0
    waiting: deque[Call] = field(default_factory=deque)
    flight: deque[Call] = field(default_factory=deque)
    unsaved: deque[Call] = field(default_factory=deque)

    @property
    def end(self) -> int:
        """Records that were given to it."""
        last = self.waiting or self.flight or self.unsaved
        return last[-1].stop if last else self.replied

    @property
    def held(self) -> int:
        """Records that were sent and are not durable."""
        last = self.flight or self.unsaved
        return last[-1].stop - self.durable if last else 0

    def accept(self, what: Any, length: int) -> None:
        """So many records more."""
        self.waiting.append(Call(self.end, self.end + length, what))

    def send(self) -> Call:
        """The next call."""
        self.flight.append(self.waiting[0])
        return self.waiting.popleft()

    def answered(self, answer: Answer) -> Call:
        """The oldest call in flight was."""
        assert answer.length == self.flight[0].stop
        self.unsaved.append(self.flight[0])
        self.vain, self.replied, self.durable = 0, answer.length, max(self.durable, answer.durable)
        call = self.flight.popleft()
        while self.unsaved and self.unsaved[0].stop <= self.durable:
            self.unsaved.popleft()
        return call

    def rewind(self, length: int) -> bool:
        """Go on with a shard that has so many records; False if what follows is neither there nor here."""
        end, calls = self.end, {call.start: call for call in (*self.unsaved, *self.flight, *self.waiting)}
        self.waiting = deque(call for start, call in calls.items() if start >= length)
        self.unsaved, self.flight = deque(call for start, call in calls.items() if start < length), deque()
        self.replied = length
        return length == (self.waiting[0].start if self.waiting else end)
