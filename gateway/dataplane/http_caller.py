"""A caller over HTTP whose request is passed on: its body in, the replica's answer out.

Nothing is read of a body but its length. What came whole is sent whole; what comes in pieces is
waited for while it is small and flows through when it is not (body.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from gateway.core.admission import check_size
from gateway.core.retry import Failure
from gateway.dataplane.body import JOINED_BYTES, Body, joined
from gateway.dataplane.callers import Kept
from gateway.dataplane.forwarding import Forwarding
from gateway.dataplane.http_parts import TIMEOUT, Rest, Returned, Route, returned
from gateway.dataplane.placing import placed
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.rescue import bug, guarded
from gateway.dataplane.seen import Seen, Timing, version_fields
from gateway.domain.errors import DeadlineExceeded, GatewayError
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint
from gateway.ports import DirectUpstream, UpstreamAnswer, UpstreamRequest
from gateway.wire.exchange import AnswerSink, ClientExchange, Data, ResponseHead, ServerExchange
from gateway.wire.fields import Fields, Pairs


class HttpCaller:
    """callers.DirectCaller, and the RequestSink of its exchange."""

    __slots__ = (
        "_asked", "_body", "_exchange", "_plane", "_rest", "_route", "_seen", "_timer",
        "_wants_whole",
    )  # fmt: skip
    is_direct = True

    def __init__(
        self, plane: Dataplane, rest: Rest, exchange: ServerExchange, route: Route
    ) -> None:
        self._plane = plane
        self._rest = rest
        self._exchange = exchange
        self._route = route
        self._seen = Seen(plane, rest.protocol, exchange.head.path)
        self._seen.model = route.model
        self._asked: Forwarding | None = None
        self._body: Body | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wants_whole = False

    def __repr__(self) -> str:
        return f"HttpCaller({self._exchange.head.path}, {self._asked!r})"

    @guarded
    def begin(self, whole: Data | None) -> None:
        """Admit the request and send it on. As exchange.Front.begin."""
        plane, route, exchange = self._plane, self._route, self._exchange
        now = plane.loop.time()
        try:
            if route.error is not None:
                self.refused(route.error)
                return
            size = exchange.head.content_length if whole is None else len(whole)
            if size:
                check_size(size, plane.settings.max_body_bytes)
            self._asked = asked = self._seen.asked = plane.admit(
                self._rest.transport,
                self,
                route.model,
                route.version,
                route.label,
                route.timeout_s,
                now,
                route.priority,
            )
        except GatewayError as error:
            self.refused(error)
            return
        exchange.sink = self
        self._body = Body(plane, whole if route.takes_body else b"")
        if self._body.is_complete:
            asked.go()
            return
        until = now + plane.settings.body_timeout_s
        if until < asked.deadline_at:
            self._timer = plane.loop.call_at(until, self._too_slow)
        # Only now: whoever is refused before has not uploaded anything.
        exchange.accept_body()

    def crashed(self, error: Exception) -> None:
        """See rescue.Crashable."""
        if self._asked is not None:
            self._asked.crashed(error)
        else:
            self.refused(bug(error))

    # ---- RequestSink --------------------

    @guarded
    def on_data(self, data: Data) -> None:
        """See RequestSink."""
        asked, body = self._asked, self._body
        if asked is None or body is None:
            return
        call = asked.exchange
        body.is_flowing = call is not None
        try:
            body.add(data)
        except GatewayError as error:
            asked.refuse(error)
            return
        if call is not None:
            call.write(data)
            if call.is_congested:
                self._exchange.pause()
        elif not self._wants_whole:
            if body.is_at_bound:
                self._exchange.pause()
            if asked.sent == 0.0 and body.size > self._plane.settings.hold.stream_from_bytes:
                asked.go()

    @guarded
    def on_end(self, trailers: Pairs) -> None:
        """See RequestSink."""
        asked, body = self._asked, self._body
        if asked is None or body is None:
            return
        body.is_complete = True
        self._disarm()
        if asked.exchange is not None:
            asked.exchange.end()
        else:
            asked.go()

    @guarded
    def on_gone(self, cause: str) -> None:
        """See RequestSink."""
        if self._asked is not None:
            self._asked.gone()
            self._finish("499", cause)

    @guarded
    def on_writable(self) -> None:
        """See RequestSink."""
        if self._asked is not None:
            self._asked.resume_answer()

    # ---- Caller --------------------

    @property
    def is_complete(self) -> bool:
        """See Caller."""
        return self._body is not None and self._body.is_complete

    @property
    def can_repeat(self) -> bool:
        """See Caller."""
        return self._body is not None and self._body.is_kept

    def place(self, model: str, sticky: str) -> float | None:
        """See Caller."""
        route = self._route
        found = route.placed
        if found is None or found.model != model or found.sticky != sticky:
            route.placed = found = placed(self._exchange.head.fields, model, sticky)
        return found.place

    def request(self, version: Version, timeout_s: float) -> UpstreamRequest:
        """See Caller."""
        return self.kept(version).request(timeout_s)

    def kept(self, version: Version) -> Kept:
        """See Caller."""
        route, body = self._route, self._body
        assert body is not None  # it is complete
        target = f"{route.method} {self._path(version)}"
        return Kept(body.size, partial(_request, target, body.pieces, route.fields))

    def collect(self) -> None:
        """See Caller."""
        self._wants_whole = True
        self._exchange.resume()

    def told(self, answer: UpstreamAnswer) -> None:
        """See Caller."""
        asked = self._asked
        assert asked is not None  # it is who tells
        fields = self._answer_fields(asked, Returned(answer.status, answer.headers))
        self._finish(str(answer.status))
        self._exchange.respond(answer.status, fields, answer.body)

    def refused(self, error: GatewayError) -> None:
        """See Caller."""
        answer = self._rest.error(self._route, error)
        fields = Fields(answer.headers.items()), Timing(self._asked, self._seen.begun)
        self._finish(str(answer.status), error.reason)
        self._exchange.respond(answer.status, fields, answer.body)

    # ---- DirectCaller --------------------

    @property
    def is_congested(self) -> bool:
        """See DirectCaller."""
        return self._exchange.is_congested

    def send(
        self,
        upstream: DirectUpstream,
        endpoint: Endpoint,
        version: Version,
        timeout_s: float,
        sink: AnswerSink,
    ) -> ClientExchange:
        """See DirectCaller."""
        route, body = self._route, self._body
        assert body is not None  # it was admitted
        path = route.paths.get(version) or self._path(version)
        fields = (route.fields,)
        method = route.method
        pieces = body.pieces
        if body.is_complete and (len(pieces) == 1 or body.size <= JOINED_BYTES):
            whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            return upstream.begin(endpoint, method, path, fields, whole, timeout_s, sink)
        length = body.size if body.is_complete else self._exchange.head.content_length
        call = upstream.begin(endpoint, method, path, fields, None, timeout_s, sink, length=length)
        for piece in pieces:
            call.write(piece)
        if body.is_complete:
            call.end()
        elif call.is_congested:
            self._exchange.pause()
        else:
            self._exchange.resume()
        return call

    def send_more(self) -> None:
        """See DirectCaller."""
        if not self.is_complete:
            self._exchange.resume()

    def failure_in(self, head: ResponseHead, trailers: Pairs) -> Failure | None:
        """See DirectCaller."""
        status, transport = head.status, self._rest.transport
        if status == transport.unavailable:
            return Failure.UNAVAILABLE
        return Failure.VERSION_SKEW if status == transport.not_found else None

    def report_in(self, head: ResponseHead, trailers: Pairs) -> int:
        """See DirectCaller."""
        return returned(head).report

    def status_of(self, head: ResponseHead) -> int:
        """See DirectCaller."""
        return head.status

    def whole(self, asked: Forwarding, head: ResponseHead, body: Data, trailers: Pairs) -> None:
        """See DirectCaller."""
        fields = self._answer_fields(asked, returned(head))
        self._finish(str(head.status))
        self._exchange.respond(head.status, fields, body)

    def start(self, asked: Forwarding, head: ResponseHead, length: int | None) -> None:
        """See DirectCaller."""
        self._exchange.start(head.status, self._answer_fields(asked, returned(head)), length)

    def piece(self, data: Data) -> None:
        """See DirectCaller."""
        self._exchange.write(data)

    def end(self, asked: Forwarding, head: ResponseHead, trailers: Pairs) -> None:
        """See DirectCaller."""
        self._finish(str(head.status))
        self._exchange.end()

    def broke_off(self, reason: str) -> None:
        """See DirectCaller."""
        self._finish("502", reason)
        self._exchange.abort()

    # ---- inside --------------------

    def _answer_fields(self, asked: Forwarding, fields: Returned) -> tuple[Fields, ...]:
        return (
            fields,
            version_fields(asked.answered_by),
            Timing(asked, self._seen.begun, fields.spent),
        )

    def _path(self, version: Version) -> str:
        route = self._route
        return route.paths.get(version) or route.keep_path(version, self._rest.path(route, version))

    def _too_slow(self) -> None:
        self._timer = None
        if self._asked is not None:
            self._asked.refuse(
                DeadlineExceeded(
                    "The request's body had not come in completely by its deadline",
                    reason="receive",
                )
            )

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self, code: str, reason: str = "") -> None:
        """It has its answer, or will have none: count it, and let go of what is held."""
        self._asked = None
        self._disarm()
        if self._body is not None:
            self._body.let_go()
        self._seen.finish(code, reason)


def _request(
    target: str, pieces: Sequence[Data], fields: Fields, timeout_s: float
) -> UpstreamRequest:
    left_ms = str(max(1, int(timeout_s * 1000)))
    return UpstreamRequest(target, joined(pieces), (*fields.pairs, (TIMEOUT, left_ms)))
