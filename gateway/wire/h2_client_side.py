"""The client's half of an HTTP/2 connection, without its socket: what streams mean to who asked."""

from __future__ import annotations

from collections.abc import Callable

from gateway.wire import h2_frames as h2
from gateway.wire.exchange import ResponseHead, WireError
from gateway.wire.fields import Pairs
from gateway.wire.h2_client_stream import ClientStream
from gateway.wire.h2_core import Core
from gateway.wire.h2_frames import H2Error
from gateway.wire.h2_heads import (
    HeadTooLarge,
    Malformed,
    check_size,
    response_head,
    stripped,
    trailers,
)
from gateway.wire.h2_keepalive import Keepalive
from gateway.wire.h2_streams import Stream
from gateway.wire.hpack import RawFields, keep
from gateway.wire.settings import ClientWireSettings

_STREAMS_BEFORE_SETTINGS = 100
"""A server's limit until it has said one: the least that RFC 9113 section 6.5.2 recommends."""

_MAX_ID = 1 << 30
"""Streams are counted and never used again: a connection ends half-way."""

_BODYLESS = (204, 304)


class ClientSide:
    """Sends requests and reads their answers. `on_room` is called when a stream has ended."""

    __slots__ = (
        "_keepalive", "_limit", "_next_id", "_on_room", "_settings", "core", "is_finished",
        "is_leaving",
    )  # fmt: skip

    def __init__(
        self, settings: ClientWireSettings, wake: Callable[[], None], on_room: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._on_room = on_room
        self._next_id = 1
        self._limit = _STREAMS_BEFORE_SETTINGS
        self.is_leaving = False
        """Nothing new is sent; it closes when all answers are here."""
        self.is_finished = False
        """Close the transport, once everything in `core.sender.out` is written."""
        self.core = Core(self, settings, wake, greeting=b"")
        self._keepalive = Keepalive(
            self.core, settings.ping_interval_s, settings.ping_timeout_s, settings.ping_again_s
        )
        self.core.greet(
            {h2.ENABLE_PUSH: 0, h2.MAX_HEADER_LIST_SIZE: settings.max_head_bytes}, h2.PREFACE
        )

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent."""
        return not self.is_leaving and not self.is_finished and len(self.core.streams) < self._limit

    def open(self, stream: ClientStream) -> None:
        """Send a request. There must be room."""
        stream_id = self._next_id
        self._next_id += 2
        if stream_id >= _MAX_ID:
            self.is_leaving = True
        self.core.streams[stream_id] = stream
        stream.open(self, stream_id)

    # ---- Core's Side --------------------

    def on_block(self, stream_id: int, block: bytes, ends: bool) -> None:
        """See Side."""
        core = self.core
        stream = core.streams.get(stream_id)
        if not isinstance(stream, ClientStream):
            core.blocks.read(block)
            if self.is_unopened(stream_id):
                raise H2Error(h2.PROTOCOL_ERROR, "HEADERS on a stream that was not opened")
            return
        if stream.is_remote_done:
            core.blocks.read(block)
            core.break_off(stream, h2.STREAM_CLOSED, "protocol_error")
            return
        try:
            if stream.head is None:
                self._on_head(stream, self._head(block), ends)
            else:
                stream.trailers = self._trailers(block)
                if not ends:
                    raise Malformed("trailers that do not end their stream")
        except (Malformed, HeadTooLarge):
            core.break_off(stream, h2.PROTOCOL_ERROR, "protocol_error")
            return
        if ends:
            core.remote_done(stream)

    def _on_head(self, stream: ClientStream, head: ResponseHead, ends: bool) -> None:
        if head.status < 200:
            if ends:
                raise Malformed("an interim answer that ends the stream")
            return
        stream.head = head
        has_body = not stream.is_head_request and head.status not in _BODYLESS
        stream.expected = head.content_length if has_body else 0
        self.core.later(stream)

    def _head(self, block: bytes) -> ResponseHead:
        blocks = self.core.blocks
        head: ResponseHead | None = blocks.kept.get(block)
        if head is None:
            raw, may_keep = blocks.read(block)
            self._check_size(raw)
            head = response_head(raw)
            if may_keep:
                keep(blocks.kept, block, head)
        return head

    def _trailers(self, block: bytes) -> Pairs:
        blocks = self.core.blocks
        pairs: Pairs | None = blocks.kept_tails.get(block)
        if pairs is None:
            raw, may_keep = blocks.read(block)
            self._check_size(raw)
            pairs = trailers(stripped(raw))
            if may_keep:
                keep(blocks.kept_tails, block, pairs)
        return pairs

    def _check_size(self, raw: RawFields) -> None:
        check_size(raw, self._settings.max_head_bytes, self._settings.max_header_count)

    def is_unopened(self, stream_id: int) -> bool:
        """See Side."""
        return stream_id >= self._next_id or not stream_id & 1

    def on_reset(self, stream: Stream, code: int) -> None:
        """See Side."""
        assert isinstance(stream, ClientStream)  # of our own making
        if stream.is_remote_done:
            # The answer is complete, only the rest of the request is not wanted: RFC 9113 section
            # 8.1 forbids to discard it.
            stream.give_up_sending()
            return
        self.core.forget(stream)
        name = h2.ERROR_NAMES.get(code, str(code))
        error = WireError(
            "reset", f"the server reset the request: {name}", sent=code != h2.REFUSED_STREAM
        )
        stream.fail(error)

    def on_closed(self) -> None:
        """See Side."""
        if self.is_leaving and not self.core.streams:
            self.finish()
        else:
            self._on_room()

    def refused(self, cause: str) -> None:
        """See Side. Who asked is told; nobody counts."""

    def on_goaway(self, last_stream_id: int, code: int) -> None:
        """See Side. What the server will not look at may be sent elsewhere."""
        self.is_leaving = True
        message = f"the server is leaving: {h2.ERROR_NAMES.get(code, code)}"
        for stream in list(self.core.streams.values()):
            if stream.id > last_stream_id and isinstance(stream, ClientStream):
                self.core.forget(stream)
                stream.fail(WireError("reset", message, sent=False))
        if not self.core.streams:
            self.finish()

    def on_pong(self, opaque: bytes) -> None:
        """See Side."""

    def on_max_streams(self, limit: int) -> None:
        """See Side."""
        self._limit = limit
        self._on_room()

    # ---- ending --------------------

    def leave(self) -> None:
        """Send nothing new, and close when all answers are here."""
        self.is_leaving = True
        if not self.core.streams:
            self.finish()

    def fail(self, error: H2Error) -> None:
        """End the connection because of what the server did."""
        if not self.core.is_greeted:
            # It never spoke HTTP/2, so it cannot have understood a request.
            lost = WireError("bad_answer", f"no HTTP/2: {error.message}", sent=False)
            for stream in list(self.core.streams.values()):
                if isinstance(stream, ClientStream):
                    self.core.forget(stream)
                    stream.fail(lost)
        self.finish(error.cause, error.code)

    def finish(self, cause: str = "closed", code: int = h2.NO_ERROR) -> None:
        """End the connection now. Requests under way fail."""
        if not self.is_finished:
            self.is_finished = self.is_leaving = True
            self.core.sender.control(h2.goaway(0, code))
            self.core.lose_all(cause)

    def tick(self, now: float) -> None:
        """Look whether the server lives.

        Raises:
            H2Error: it does not.
        """
        core = self.core
        core.now = now
        core.controls.refill(now)
        core.resets.refill(now)
        if self._keepalive.is_dead(now):
            raise H2Error(h2.NO_ERROR, "no answer to PING", "ping_timeout")
