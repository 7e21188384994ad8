"""A caller over gRPC whose unary call is passed on.

Of the message only what routes is read (codecs.tfs_scan, oip_scan), and the version is pinned by
appending to it, so tensors are never decoded nor moved. A large message flows through as soon as
what routes has come; from there on a second such field is refused, because the replica would merge
the two, and answer for another model than the one that was admitted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from gateway.codecs.proto_feed import FieldFeed
from gateway.core.retry import Failure
from gateway.dataplane.body import JOINED_BYTES, Body
from gateway.dataplane.callers import Kept
from gateway.dataplane.forwarding import Forwarding
from gateway.dataplane.grpc_parts import (
    CANCELLED,
    Asked,
    Ending,
    GrpcDialect,
    ending,
    forwarded,
    initial,
    priority_asked,
    returnable,
)
from gateway.dataplane.placing import Placed, placed
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.rescue import bug, guarded
from gateway.dataplane.seen import Seen, Timing, spent_in, version_fields
from gateway.domain.errors import DeadlineExceeded, GatewayError
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint
from gateway.ports import DirectUpstream, UpstreamAnswer, UpstreamRequest
from gateway.wire.exchange import AnswerSink, ClientExchange, Data, ResponseHead, ServerExchange
from gateway.wire.fields import Fields, Pairs
from gateway.wire.grpc import (
    HEAD,
    Code,
    GrpcAbort,
    GrpcHead,
    Messages,
    answer,
    code_name,
    respond_status,
)
from gateway.wire.grpc_messages import PREFIX_BYTES, too_large


class GrpcCaller:
    """callers.DirectCaller, and the RequestSink of its exchange."""

    __slots__ = (
        "_asked", "_body", "_dialect", "_ending", "_exchange", "_feed", "_head", "_is_compressed",
        "_method", "_pin", "_plane", "_prefix", "_said", "_seen", "_size", "_started_at", "_timer",
        "_wants_whole",
    )  # fmt: skip
    is_direct = True

    def __init__(
        self,
        plane: Dataplane,
        dialect: GrpcDialect,
        method: object,
        exchange: ServerExchange,
        head: GrpcHead,
    ) -> None:
        self._plane = plane
        self._dialect = dialect
        self._method = method
        self._exchange = exchange
        self._head = head
        self._seen = Seen(plane, dialect.protocol, head.path)
        self._started_at = plane.loop.time()
        self._asked: Forwarding | None = None
        self._said: Asked | None = None
        self._size = -1
        """Of the message, as its prefix says; -1 before."""
        self._prefix = b""
        self._is_compressed = False
        self._feed: FieldFeed | None = None
        """Reads a message that is too large to wait for."""
        self._pin = b""
        self._timer: asyncio.TimerHandle | None = None
        self._wants_whole = False
        self._ending: Ending | None = None

    def __repr__(self) -> str:
        return f"GrpcCaller({self._head.path}, {self._asked!r})"

    @guarded
    def begin(self, whole: Data | None) -> None:
        """As exchange.Front.begin, for a head that nothing is wrong with."""
        plane = self._plane
        if whole is not None:
            size = len(whole) - PREFIX_BYTES
            if (
                0 <= size <= plane.settings.max_body_bytes
                and not whole[0]
                and int.from_bytes(whole[1:PREFIX_BYTES], "big") == size
            ):
                self._exchange.sink = self
                self._size = size
                self._body = Body(plane, memoryview(whole)[PREFIX_BYTES:])
                try:
                    asked = self._admit(self._dialect.scan(self._method, whole, PREFIX_BYTES))
                except GatewayError as error:
                    self.refused(error)
                    return
                asked.go()
                return
        self._body = Body(plane, None)
        self._exchange.sink = self
        if whole is None:
            until_s = plane.settings.body_timeout_s
            if self._head.timeout_s is not None:
                until_s = min(until_s, self._head.timeout_s)
            self._timer = plane.loop.call_later(until_s, self._too_slow)
            self._exchange.accept_body()
        else:
            self.on_data(whole)
            self.on_end(())

    def crashed(self, error: Exception) -> None:
        """See rescue.Crashable."""
        self._refuse(bug(error))

    # ---- RequestSink --------------------

    @guarded
    def on_data(self, data: Data) -> None:
        """See RequestSink."""
        if self._seen.is_finished:
            return
        try:
            self._take(data)
        except GatewayError as error:
            self._refuse(error)
        except GrpcAbort as abort:
            self._abort(abort)

    @guarded
    def on_end(self, trailers: Pairs) -> None:
        """See RequestSink."""
        if self._seen.is_finished:
            return
        try:
            self._complete()
        except GatewayError as error:
            self._refuse(error)
        except GrpcAbort as abort:
            self._abort(abort)

    @guarded
    def on_gone(self, cause: str) -> None:
        """See RequestSink."""
        if self._seen.is_finished:
            return
        if self._asked is not None:
            self._asked.gone()
        self._finish(CANCELLED, cause)

    @guarded
    def on_writable(self) -> None:
        """See RequestSink."""
        if self._asked is not None:
            self._asked.resume_answer()

    # ---- the message --------------------

    def _take(self, data: Data) -> None:
        """A piece has come."""
        if self._size < 0:
            data = self._begin_message(data)
        if not len(data):
            return
        asked, body, feed = self._asked, self._body, self._feed
        if body.size + len(data) > self._size:
            # Its code for a wrong number of messages is in grpc's doc/statuscodes.md.
            raise GrpcAbort(Code.UNIMPLEMENTED, "More than one request for a unary method")
        call = None if asked is None else asked.exchange
        body.is_flowing = call is not None
        body.add(data)
        if feed is not None:
            feed.feed(data)
            if asked is None and feed.is_settled:
                feed.close()
                self._admit(self._dialect.read_fed(self._method, feed)).go()
                return
        if call is not None:
            call.write(data)
            if call.is_congested:
                self._exchange.pause()
        elif asked is not None and not self._wants_whole and body.is_at_bound:
            self._exchange.pause()

    def _begin_message(self, data: Data) -> Data:
        """Read the prefix; returns what follows it."""
        missing = PREFIX_BYTES - len(self._prefix)
        self._prefix = prefix = self._prefix + bytes(data[:missing])
        if len(prefix) < PREFIX_BYTES:
            return b""
        size, most = int.from_bytes(prefix[1:], "big"), self._plane.settings.max_body_bytes
        if prefix[0] > 1:
            raise GrpcAbort(Code.INTERNAL, f"Invalid frame: flags {prefix[0]:#04x}")
        if size > most:
            raise too_large(size, most)
        self._size = size
        if prefix[0]:
            self._is_compressed = True
        elif size > self._plane.settings.hold.stream_from_bytes:
            self._feed = self._dialect.feeding(self._method)
        return data[missing:]

    def _complete(self) -> None:
        """All has come."""
        self._disarm()
        body, asked, feed = self._body, self._asked, self._feed
        if self._size < 0 and not self._prefix:
            raise GrpcAbort(Code.UNIMPLEMENTED, "No request for a unary method")
        if body.size != self._size:
            raise GrpcAbort(Code.INTERNAL, "The request ends within a message")
        if self._is_compressed:
            self._decompress()
            body = self._body
        body.is_complete = True
        if feed is not None:
            feed.finish()
        if asked is None:
            if feed is not None:
                said = self._dialect.read_fed(self._method, feed)
            else:
                body.pieces = [body.whole()]
                said = self._dialect.scan(self._method, body.pieces[0], 0)
            self._admit(said).go()
        elif asked.exchange is not None:
            asked.exchange.write(self._pin)
            asked.exchange.end()
        else:
            asked.go()

    def _decompress(self) -> None:
        """The version cannot be appended to what is compressed, so the replica gets it plain."""
        held, plane = self._body, self._plane
        messages = Messages(plane.settings.max_body_bytes, self._head.encoding)
        found = messages.feed(self._prefix + held.whole())
        held.let_go()
        message = found[0]
        self._size = len(message)
        self._body = Body(plane, message)

    def _admit(self, said: Asked) -> Forwarding:
        """Raises GatewayError, as Dataplane.admit."""
        self._said, seen = said, self._seen
        seen.model = said.model
        timeout_s = self._head.timeout_s
        if said.timeout_s is not None:
            timeout_s = said.timeout_s if timeout_s is None else min(timeout_s, said.timeout_s)
        self._asked = asked = seen.asked = self._plane.admit(
            self._dialect.transport,
            self,
            said.model,
            said.version,
            said.label,
            timeout_s,
            self._started_at,
            priority_asked(self._head),
        )
        return asked

    # ---- Caller --------------------

    @property
    def is_complete(self) -> bool:
        """See Caller."""
        return self._body.is_complete

    @property
    def can_repeat(self) -> bool:
        """See Caller."""
        return self._body.is_kept

    def place(self, model: str, sticky: str) -> float | None:
        """See Caller."""
        head = self._head
        found: Placed | None = head.placed
        if found is None or found.model != model or found.sticky != sticky:
            head.placed = found = placed(head.metadata, model, sticky)
        return found.place

    def request(self, version: Version, timeout_s: float) -> UpstreamRequest:
        """See Caller. The upstream tells the deadline by itself."""
        return self.kept(version).request(timeout_s)

    def kept(self, version: Version) -> Kept:
        """See Caller."""
        pieces, pin = self._body.pieces, self._dialect.pin(version)
        make = partial(_request, self._head.path, pieces, pin, forwarded(self._head))
        return Kept(self._body.size, make)

    def collect(self) -> None:
        """See Caller."""
        self._wants_whole = True
        self._exchange.resume()

    def told(self, answered: UpstreamAnswer) -> None:
        """See Caller."""
        asked = self._asked
        assert asked is not None  # it is who tells
        trailers = (
            returnable(answered.headers),
            version_fields(asked.answered_by),
            Timing(asked, self._seen.begun, spent_in(answered.headers)),
        )
        self._finish(code_name(answered.status))
        if answered.status:
            pairs = [pair for fields in trailers for pair in fields.pairs]
            respond_status(self._exchange, answered.status, answered.message, tuple(pairs))
        else:
            answer(self._exchange, answered.body, trailers)

    def refused(self, error: GatewayError) -> None:
        """See Caller."""
        said = self._dialect.error(self._said, error)
        trailers = (*said.trailers, *Timing(self._asked, self._seen.begun).pairs)
        self._finish(code_name(said.code), error.reason)
        respond_status(self._exchange, said.code, said.details, trailers)

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
        body, path = self._body, self._head.path
        pin = self._pin = self._dialect.pin(version)
        prefix = b"\0" + (self._size + len(pin)).to_bytes(4, "big")
        fields = (forwarded(self._head),)
        if body.is_complete and self._size <= JOINED_BYTES:
            message = b"".join((prefix, *body.pieces, pin))
            return upstream.begin(endpoint, "POST", path, fields, message, timeout_s, sink)
        call = upstream.begin(endpoint, "POST", path, fields, None, timeout_s, sink)
        call.write(prefix)
        for piece in body.pieces:
            call.write(piece)
        if body.is_complete:
            call.write(pin)
            call.end()
        elif call.is_congested:
            self._exchange.pause()
        else:
            self._exchange.resume()
        return call

    def send_more(self) -> None:
        """See DirectCaller."""
        if not self._body.is_complete:
            self._exchange.resume()

    def failure_in(self, head: ResponseHead, trailers: Pairs) -> Failure | None:
        """See DirectCaller."""
        self._ending = found = ending(head, trailers)
        transport = self._dialect.transport
        if found.code == transport.unavailable:
            return Failure.RESET if found.is_dropped else Failure.UNAVAILABLE
        return Failure.VERSION_SKEW if found.code == transport.not_found else None

    def report_in(self, head: ResponseHead, trailers: Pairs) -> int:
        """See DirectCaller."""
        found = self._ending
        assert found is not None  # `failure_in` was asked first
        return found.report

    def status_of(self, head: ResponseHead) -> int:
        """See DirectCaller."""
        found = self._ending
        assert found is not None  # `failure_in` was asked first
        return found.code

    def whole(self, asked: Forwarding, head: ResponseHead, body: Data, trailers: Pairs) -> None:
        """See DirectCaller."""
        found = self._ending
        assert found is not None  # `failure_in` was asked first
        tail = self._tail(asked, found)
        self._finish(code_name(found.code))
        if trailers and found.is_whole:
            self._exchange.respond(200, (initial(head),), body, tail)
        else:
            self._exchange.respond(200, (HEAD, *tail), b"")

    def start(self, asked: Forwarding, head: ResponseHead, length: int | None) -> None:
        """See DirectCaller. gRPC frames its messages by itself."""
        self._exchange.start(200, (initial(head),), None)

    def piece(self, data: Data) -> None:
        """See DirectCaller."""
        self._exchange.write(data)

    def end(self, asked: Forwarding, head: ResponseHead, trailers: Pairs) -> None:
        """See DirectCaller."""
        found = ending(head, trailers)
        tail = self._tail(asked, found)
        self._finish(code_name(found.code))
        self._exchange.end(tail)

    def broke_off(self, reason: str) -> None:
        """See DirectCaller."""
        self._finish(code_name(Code.UNAVAILABLE), reason)
        self._exchange.abort()

    # ---- inside --------------------

    def _tail(self, asked: Forwarding, found: Ending) -> tuple[Fields, Fields, Fields]:
        timing = Timing(asked, self._seen.begun, found.spent)
        return found.fields, version_fields(asked.answered_by), timing

    def _refuse(self, error: GatewayError) -> None:
        """End the call, admitted or not."""
        if self._asked is not None:
            self._asked.refuse(error)
        elif not self._seen.is_finished:
            self.refused(error)

    def _abort(self, error: GrpcAbort) -> None:
        """As `_refuse`, of what is wrong in gRPC's own terms."""
        if self._asked is not None:
            self._asked.gone()
        self._finish(code_name(error.code))
        respond_status(self._exchange, error.code, error.details, error.trailers)

    def _too_slow(self) -> None:
        self._timer = None
        self._refuse(
            DeadlineExceeded(
                "The request had not come in completely by its deadline", reason="receive"
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
        self._body.let_go()
        self._seen.finish(code, reason)


def _request(
    path: str, pieces: Sequence[Data], pin: bytes, fields: Fields, timeout_s: float
) -> UpstreamRequest:
    return UpstreamRequest(path, b"".join((*pieces, pin)), fields.pairs)
