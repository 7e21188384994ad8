"""A second call for a request whose first one takes long (core.hedge).

It is the AnswerSink of its own exchange. Whichever call shows the beginning of an answer first
becomes the request's only one, and the other is cancelled: from there on its events are the
Forwarding's, as if there had never been another. A second call that fails is forgotten; if the
first one fails meanwhile, the second takes its place.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, cast

from gateway.core.hedge import Tail
from gateway.core.retry import Failure
from gateway.core.route import Target
from gateway.dataplane import observing
from gateway.dataplane.callers import DirectCaller
from gateway.dataplane.inflight import Use
from gateway.dataplane.rescue import guarded
from gateway.wire.exchange import ClientExchange, Data, ResponseHead, WireError
from gateway.wire.fields import Pairs

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding
    from gateway.dataplane.plane import Dataplane


def hedged(plane: Dataplane, asked: Forwarding, tail: Tail) -> Hedge | None:
    """A second call for a request whose first one has just begun, when it is time; None where there
    can be none: too little is known, or the request is not held whole."""
    wait_s, caller = tail.wait_s(), asked.caller
    if wait_s is None or not caller.is_complete or not caller.can_repeat:
        return None
    return Hedge(plane, asked, wait_s)


class Hedge:
    """One request's second call; nothing but a timer until it is time for it."""

    __slots__ = (
        "_asked",
        "_began",
        "_exchange",
        "_is_adopted",
        "_plane",
        "_target",
        "_timer",
        "use",
    )

    def __init__(self, plane: Dataplane, asked: Forwarding, wait_s: float) -> None:
        self._plane = plane
        self._asked = asked
        self._is_adopted = False
        self.use: Use | None = None
        """What the call is counted as, while it is under way and this one's."""
        self._target: Target | None = None
        self._exchange: ClientExchange | None = None
        self._began = 0.0
        self._timer = plane.loop.call_later(wait_s, self._begin)

    def __repr__(self) -> str:
        return f"Hedge({self.use}, {'the only one now' if self._is_adopted else 'waiting'})"

    @guarded
    def _begin(self) -> None:
        asked, plane = self._asked, self._plane
        first = asked.first_call()
        target = None if first is None else plane.pick_another(asked, first)
        if first is None or target is None or asked.translator(target.endpoint) is not None:
            return
        if not asked.state.budget.withdraw():
            return
        self._target = target
        self.use = use = (first[0], first[1], target.replica_id)
        plane.in_flight.begin(use)
        self._began = perf_counter()
        self._exchange = asked.send_to(target.endpoint, use[1], self)

    def take_over(self) -> None:
        """It is the request's only call from now on."""
        use, target, exchange = self.use, self._target, self._exchange
        assert use is not None  # it has begun
        assert target is not None
        assert exchange is not None
        self._is_adopted = True
        self.use = None
        self._asked.adopt(use, target, exchange, self._began)
        self._count(use, "won")

    def drop(self) -> None:
        """The first call has shown an answer, or nobody waits for one any more."""
        self._timer.cancel()
        use, exchange = self.use, self._exchange
        if use is None or exchange is None:
            return
        self.use = None
        exchange.cancel()
        plane = self._plane
        plane.in_flight.end(use)
        plane.replicas.abandoned(use[2], perf_counter() - self._began, plane.loop.time())
        self._count(use, "lost")

    def _count(self, use: Use, outcome: str) -> None:
        self._plane.metrics.hedges_total.labels(use[0], outcome).inc()

    def crashed(self, error: Exception) -> None:
        """See rescue.Crashable."""
        self._asked.crashed(error)

    # ---- AnswerSink --------------------

    @guarded
    def on_whole(self, head: ResponseHead, body: Data, trailers: Pairs) -> None:
        """See AnswerSink."""
        asked = self._asked
        if not self._is_adopted:
            failure = cast(DirectCaller, asked.caller).failure_in(head, trailers)
            if failure is not None:
                self._failed(failure)
                return
            self.take_over()
        asked.on_whole(head, body, trailers)

    @guarded
    def on_head(self, head: ResponseHead) -> None:
        """See AnswerSink."""
        if not self._is_adopted:
            self.take_over()
        self._asked.on_head(head)

    @guarded
    def on_data(self, data: Data) -> None:
        """See AnswerSink. Its head has come: it is adopted."""
        self._asked.on_data(data)

    @guarded
    def on_end(self, trailers: Pairs) -> None:
        """See AnswerSink."""
        self._asked.on_end(trailers)

    @guarded
    def on_failed(self, error: WireError) -> None:
        """See AnswerSink."""
        if self._is_adopted:
            self._asked.on_failed(error)
        else:
            self._failed(Failure.RESET if error.sent else Failure.CONNECT)

    @guarded
    def on_writable(self) -> None:
        """See AnswerSink. All of the request was here when it began: there is no more to send."""

    def _failed(self, failure: Failure) -> None:
        """Forget it: the first one is still under way."""
        use, plane = self.use, self._plane
        assert use is not None  # it has begun
        self.use = None
        plane.in_flight.end(use)
        took_s = perf_counter() - self._began
        observing.failed(plane, self._asked, use, failure, took_s, plane.loop.time())
        self._count(use, "failed")
