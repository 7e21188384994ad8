"""Whose turn it is, in one process: `core.queueing` for requests on their way.

A request takes its turn when it is about to be sent for the first time, and gives it back when it
ends; what follows after that is woken here, in the same turn of the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.hedge import Tail
from gateway.core.queueing import Turns
from gateway.core.retry import RetryBudget
from gateway.domain.errors import Overloaded
from gateway.telemetry import Metrics

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding


@dataclass(slots=True, eq=False)
class ModelState:
    """What lasts of a model from one request to the next."""

    budget: RetryBudget
    turns: Turns[Forwarding]
    tail: Tail | None = None
    """Where its requests are hedged."""
    came: int = 0
    """Requests that came, refused ones too, once it was known which model they mean."""

    def tail_of(self, share: float) -> Tail:
        """Its latencies, by the share that it is hedged at now."""
        if self.tail is None or self.tail.share != share:
            self.tail = Tail(share)
        return self.tail


class Turning:
    """The one place where requests wait, and are woken."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._is_waking = False

    def wait(self, asked: Forwarding) -> None:
        """It was queued: `asked.turn` is called when its turn has come. Where too many wait then,
        one of them has to go."""
        asked.is_queued = True
        turns = asked.state.turns
        last = turns.displaced()
        if last is not None:
            last.is_queued = False
            self.shed(last, turns.full())

    def leave(self, asked: Forwarding) -> None:
        """It has ended while it waited."""
        asked.is_queued = False
        asked.state.turns.queue.remove(asked, asked.priority)

    def wake(self, turns: Turns[Forwarding]) -> None:
        """A turn is free, or the limit has changed: let those go on whose turn it is. What they do
        may end them at once, and free their turn: one loop for all of that, however deep."""
        if self._is_waking:
            return
        self._is_waking = True
        try:
            while (following := turns.next()) is not None:
                following.turn()
        finally:
            self._is_waking = False

    def shed(self, asked: Forwarding, error: Overloaded) -> None:
        """Refuse one that was let in, and has not been sent."""
        self._metrics.shed_total.labels(asked.name, error.reason).inc()
        asked.refuse(error)
