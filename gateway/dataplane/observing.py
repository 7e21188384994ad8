"""What the end of a call teaches.

One place for the three that learn from it: what is thought of the replica (replicas.py), how much
the model's replicas can do at once (core.limits), and after how long a second one is asked
(core.hedge).
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.retry import Failure
from gateway.dataplane.inflight import Use
from gateway.dataplane.replicas import AN_ERROR

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding
    from gateway.dataplane.plane import Dataplane


def answered(
    plane: Dataplane, asked: Forwarding, use: Use, took_s: float, report: int, status: int
) -> None:
    """A replica has answered, whatever it said; `report` as DirectCaller.report_in. Errors come
    sooner than answers: of the limit only those count that speak of load."""
    now = plane.loop.time()
    plane.replicas.answered(use[2], took_s, report, now)
    if asked.hedging is not None and not asked.attempts:
        # Where two were asked: since the first was. The turn was held for so long.
        took_s = perf_counter() - asked.sent
        asked.hedging.observe(took_s)
    transport = asked.transport
    if status <= transport.last_good:
        asked.state.turns.limit.observe(took_s, now)
    elif status == transport.overloaded:
        asked.state.turns.limit.rejected(now)


def failed(
    plane: Dataplane, asked: Forwarding, use: Use, failure: Failure, took_s: float, now: float
) -> None:
    """A replica gave no answer, or one that is a reason to ask another."""
    if failure is Failure.VERSION_SKEW:
        plane.replicas.answered(use[2], took_s, AN_ERROR, now)
        return
    plane.replicas.failed(use[2], failure, now)
    if failure is Failure.UNAVAILABLE:
        asked.state.turns.limit.rejected(now)


def late(plane: Dataplane, asked: Forwarding, use: Use, elapsed_s: float) -> None:
    """The deadline passed while a replica worked."""
    now = plane.loop.time()
    plane.replicas.late(use[2], now)
    asked.state.turns.limit.dropped(elapsed_s, now)
