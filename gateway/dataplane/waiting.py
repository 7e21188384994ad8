"""A request for which there is no replica waits for the next table, within bounds.

For the whole of its life it waits no longer than `retry.replica_wait_s` after it has first had to,
whatever came between; by its deadline only where its model has been stopped because nobody asked
(`is_held`), and is started now. Waiting for a turn is something else (turns.py).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.core.admission import check_held
from gateway.core.route import is_held
from gateway.domain.errors import DeadlineExceeded, GatewayError, Unavailable

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding
    from gateway.dataplane.plane import Dataplane


class Wait:
    """One request's; made when it first has to. `Dataplane.publish` has it look again."""

    __slots__ = ("_asked", "_plane", "_timer", "_until")

    def __init__(self, plane: Dataplane, asked: Forwarding, now: float) -> None:
        self._plane = plane
        self._asked = asked
        self._until = asked.deadline_at
        if not is_held(plane.table, asked.name, asked.version, asked.label):
            self._until = min(self._until, now + plane.settings.retry.replica_wait_s)
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """There is no replica now.

        Raises:
            Overloaded: all requests together hold as much as they may (`held_bytes`).
        """
        plane, asked = self._plane, self._asked
        check_held(plane.held_bytes, plane.settings.hold.total_bytes)
        plane.waiting.add(asked)
        if is_held(plane.table, asked.name, asked.version, asked.label):
            plane.demands.call(asked.name)
        # At its deadline it is ended anyway.
        if self._timer is None and self._until < self._asked.deadline_at:
            self._timer = plane.loop.call_at(self._until, self._up)

    def pause(self) -> None:
        """A replica is being asked."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """The request has ended."""
        self.pause()
        self._plane.waiting.discard(self._asked)

    def _up(self) -> None:
        self._timer = None
        self._asked.waited()


def none_came(name: str, wait_s: float) -> Unavailable:
    """What is told to a request that has waited so long."""
    return Unavailable(
        f"No replica of model {name} can answer now, and none came up within {wait_s:g} s",
        reason="no_selectable_replica",
        retry_after_s=1.0,
    )


def passed(
    name: str, is_complete: bool, is_asking: bool, is_queued: bool, outcome: GatewayError | None
) -> GatewayError:
    """What is told to a request whose deadline has passed: what it was waiting for, or `outcome`,
    why there was no answer before it had to wait."""
    phase = "queue"
    if not is_complete:
        why, phase = "The request's body had not come in completely by its deadline", "receive"
    elif is_asking:
        why, phase = "The deadline passed while a replica was working on the request", "call"
    elif is_queued:
        why = f"The deadline passed while the request waited for its turn at model {name}"
    elif outcome is not None:
        return outcome
    else:
        why = f"The deadline passed while no replica of model {name} could answer"
    return DeadlineExceeded(why, reason=phase)
