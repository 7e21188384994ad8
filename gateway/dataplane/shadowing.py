"""Copies of requests to a rollout's canary, whose answers are compared and thrown away.

A request that the stable version has answered is copied when its caller has the answer: it waits
for nothing of this, and nothing of this can fail it. A copy is counted nowhere that requests are:
not as in flight, nor in turns, limits, the split or the standing of replicas. It goes to the same
replica where that holds the canary, for the two to have the same machine.

Bounded are the copies under way, the bytes that they hold, and the time that comparing takes of
this process; beyond that, and while requests wait for their turn, copies are dropped and counted.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

from gateway.core import agreement
from gateway.core.route import is_canarys
from gateway.dataplane.callers import DirectCaller
from gateway.dataplane.inflight import Use
from gateway.dataplane.rescue import bug
from gateway.dataplane.shadow_compare import Compared, Exchanged, compare
from gateway.dataplane.shadow_copy import Copy
from gateway.dataplane.signatures import SignatureCache
from gateway.wire.exchange import ResponseHead
from gateway.wire.fields import Pairs

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding
    from gateway.dataplane.plane import Dataplane


class Shadowing:
    """All copies of one process: their bounds, and what became of them."""

    def __init__(self, plane: Dataplane) -> None:
        self.settings = plane.settings.shadow
        self.held_bytes = 0
        self.under_way: dict[str, int] = {}
        """By model."""
        self.signatures = SignatureCache()
        """Apart from translation's, which are asked for in the middle of asking for these."""
        self._plane = plane
        self._thread: ThreadPoolExecutor | None = None
        self._rests_until = 0.0

    def __repr__(self) -> str:
        return f"Shadowing({self.under_way}, {self.held_bytes} bytes)"

    def keep(self, asking: Forwarding, use: Use, status: int) -> Copy | None:
        """What is to be copied of a request that `use` has answered with `status`, before its
        caller has the answer and lets go of it. Raises nothing."""
        try:
            return self._keep(asking, use, status)
        except Exception as error:  # noqa: BLE001 - a bug in here must not cost a caller its answer
            bug(error)
            return None

    def keep_pieces(
        self, asking: Forwarding, use: Use, head: ResponseHead, trailers: Pairs
    ) -> Copy | None:
        """The same where the answer has come in pieces."""
        caller = cast(DirectCaller, asking.caller)
        if caller.failure_in(head, trailers) is not None:
            return None
        return self.keep(asking, use, caller.status_of(head))

    def _keep(self, asking: Forwarding, use: Use, status: int) -> Copy | None:
        canary, caller, name = asking.shadow, asking.caller, asking.name
        if canary is None or status > asking.transport.last_good:
            return None
        model = self._plane.table.models.get(name)
        if model is None or is_canarys(model, canary, use[1], use[2]):
            return None
        if not (caller.is_complete and caller.can_repeat):
            self.tell(name, canary.window, "skipped")
        elif self._is_full(asking):
            self.tell(name, canary.window, "dropped")
        elif self._plane.split.agreement_in(name, canary.window) is not None:
            return Copy(self._plane, self, asking, canary, use, caller.kept(canary.version))
        return None

    def _is_full(self, asking: Forwarding) -> bool:
        settings = self.settings
        return (
            self.under_way.get(asking.name, 0) >= settings.calls
            or self.held_bytes >= settings.held_bytes
            or self._plane.loop.time() < self._rests_until
            or asking.state.turns.queue.size > 0
        )

    def begun(self, model: str, size_bytes: int) -> None:
        """A copy is on its way; `ended` follows."""
        self.under_way[model] = self.under_way.get(model, 0) + 1
        self.held_bytes += size_bytes

    def ended(self, model: str, size_bytes: int) -> None:
        """It has ended, somehow."""
        self.held_bytes -= size_bytes
        self.under_way[model] -= 1
        if not self.under_way[model]:
            del self.under_way[model]

    async def compared(self, exchanged: Exchanged, tolerance: float) -> Compared:
        """Compare on the one thread for it, and rest afterwards in proportion."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        most = self._plane.settings.max_body_bytes
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, compare, exchanged, tolerance, most)
        rest_s = found.took_s * (1.0 / self.settings.busy_ratio - 1.0)
        self._rests_until = self._plane.loop.time() + rest_s
        return found

    def tell(self, model: str, window: int, outcome: str, found: Compared | None = None) -> None:
        """What became of a request that was drawn, if its step is not over."""
        tally = self._plane.split.agreement_in(model, window)
        if tally is None:
            return
        self._plane.metrics.shadows_total.labels(model, outcome).inc()
        if outcome == "compared" and found is not None:
            agreement.count(tally, found.differences)
        elif outcome == "failed" and found is not None:
            agreement.count_failure(tally, found.canary_error)
        elif outcome == "dropped":
            tally.dropped += 1
        else:
            tally.skipped += 1

    def close(self) -> None:
        """End the thread when it is done."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
