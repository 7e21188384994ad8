"""HTTP/1.1, the server's side: one connection of a caller.

One request at a time: what a caller pipelines waits, at most a read buffer of it, until the request
before it has been answered. Bodies are framed here (Content-Length, chunked), heads in h1_heads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from json import dumps
from typing import cast

from gateway.wire.exchange import Data, Front, Watch
from gateway.wire.fields import Pairs
from gateway.wire.h1_chunked import BadChunk, ChunkedDecoder
from gateway.wire.h1_exchange import DATE, H1Exchange, status_line
from gateway.wire.h1_heads import NO_ANSWER, BadHead, H1Request, Memo, parse_request
from gateway.wire.settings import ServerWireSettings

log = logging.getLogger("gateway.wire")

_REQUESTS = Memo()
"""Heads of all callers of this process: those of one program look alike on all its connections."""

NO_TRAILERS: Pairs = ()

_PIPELINED_BYTES = 64 * 1024
"""What may wait behind a request that is being answered."""

_LINGER_BYTES = 256 * 1024
_LINGER_S = 2.0
"""A body that nobody wants is read so far, and so long, before its connection is closed: closing at
once would reset it, and the caller might never see the answer."""


class H1ServerConnection(asyncio.Protocol):
    """One connection of a caller."""

    def __init__(
        self,
        front: Front,
        settings: ServerWireSettings,
        watch: Watch,
        *,
        is_tls: bool = False,
        on_lost: Callable[[H1ServerConnection], None] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.peer = ""
        self.is_congested = False
        self.is_closing = False
        """The next answer is the last."""
        self._front = front
        self._settings = settings
        self._watch = watch
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._exchange: H1Exchange | None = None
        self._waiting = b""
        self._was_blank = False
        """An empty line has come since the last request."""
        self._length = 0
        self._chunked: ChunkedDecoder | None = None
        self._is_working = False
        self._is_reading = True
        self._is_lingering = False
        self._at_eof = False
        self._skipped = 0
        self._since = self.loop.time()
        """When the present state began, or something last moved in it."""
        self._unsent = 0
        self._unsent_since = 0.0
        """What the transport held at the last look, and since when it has held as much."""
        self._retire_at = math.inf
        self._gone_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "idle" if self.is_idle else "busy"
        return f"H1ServerConnection({self.peer}, {state})"

    # ---- asyncio.Protocol --------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are none of asyncio's classes, only like them.
        transport = self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        self.peer = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""
        transport.set_write_buffer_limits(high=self._settings.write_high_bytes)
        self._watch.opened("h1")
        age_s = self._settings.max_connection_age_s
        if age_s:
            self._retire_at = self.loop.time() + age_s * random.uniform(0.9, 1.1)
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
        exchange, self._exchange = self._exchange, None
        self._transport = None
        self._watch.closed("h1")
        if exchange is not None:
            exchange.lost("closed")
        if self._on_lost is not None:
            self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of the caller."""
        if self._exchange is not None or not self._waiting:
            # A head that has begun is measured from its first byte, so that a byte now and then
            # does not keep it going.
            self._since = self.loop.time()
        if self._is_lingering:
            self._skipped += len(data)
            if self._skipped > _LINGER_BYTES:
                self.close()
            return
        self._waiting = self._waiting + data if self._waiting else data
        self._work()

    def eof_received(self) -> bool:
        """The caller sends no more, which is taken for leaving, as by nginx and Envoy: who closes
        and who only stops sending look the same from here, and working for somebody who has gone
        is the commoner loss. What has been written still goes out."""
        self._at_eof = True
        return False

    def pause_writing(self) -> None:
        """The caller does not read."""
        self.is_congested = True

    def resume_writing(self) -> None:
        """It does again."""
        self.is_congested = False
        exchange = self._exchange
        if exchange is None:
            self.go_on_soon()
        elif exchange.sink is not None:
            exchange.sink.on_writable()

    # ---- for the listener --------------------

    @property
    def is_idle(self) -> bool:
        """No request is under way."""
        return self._exchange is None

    def drain(self) -> None:
        """Answer what is under way and close."""
        self.is_closing = True
        if self._exchange is None and not self._waiting and not self._is_lingering:
            self.close()

    def retire(self) -> None:
        """Let the next answer be the last. An idle connection is not closed for it: a request may
        be on its way, and HTTP/1.1 has no other word for leaving; `keepalive_s` ends those that
        bring none. Whatever is left after `age_grace_s` is closed."""
        self.is_closing = True
        self._gone_at = self.loop.time() + self._settings.age_grace_s

    def close(self) -> None:
        """Close now; what has been written still goes out."""
        if self._transport is not None:
            self._transport.close()

    # ---- for the exchange --------------------

    @property
    def has_waiting(self) -> bool:
        """Bytes have come that were not looked at yet."""
        return bool(self._waiting)

    def send(self, data: Data) -> None:
        """Write."""
        if self._transport is not None:
            self._transport.write(data)

    def can_skip_rest(self) -> bool:
        """Whether the rest of the body is so little that it is read and dropped."""
        if self._chunked is not None or self._length - len(self._waiting) > _PIPELINED_BYTES:
            return False
        exchange = self._exchange
        return exchange is None or not exchange.head.expects_continue

    def throttle(self) -> None:
        """Read no more from the socket while enough waits."""
        if self._is_reading and self._transport is not None and not self._at_eof:
            self._is_reading = False
            self._transport.pause_reading()

    def go_on_soon(self) -> None:
        """Look at what waits, in the next turn of the loop (or in the work that is being done)."""
        if not self._is_working:
            self.loop.call_soon(self._work)

    def answered(self, is_whole: bool) -> None:
        """The exchange has its answer."""
        self._since = self.loop.time()
        if self.is_closing:
            if is_whole and not self._waiting and self._is_reading:
                self._exchange = None
                self.close()
            else:
                self._linger()
            return
        if is_whole:
            self._exchange = None
            if self._waiting:
                self.go_on_soon()
            elif not self._is_reading:
                self._read_again()
        else:
            # The rest of the body is dropped as it comes.
            self.go_on_soon()

    # ---- inside --------------------

    def _work(self) -> None:
        if self._is_working or self._transport is None:
            return
        self._is_working = True
        try:
            while self._step():
                pass
        except BadHead as error:
            self._refuse(error)
        except BadChunk as bad:
            self._broken(f"The request's body is malformed: {bad}")
        except Exception:  # rescue: a bug of the front or of its sink costs one connection
            log.exception("request.bug")
            if self._exchange is not None:
                self._exchange.lost("bug")
            self.close()
        finally:
            self._is_working = False
        if self._transport is None:
            return
        if len(self._waiting) > _PIPELINED_BYTES:
            self.throttle()
        elif not self._is_reading:
            exchange = self._exchange
            if exchange is None or exchange.is_done or not exchange.is_paused:
                # Also where nothing more is wanted: who leaves is noticed by reading only.
                self._read_again()

    def _step(self) -> bool:
        """Do one thing with what waits; False when there is nothing to be done."""
        exchange = self._exchange
        if exchange is None:
            # A caller who asks on and takes no answers would make them pile up.
            may_begin = not self.is_congested and not self.is_lingering_or_closed
            return bool(self._waiting) and may_begin and self._begin()
        if exchange.due is not None and exchange.go_on():
            return True
        if exchange.is_whole or not self._waiting:
            return False
        if exchange.is_done:
            return self._drop()
        return exchange.wants_body and self._feed(exchange)

    @property
    def is_lingering_or_closed(self) -> bool:
        """Nothing new is begun."""
        return self._is_lingering or self._transport is None or self._transport.is_closing()

    def _begin(self) -> bool:
        data = self._waiting
        if data[:2] == b"\r\n" and not self._was_blank:
            # RFC 9112 section 2.2: an empty line before a request is ignored. One: a stream of them
            # would keep a connection for ever.
            self._was_blank = True
            data = self._waiting = data[2:]
            if not data:
                return False
        settings = self._settings
        end = data.find(b"\r\n\r\n", 0, settings.max_head_bytes) + 4
        if end < 4:
            self._check_unfinished(data)
            return False
        raw = data[:end]
        request: H1Request | None = _REQUESTS.get(raw)
        if request is None:
            request = parse_request(raw, settings.max_header_count)
            if not request.is_chunked and not request.head.expects_continue:
                _REQUESTS.put(raw, request)
        length = request.length
        if not request.is_chunked and len(data) - end >= length:
            body = data[end : end + length] if length else b""
            self._waiting = data[end + length :]
            self._hand_on(H1Exchange(self, request, True), body)
            return True
        self._waiting = data[end:]
        self._length = length
        self._chunked = ChunkedDecoder() if request.is_chunked else None
        self._hand_on(H1Exchange(self, request, False), None)
        return True

    def _hand_on(self, exchange: H1Exchange, body: bytes | None) -> None:
        self._exchange = exchange
        self._was_blank = False
        self._front.begin(exchange, body)

    def _feed(self, exchange: H1Exchange) -> bool:
        data, self._waiting = self._waiting, b""
        if self._chunked is not None:
            pieces, self._waiting = self._chunked.feed(data)
            is_end, trailers = self._chunked.is_done, self._chunked.trailers
        else:
            piece = data[: self._length]
            self._waiting = data[self._length :]
            self._length -= len(piece)
            pieces, is_end, trailers = [piece], not self._length, NO_TRAILERS
        exchange.took(pieces, is_end, trailers)
        return True

    def _drop(self) -> bool:
        """Of a body whose request has been answered already, and that is not long."""
        dropped = self._waiting[: self._length]
        self._waiting = self._waiting[self._length :]
        self._length -= len(dropped)
        if self._length:
            return False
        self._exchange = None
        return True

    def _check_unfinished(self, data: bytes) -> None:
        if len(data) >= self._settings.max_head_bytes:
            is_line = b"\r\n" not in data[: self._settings.max_head_bytes]
            raise BadHead(
                414 if is_line else 431,
                f"The request's head is larger than {self._settings.max_head_bytes} bytes",
                "head_too_large",
            )
        if b"\n\n" in data or b"\n\r\n" in data.replace(b"\r\n\r\n", b""):
            lines = data.count(b"\r\n")
            if data.count(b"\n") != lines:
                raise BadHead(400, "A head's lines end with CR LF")

    def _refuse(self, error: BadHead, *, is_head: bool = False) -> None:
        """Answer what could not be read, and close. `is_head`: it was HEAD, and gets no body."""
        self._watch.refused(error.cause)
        if error.status == NO_ANSWER:
            self.close()
            return
        body = dumps({"error": error.message}).encode()
        self.send(
            status_line(error.status)
            + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            + DATE.line(self.loop)
            + b"connection: close\r\n\r\n"
            + (b"" if is_head else body)
        )
        self._linger()

    def _broken(self, why: str) -> None:
        """A body that cannot be read any further."""
        exchange = self._exchange
        if exchange is None or exchange.is_done or exchange.is_answering:
            self._watch.refused("bad_request")
            self.close()
            return
        exchange.lost("bad_body")
        self._refuse(BadHead(400, why), is_head=exchange.head.method == "HEAD")

    def _linger(self) -> None:
        """Let the caller read its answer, then close."""
        self._is_lingering = True
        self._exchange = None
        self._waiting = b""
        self._since = self.loop.time()
        if self._transport is None:
            return
        if self._at_eof:
            self._transport.close()
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._read_again()
        self.loop.call_later(_LINGER_S, self.close)

    def _read_again(self) -> None:
        if not self._is_reading and self._transport is not None and not self._at_eof:
            self._is_reading = True
            self._transport.resume_reading()

    # ---- time --------------------

    def _look_later(self) -> None:
        settings = self._settings
        shortest = min(
            settings.head_timeout_s,
            settings.body_timeout_s,
            settings.write_timeout_s,
            settings.keepalive_s,
        )
        self._timer = self.loop.call_later(min(5.0, shortest / 2), self._look)

    def _look(self) -> None:
        """One coarse look at everything that may take too long."""
        transport = self._transport
        if transport is None:
            return
        settings, now = self._settings, self.loop.time()
        silent_s = now - self._since
        exchange = self._exchange
        if self._is_stuck(transport, now):
            self._watch.refused("write_timeout")
            transport.abort()
        elif self._unsent:
            pass
        elif exchange is None and self._waiting:
            if silent_s > settings.head_timeout_s:
                why = "The request's head did not come in time"
                self._refuse(BadHead(408, why, "head_timeout"))
        elif exchange is None:
            if silent_s > settings.keepalive_s:
                self.close()
        elif exchange.is_awaiting_body and silent_s > settings.body_timeout_s:
            self._watch.refused("body_timeout")
            exchange.lost("body_timeout")
            self.close()
        self._look_at_age(now)
        self._look_later()

    def _look_at_age(self, now: float) -> None:
        if now > self._retire_at:
            self._retire_at = math.inf
            self.retire()
        elif now > self._gone_at:
            if self._exchange is not None:
                self._exchange.lost("retired")
            self.close()

    def _is_stuck(self, transport: asyncio.Transport, now: float) -> bool:
        """Whether the caller has taken nothing for too long. By what is left and not by
        `is_congested`: a small answer that is not taken would else hold its connection for ever,
        closed or not."""
        unsent = transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        return bool(unsent) and now - self._unsent_since > self._settings.write_timeout_s
