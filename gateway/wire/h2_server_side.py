"""The server's half of an HTTP/2 connection, without its socket: what streams mean to a front."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from email.utils import formatdate

from gateway.wire import h2_frames as h2
from gateway.wire.exchange import Data, Front, RequestHead, Watch
from gateway.wire.fields import hpack_field
from gateway.wire.h2_core import Core
from gateway.wire.h2_frames import H2Error
from gateway.wire.h2_heads import HeadTooLarge, Malformed, check_size, request_head, trailers
from gateway.wire.h2_keepalive import Keepalive
from gateway.wire.h2_sending import UPDATES
from gateway.wire.h2_server_stream import ServerStream
from gateway.wire.h2_streams import Stream
from gateway.wire.hpack import keep
from gateway.wire.settings import ServerWireSettings

_log = logging.getLogger(__name__)

_LEAVE = b"leaving\0"
_LEAVE_S = 1.0
"""A caller that does not answer our PING in this time is told the last stream all the same."""

_TOO_LARGE = RequestHead("GET", "/", (), is_h2=True)
"""Stands for a head that we did not look into."""


class _Date:
    """The Date field of this second, encoded."""

    __slots__ = ("_field", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._field = b""

    def field(self, now: float) -> bytes:
        second = int(now)
        if second != self._second:
            self._second = second
            self._field = hpack_field("date", formatdate(usegmt=True))
        return self._field


_DATE = _Date()


class ServerSide:
    """Opens streams for a front, and ends the connection when it is time. `clock` is monotonic."""

    __slots__ = (
        "_age_s", "_born_at", "_clock", "_front", "_head_since", "_is_told", "_keepalive",
        "_last_id", "_leave_at", "_retire_at", "_settings", "_watch", "core", "is_finished", "peer",
    )  # fmt: skip

    def __init__(
        self,
        front: Front,
        settings: ServerWireSettings,
        watch: Watch,
        wake: Callable[[], None],
        *,
        peer: str = "",
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._front = front
        self._settings = settings
        self._watch = watch
        self._clock = clock
        self.peer = peer
        self.core = Core(self, settings, wake, greeting=h2.PREFACE)
        self.core.now = self._born_at = clock()
        self.core.max_unsent_bytes = settings.max_unsent_bytes
        self._age_s = settings.max_connection_age_s * rng.uniform(0.9, 1.1)
        self._keepalive = Keepalive(self.core, settings.ping_interval_s, settings.ping_timeout_s)
        self._last_id = 0
        self._head_since: tuple[int, float] | None = None
        self._leave_at: float | None = None
        self._is_told = False
        """Whether the caller knows the last stream that will be served."""
        self._retire_at: float | None = None
        self.is_finished = False
        """Close the transport, once everything in `core.sender.out` is written."""
        self.core.greet(
            {
                h2.MAX_CONCURRENT_STREAMS: settings.max_streams,
                h2.MAX_HEADER_LIST_SIZE: settings.max_head_bytes,
            }
        )

    def date(self) -> bytes:
        """The Date field, encoded."""
        return _DATE.field(self._clock())

    # ---- Core's Side --------------------

    def on_block(self, stream_id: int, block: bytes, ends: bool) -> None:
        """See Side."""
        core = self.core
        if stream_id <= self._last_id or not stream_id & 1:
            self._later_block(stream_id, block, ends)
            return
        self._last_id = stream_id
        head = core.blocks.kept.get(block)
        if head is None:
            head = self._read_head(stream_id, block)
            if head is None:
                return
        if self._is_told:
            core.remember(stream_id)
            return
        if len(core.streams) >= self._settings.max_streams:
            core.refuse(stream_id, h2.REFUSED_STREAM, "streams_limit")
            return
        stream = ServerStream(self, stream_id, head)
        core.streams[stream_id] = stream
        core.fresh.append(stream)
        core.sender.updates_due += UPDATES
        core.sender.wake()
        if ends:
            core.remote_done(stream)
        if head is _TOO_LARGE:
            stream.has_begun = True
            stream.respond(431, (), b"")

    def _read_head(self, stream_id: int, block: bytes) -> RequestHead | None:
        core = self.core
        raw, may_keep = core.blocks.read(block)
        try:
            check_size(raw, self._settings.max_head_bytes, self._settings.max_header_count)
            head = request_head(raw)
        except HeadTooLarge:
            self._watch.refused("head_too_large")
            return _TOO_LARGE
        except Malformed:
            core.refuse(stream_id, h2.PROTOCOL_ERROR)
            return None
        if may_keep:
            keep(core.blocks.kept, block, head)
        return head

    def _later_block(self, stream_id: int, block: bytes, ends: bool) -> None:
        """Trailers, or a block on a stream that takes none."""
        core = self.core
        if not stream_id & 1:
            raise H2Error(h2.PROTOCOL_ERROR, "HEADERS on a stream that is not the client's")
        raw, _ = core.blocks.read(block)
        stream = core.streams.get(stream_id)
        if stream is None:
            if stream_id not in core.recent:
                raise H2Error(h2.STREAM_CLOSED, "HEADERS on a closed stream")
        elif stream.is_remote_done:
            core.break_off(stream, h2.STREAM_CLOSED, "protocol_error")
        else:
            try:
                if not ends:
                    raise Malformed("trailers that do not end their stream")
                check_size(raw, self._settings.max_head_bytes, self._settings.max_header_count)
                stream.trailers = trailers(raw)
            except (Malformed, HeadTooLarge):
                core.break_off(stream, h2.PROTOCOL_ERROR, "protocol_error")
            else:
                core.remote_done(stream)

    def begin(self, stream: ServerStream, body: Data | None) -> None:
        """Hand a request to the front."""
        try:
            self._front.begin(stream, body)
        except Exception:  # noqa: BLE001 -- a bug of the front's; other streams live on
            _log.exception("front.begin raised")
            stream.abort()

    def is_unopened(self, stream_id: int) -> bool:
        """See Side."""
        return stream_id > self._last_id or not stream_id & 1

    def on_reset(self, stream: Stream, code: int) -> None:
        """See Side."""
        self.core.forget(stream)
        stream.lost("reset")

    def refused(self, cause: str) -> None:
        """See Side."""
        self._watch.refused(cause)

    def on_closed(self) -> None:
        """See Side."""
        if self._is_told and not self.core.streams:
            self.is_finished = True
            self.core.sender.wake()

    def on_goaway(self, last_stream_id: int, code: int) -> None:
        """See Side. The caller opens nothing more, and closes when it has its answers."""

    def on_pong(self, opaque: bytes) -> None:
        """See Side."""
        if opaque == _LEAVE and self._leave_at is not None:
            self._tell_last()

    def on_max_streams(self, limit: int) -> None:
        """See Side. About what we would push; we do not."""

    # ---- ending --------------------

    def drain(self) -> None:
        """Let the caller know that this connection ends; what it has sent by then is answered
        (section 6.8: a first GOAWAY that refuses nothing, a second one a round trip later)."""
        if self._leave_at is None and not self.is_finished:
            self._leave_at = self._clock()
            goodbye = h2.goaway(h2.MAX_STREAM_ID, h2.NO_ERROR) + h2.ping(_LEAVE)
            self.core.sender.control(goodbye)

    def retire(self) -> None:
        """Drain, and close after the grace that settings give."""
        self.drain()
        if self._retire_at is None:
            self._retire_at = self._clock() + self._settings.age_grace_s

    def _tell_last(self) -> None:
        if not self._is_told:
            self._is_told = True
            self.core.sender.control(h2.goaway(self._last_id, h2.NO_ERROR))
            self.on_closed()

    def fail(self, error: H2Error) -> None:
        """End the connection because of what the caller did."""
        self._watch.refused(error.cause)
        self.finish(error.cause, error.code, error.message)

    def finish(self, cause: str, code: int = h2.NO_ERROR, message: str = "") -> None:
        """End the connection now. Requests under way are told `cause`, the caller the rest."""
        if self.is_finished:
            return
        self.is_finished = True
        self.core.sender.control(h2.goaway(self._last_id, code, message))
        self.core.lose_all(cause)

    def tick(self, now: float, *, is_deaf: bool) -> None:
        """Look at what takes too long. `is_deaf`: we are not reading, so silence means nothing.

        Raises:
            H2Error: the connection is at its end.
        """
        core, settings = self.core, self._settings
        core.now = now
        core.controls.refill(now)
        core.resets.refill(now)
        self._check_head(now)
        for stream in list(core.streams.values()):
            self._check_stream(stream, now)
        if is_deaf:
            core.heard = True
        if self._keepalive.is_dead(now):
            raise H2Error(h2.NO_ERROR, "no answer to PING", "ping_timeout")
        if settings.max_connection_age_s and now - self._born_at > self._age_s:
            self.retire()
        if self._leave_at is not None and now - self._leave_at > _LEAVE_S:
            self._tell_last()
        if self._retire_at is not None and now > self._retire_at:
            self.finish("retired")

    def _check_head(self, now: float) -> None:
        if not self.core.is_reading_head:
            self._head_since = None
        elif self._head_since is None or self._head_since[0] != self._last_id:
            self._head_since = (self._last_id, now)
        elif now - self._head_since[1] > self._settings.head_timeout_s:
            raise H2Error(h2.ENHANCE_YOUR_CALM, "a head takes too long", "head_timeout")

    def _check_stream(self, stream: Stream, now: float) -> None:
        settings = self._settings
        if stream.queued and now - stream.moved_at > settings.write_timeout_s:
            self.core.break_off(stream, h2.CANCEL, "write_timeout")
        elif (
            stream.is_flowing
            and not stream.is_remote_done
            and now - stream.heard_at > settings.body_timeout_s
            and not _may_be_silent(stream)
        ):
            self.core.break_off(stream, h2.CANCEL, "body_timeout")


def _may_be_silent(stream: Stream) -> bool:
    """A gRPC stream sends when its caller has something to say; deadlines and PING bound it."""
    assert isinstance(stream, ServerStream)  # of our own making
    return (stream.head.get("content-type") or "").startswith("application/grpc")
