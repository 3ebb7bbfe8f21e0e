"""What the driver knows of one shard, and its buffer: every call that is not durable yet, to be sent again if need be.

    waiting   not sent yet, or to be sent once more
    flight    sent, no answer yet
    unsaved   answered, but a power cut might take it

A call leaves the buffer when a reply says that the storage has it for good.
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
    """One shard: ``end`` records were given to it, ``replied`` are answered, and ``durable`` of those safe.

    It was lost ``vain`` times with calls under way since the last answer.
    """

    part: Part
    worker: int
    incarnation: int
    end: int = 0
    replied: int = 0
    durable: int = 0
    vain: int = 0
    waiting: deque[Call] = field(default_factory=deque)
    flight: deque[Call] = field(default_factory=deque)
    unsaved: deque[Call] = field(default_factory=deque)

    @property
    def held(self) -> int:
        """Records that were sent and are not durable."""
        last = self.flight or self.unsaved
        return last[-1].stop - self.durable if last else 0

    def accept(self, what: Any, length: int) -> None:
        """So many records more."""
        self.waiting.append(Call(self.end, self.end + length, what))
        self.end += length

    def send(self) -> Call:
        """The next call."""
        call = self.waiting.popleft()
        self.flight.append(call)
        return call

    def answered(self, answer: Answer) -> Call:
        """The oldest call in flight was."""
        call = self.flight.popleft()
        assert answer.length == call.stop
        self.unsaved.append(call)
        self.vain = 0
        self.replied, self.durable = call.stop, max(self.durable, answer.durable)
        while self.unsaved and self.unsaved[0].stop <= self.durable:
            self.unsaved.popleft()
        return call

    def rewind(self, length: int) -> bool:
        """Go on with a shard that has so many records; False if what follows is neither there nor here."""
        calls = [*self.unsaved, *self.flight, *self.waiting]
        self.unsaved, self.flight = deque(call for call in calls if call.start < length), deque()
        self.waiting = deque(call for call in calls if call.start >= length)
        self.replied = length
        return length == (self.waiting[0].start if self.waiting else self.end)
