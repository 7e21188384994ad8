"""Requests that wait for their turn at a model, and which of them are not worth waiting.

First come, first served within a priority; a higher priority goes first, whatever waits. First in
first out, because what cannot be answered in time is refused at the door: a queue in which
everybody makes it needs no other order. What a higher priority has pushed behind its deadline is
found when its turn comes, and is refused without having been sent.

Every request in front counts, those with the replicas too: `ahead / throughput` is Little's law.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from gateway.core.limits import Limit
from gateway.domain.errors import InvalidRequest, Overloaded

T = TypeVar("T")

PRIORITY = "x-priority"
"""Header and metadata key, by which callers say who goes first."""


class Priority(IntEnum):
    """Who goes first. The words of Kubernetes' Gateway API Inference Extension (`criticality`)."""

    CRITICAL = 0
    STANDARD = 1
    SHEDDABLE = 2


_PRIORITIES = {priority.name.lower(): priority for priority in Priority}


def priority_of(value: str | None) -> Priority:
    """What `x-priority` asks for; STANDARD where it is not there.

    Raises:
        InvalidRequest: it is none of the words (`bad_priority`).
    """
    if value is None:
        return Priority.STANDARD
    found = _PRIORITIES.get(value.strip().lower())
    if found is None:
        raise InvalidRequest(
            f"x-priority must be one of {', '.join(_PRIORITIES)}; got {value[:40]!r}",
            reason="bad_priority",
        )
    return found


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Bounds of what waits."""

    most: int = 8192
    """Requests of one model that wait in one process: a model's default in-flight limit, which
    counts them as well, and says why. Their bodies count against `hold.total_bytes` too."""

    margin: float = 1.5
    """The wait that is predicted is multiplied by this before it is compared with the deadline, so
    a queue stands at two thirds of it, and a replica that hiccups for the rest makes nobody late.
    Costs nothing while somebody waits. Shares of late ones in `loadtests.overload`, on a machine
    that was busy with other things: 5 % at 1.25."""


class Queue(Generic[T]):
    """What waits for one model. Every step takes the same time, however many wait."""

    __slots__ = ("_lines", "size")

    def __init__(self) -> None:
        # Ordered dictionaries, since any of them may leave at any time.
        self._lines: tuple[OrderedDict[T, None], ...] = tuple(OrderedDict() for _ in Priority)
        self.size = 0

    def push(self, item: T, priority: Priority) -> None:
        """To the end of its line."""
        self._lines[priority][item] = None
        self.size += 1

    def pop(self) -> T | None:
        """Whose turn it is; None when nobody waits."""
        for line in self._lines:
            if line:
                self.size -= 1
                return line.popitem(last=False)[0]
        return None

    def remove(self, item: T, priority: Priority) -> None:
        """It does not wait any more. Nothing happens where it did not."""
        if item in self._lines[priority]:
            del self._lines[priority][item]
            self.size -= 1

    def ahead(self, priority: Priority) -> int:
        """How many would be served before one of `priority` that came now."""
        return sum(len(self._lines[p]) for p in range(priority + 1))

    def pop_last(self) -> T | None:
        """The youngest of the lowest priority: who gives way."""
        for line in reversed(self._lines):
            if line:
                self.size -= 1
                return line.popitem()[0]
        return None


class Turns(Generic[T]):
    """Who of one model's requests is with its replicas, and who waits for that.

    While somebody waits, all turns are taken: whoever gives one back, or has changed the limit,
    asks `next` until it has nobody more.
    """

    __slots__ = ("_settings", "active", "limit", "model", "queue")

    def __init__(self, model: str, limit: Limit, settings: QueueSettings) -> None:
        self.model = model
        self.limit = limit
        self.active = 0
        """Requests whose turn it is."""
        self.queue: Queue[T] = Queue()
        self._settings = settings

    def check(self, priority: Priority, left_s: float) -> None:
        """The door, for a request that has `left_s` seconds. Need not be asked while no more than
        `limit.free` are active.

        Raises:
            Overloaded: it would be answered too late (`too_late`).
        """
        limit = self.limit
        ahead = self.active + self.queue.ahead(priority)
        finish_s = limit.finish_surely_s(ahead, self._settings.margin)
        if finish_s > left_s:
            limit.refused()
            raise Overloaded(
                f"Model {self.model} has {ahead} requests before this one, which would take about "
                f"{finish_s:.3g} s and has {max(0.0, left_s):.3g}. Try again later, allow more "
                "time, or add replicas.",
                reason="too_late",
                retry_after_s=max(0.001, finish_s - left_s),
            )

    def take(self, item: T, priority: Priority) -> bool:
        """True: it is the turn of `item`, until `give_back`. False: it waits."""
        if self.active < self.limit.value and not self.queue.size:
            self.active += 1
            return True
        self.limit.queued()
        self.queue.push(item, priority)
        return False

    def displaced(self) -> T | None:
        """Who has to give way, now that more wait than may: the youngest of the lowest priority,
        which may be who came last."""
        return self.queue.pop_last() if self.queue.size > self._settings.most else None

    def next(self) -> T | None:
        """Whose turn it is now; it is counted as active."""
        if self.queue.size and self.active < self.limit.value:
            self.active += 1
            return self.queue.pop()
        return None

    def give_back(self) -> bool:
        """Somebody who had a turn does not need it any more. Whether `next` is to be asked."""
        self.active -= 1
        return self.queue.size > 0

    def is_worth_sending(self, left_s: float) -> bool:
        """Whether one whose turn has come will be answered in time, by the door's measure. After a
        hiccup of the replica all who wait are late by as much; sending those who may just make it
        would have every one after them just miss it."""
        if self.limit.finish_surely_s(self.active - 1, self._settings.margin) <= left_s:
            return True
        self.limit.refused()
        return False

    def full(self) -> Overloaded:
        """What is told to those for whom there is no place."""
        size = self.queue.size
        return Overloaded(
            f"{size} requests of model {self.model} wait already, as many as may. Try again later, "
            "or add replicas.",
            reason="queue_full",
            retry_after_s=max(0.001, self.limit.finish_s(self.active + size)),
        )

    def late(self, left_s: float) -> Overloaded:
        """What is told to one that is not worth sending."""
        return Overloaded(
            f"The turn of this request at model {self.model} has come too late: an answer takes "
            f"{self.limit.finish_s(self.active - 1):.3g} s, and {max(0.0, left_s):.3g} are left",
            reason="expired",
            retry_after_s=max(0.001, self.limit.finish_s(self.active + self.queue.size)),
        )
