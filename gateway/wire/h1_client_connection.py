"""HTTP/1.1, the client's side: one connection to a server, one exchange at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from gateway.wire.exchange import AnswerSink, Data, WireError
from gateway.wire.fields import Fields, Pairs
from gateway.wire.h1_chunked import BadChunk, ChunkedDecoder
from gateway.wire.h1_heads import UNKNOWN_LENGTH, BadHead, H1Response, Memo, parse_response
from gateway.wire.settings import ClientWireSettings

_ANSWERS = Memo()
"""Heads of all servers: their Date changes once a second, all else seldom."""

_JOIN_BYTES = 64 * 1024
"""A larger body is written beside its head instead of being copied behind it."""

_NO_TRAILERS: Pairs = ()


class H1ClientExchange:
    """exchange.ClientExchange over HTTP/1.1."""

    __slots__ = (
        "address", "connection", "head", "is_chunked", "is_congested", "is_head", "is_over",
        "is_paused", "is_sent", "sink", "to_send",
    )  # fmt: skip

    def __init__(self, address: str, sink: AnswerSink, head: bytes, *, is_head: bool) -> None:
        self.address = address
        self.sink = sink
        self.head = head
        """What was or is to be sent first."""
        self.to_send: list[Data] = []
        """Written before there was a connection."""
        self.connection: H1ClientConnection | None = None
        self.is_chunked = False
        self.is_congested = False
        self.is_head = is_head
        self.is_over = False
        self.is_paused = False
        self.is_sent = False
        """The request is complete."""

    def write(self, data: Data) -> None:
        """See exchange.ClientExchange."""
        if self.is_over or not data:
            return
        parts = [b"%x\r\n" % len(data), data, b"\r\n"] if self.is_chunked else [data]
        if self.connection is None:
            self.to_send += parts
            self.is_congested = True
        else:
            for part in parts:
                self.connection.send(part)

    def end(self) -> None:
        """See exchange.ClientExchange."""
        if self.is_over or self.is_sent:
            return
        if self.is_chunked:
            if self.connection is None:
                self.to_send.append(b"0\r\n\r\n")
            else:
                self.connection.send(b"0\r\n\r\n")
        self.is_sent = True

    def cancel(self) -> None:
        """See exchange.ClientExchange."""
        if not self.is_over:
            self.is_over = True
            if self.connection is not None:
                self.connection.close()

    def pause(self) -> None:
        """See exchange.ClientExchange."""
        self.is_paused = True
        if self.connection is not None and not self.is_over:
            self.connection.pause()

    def resume(self) -> None:
        """See exchange.ClientExchange."""
        self.is_paused = False
        if self.connection is not None and not self.is_over:
            self.connection.resume()

    def fail(self, error: WireError) -> None:
        """Tell the sink, unless it has its answer or wants none."""
        if not self.is_over:
            self.is_over = True
            self.sink.on_failed(error)


def request_head(
    address: str, method: str, path: str, fields: Sequence[Fields], framing: bytes
) -> bytes:
    """Request line and fields, their empty line included.

    Raises:
        ValueError: the target or a field holds what it may not.
    """
    if " " in path or "\r" in path or "\n" in path:
        raise ValueError("a request target may not hold blanks or line ends")
    line = f"{method} {path} HTTP/1.1\r\nhost: {address}\r\n".encode("latin-1")
    return b"".join([line, *[f.h1 for f in fields], framing, b"\r\n"])


class H1ClientConnection(asyncio.Protocol):
    """One connection. `on_free` is called when it can take the next exchange, `on_lost` when it is
    gone."""

    def __init__(
        self,
        address: str,
        settings: ClientWireSettings,
        on_free: Callable[[H1ClientConnection], None],
        on_lost: Callable[[H1ClientConnection], None],
    ) -> None:
        self.address = address
        self.exchange: H1ClientExchange | None = None
        self.is_closing = False
        self.idle_since = 0.0
        self._settings = settings
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._waiting = b""
        self._response: H1Response | None = None
        """The head that has come."""
        self._is_told = False
        """The sink knows of the head."""
        self._pieces: list[Data] = []
        self._due: tuple[list[Data], bool, Pairs] | None = None
        """What was read and the sink does not take yet."""
        self._left = 0
        self._chunked: ChunkedDecoder | None = None
        self._is_reusable = False

    def __repr__(self) -> str:
        return f"H1ClientConnection({self.address}, {'idle' if self.exchange is None else 'busy'})"

    @property
    def is_open(self) -> bool:
        """Whether another exchange may be begun on it."""
        transport = self._transport
        return transport is not None and not self.is_closing and not transport.is_closing()

    # ---- for the exchange and the pool --------------------

    def begin(self, exchange: H1ClientExchange, body: Data | None) -> None:
        """Send a request, whole where `body` is given."""
        self.exchange = exchange
        exchange.connection = self
        if body is None or len(body) > _JOIN_BYTES:
            self.send(exchange.head)
            for part in (body,) if body is not None else exchange.to_send:
                self.send(part)
            exchange.to_send = []
        else:
            self.send(exchange.head + body if body else exchange.head)
        if exchange.is_paused:
            self.pause()
        if exchange.is_congested and not self._is_full():
            exchange.is_congested = False
            exchange.sink.on_writable()

    def send(self, data: Data) -> None:
        """Write."""
        if self._transport is not None:
            self._transport.write(data)

    def pause(self) -> None:
        """Read no more for now."""
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again, once what has been read is taken."""
        if self._due is not None:
            asyncio.get_running_loop().call_soon(self._go_on)
        elif self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    def close(self) -> None:
        """Close now."""
        self.is_closing = True
        if self._transport is not None:
            self._transport.abort() if self.exchange is not None else self._transport.close()

    # ---- asyncio.Protocol --------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        transport = self._transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=self._settings.write_high_bytes)

    def connection_lost(self, exc: Exception | None) -> None:
        """End. An answer without a length is complete by this."""
        exchange, self._transport = self.exchange, None
        # Closed by us (`aclose`, a cancelled exchange), an answer would only look complete.
        is_theirs, self.is_closing = not self.is_closing, True
        if exchange is not None:
            if is_theirs and exc is None and self._ends_so:
                self._hand_on(exchange, self._due[0] if self._due else [], True, _NO_TRAILERS)
            elif not (is_theirs and self._due and self._due[1]):
                self.exchange = None
                exchange.fail(
                    WireError(
                        "reset",
                        f"{self.address} closed the connection before its answer was complete",
                        sent=True,
                    )
                )
        self._on_lost(self)

    @property
    def _ends_so(self) -> bool:
        """Whether the answer that is being read ends with the connection."""
        return (
            self._response is not None
            and self._chunked is None
            and self._left == UNKNOWN_LENGTH
            and (self._due is None or not self._due[1])
        )

    def pause_writing(self) -> None:
        """The server does not read."""
        if self.exchange is not None:
            self.exchange.is_congested = True

    def resume_writing(self) -> None:
        """It does again."""
        exchange = self.exchange
        if exchange is not None and exchange.is_congested:
            exchange.is_congested = False
            if not exchange.is_over:
                exchange.sink.on_writable()

    def data_received(self, data: bytes) -> None:
        """Bytes of the server."""
        exchange = self.exchange
        if exchange is None:
            # An answer that nobody asked for: whoever came next would take it for theirs.
            self.close()
            return
        if self._due is not None:
            self._waiting += data  # had been read before reading was paused
            return
        if self._waiting:
            data, self._waiting = self._waiting + data, b""
        try:
            self._take(exchange, data)
        except BadHead as error:
            self._bad(exchange, error.message)
        except BadChunk as bad:
            self._bad(exchange, str(bad))

    # ---- inside --------------------

    def _take(self, exchange: H1ClientExchange, data: bytes) -> None:
        while self._response is None:
            end = data.find(b"\r\n\r\n", 0, self._settings.max_head_bytes) + 4
            if end < 4:
                if len(data) >= self._settings.max_head_bytes:
                    raise BadHead(502, "the answer's head is too large")
                self._waiting = data
                return
            raw, data = data[:end], data[end:]
            self._head(exchange, raw)
        self._body(exchange, data)

    def _head(self, exchange: H1ClientExchange, raw: bytes) -> None:
        response: H1Response | None = _ANSWERS.get(raw)
        if response is None:
            response = parse_response(raw, self._settings.max_header_count)
            _ANSWERS.put(raw, response)
        status = response.head.status
        if status < 200:
            if status == 101:
                raise BadHead(502, "the answer changes the protocol, which nobody asked for")
            return
        self._response = response
        self._is_told = False
        self._pieces = []
        has_none = exchange.is_head or status == 204 or status == 304
        self._chunked = ChunkedDecoder() if response.is_chunked and not has_none else None
        self._left = 0 if has_none else response.length
        has_end = self._chunked is not None or self._left != UNKNOWN_LENGTH
        self._is_reusable = response.keep_alive and has_end

    def _body(self, exchange: H1ClientExchange, data: bytes) -> None:
        pieces: list[Data]
        if self._chunked is not None:
            pieces, rest = self._chunked.feed(data)
            is_end, trailers = self._chunked.is_done, self._chunked.trailers
        elif self._left == UNKNOWN_LENGTH:
            pieces, rest = ([data] if data else []), b""
            is_end, trailers = False, _NO_TRAILERS
        else:
            left = self._left
            part = data[:left]
            rest = data[left:]
            self._left = left - len(part)
            pieces, is_end, trailers = [part] if part else [], not self._left, _NO_TRAILERS
        if rest:
            self.is_closing = True  # More than was asked for: not to be trusted any more.
        if is_end and not self._is_told:
            self._pieces += pieces
            self._complete(trailers)
            return
        self._tell(exchange)
        self._hand_on(exchange, pieces, is_end, trailers)

    def _hand_on(
        self, exchange: H1ClientExchange, pieces: list[Data], is_end: bool, trailers: Pairs
    ) -> None:
        for at, piece in enumerate(pieces):
            if exchange.is_over:
                return
            if exchange.is_paused:
                self._due = pieces[at:], is_end, trailers
                return
            exchange.sink.on_data(piece)
        if exchange.is_over or not is_end:
            return
        if exchange.is_paused:
            self._due = [], True, trailers
        else:
            self._complete(trailers)

    def _go_on(self) -> None:
        """The sink takes again what had been read when it paused."""
        exchange, due = self.exchange, self._due
        if exchange is None or due is None or exchange.is_paused or exchange.is_over:
            return
        self._due = None
        self._hand_on(exchange, *due)
        if self._waiting:
            self.data_received(b"")
        if self.exchange is exchange and not exchange.is_paused:
            self.resume()

    def _tell(self, exchange: H1ClientExchange) -> None:
        if not self._is_told and self._response is not None:
            self._is_told = True
            if not exchange.is_over:
                exchange.sink.on_head(self._response.head)

    def _complete(self, trailers: Pairs) -> None:
        """The answer is there: free the connection first, because the sink may use it at once."""
        exchange, response = self.exchange, self._response
        assert exchange is not None
        assert response is not None
        pieces, is_told = self._pieces, self._is_told
        self.exchange = self._response = self._chunked = None
        self._pieces = []
        if not exchange.is_sent or not self._is_reusable or self.is_closing:
            self.close()
        elif self._transport is not None:
            self.resume()
            self._on_free(self)
        if exchange.is_over:
            return
        exchange.is_over = True
        if is_told:
            exchange.sink.on_end(trailers)
        else:
            body: Data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            exchange.sink.on_whole(response.head, body, trailers)

    def _bad(self, exchange: H1ClientExchange, why: str) -> None:
        self.exchange = None
        self.close()
        exchange.fail(WireError("bad_answer", f"{self.address}: {why}", sent=True))

    def _is_full(self) -> bool:
        transport = self._transport
        return (
            transport is not None
            and transport.get_write_buffer_size() > self._settings.write_high_bytes
        )
