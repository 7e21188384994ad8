"""One request over HTTP/1.1 and the way to answer it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.wire.exchange import Data, RequestHead, RequestSink
from gateway.wire.fields import Fields, Pairs
from gateway.wire.h1_heads import H1Request

if TYPE_CHECKING:
    from gateway.wire.h1_server import H1ServerConnection

_JOIN_BYTES = 64 * 1024
"""A larger body is written beside its head instead of being copied behind it."""

_BODILESS = frozenset((204, 304))
"""Answers that end with their head, whatever is said or given (RFC 9112 section 6.3)."""

_REASONS = {int(status): status.phrase for status in HTTPStatus}
_LINES: dict[int, bytes] = {}


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` and its line end."""
    line = _LINES.get(status)
    if line is None:
        reason = _REASONS.get(status, "")
        line = _LINES[status] = f"HTTP/1.1 {status} {reason}\r\n".encode()
    return line


class _Date:
    """The Date field of this second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def line(self, loop: asyncio.AbstractEventLoop) -> bytes:
        """With its line end. The loop's clock says when a second is over; the wall clock says which
        one it is."""
        second = int(loop.time())
        if second != self._second:
            self._second = second
            self._line = f"date: {formatdate(usegmt=True)}\r\n".encode()
        return self._line


DATE = _Date()


class H1Exchange:
    """exchange.ServerExchange over HTTP/1.1."""

    __slots__ = (
        "_chunked_answer",
        "_connection",
        "_is_accepted",
        "_is_bodiless",
        "_left",
        "_request",
        "due",
        "head",
        "is_answering",
        "is_done",
        "is_paused",
        "is_whole",
        "sink",
    )  # fmt: skip

    def __init__(self, connection: H1ServerConnection, request: H1Request, is_whole: bool) -> None:
        self.head: RequestHead = request.head
        self.sink: RequestSink | None = None
        self._connection = connection
        self._request = request
        self.is_whole = is_whole
        """The body has come."""
        self._is_accepted = is_whole
        self.is_paused = False
        self.due: tuple[list[Data], bool, Pairs] | None = None
        """What `took` was given and the front does not take yet."""
        self.is_answering = False
        self.is_done = False
        self._chunked_answer = False
        self._is_bodiless = False
        self._left: int | None = None
        """What is missing of an answer whose length was said."""

    @property
    def peer(self) -> str:
        """`host:port` of the caller."""
        return self._connection.peer

    @property
    def is_congested(self) -> bool:
        """See exchange.ServerExchange."""
        return self._connection.is_congested

    def accept_body(self) -> None:
        """See exchange.ServerExchange."""
        if self._is_accepted or self.is_done:
            return
        self._is_accepted = True
        connection = self._connection
        is_asked = self.head.expects_continue and not self.is_answering
        if is_asked and not connection.has_waiting:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.go_on_soon()

    def pause(self) -> None:
        """See exchange.ServerExchange."""
        if not self.is_done:
            self.is_paused = True
            self._connection.throttle()

    def resume(self) -> None:
        """See exchange.ServerExchange."""
        self.is_paused = False
        self._connection.go_on_soon()

    def respond(
        self,
        status: int,
        fields: Sequence[Fields],
        body: Data,
        trailers: Sequence[Fields] | None = None,
    ) -> None:
        """See exchange.ServerExchange."""
        if self.is_done:
            return
        parts: list[Data] = [status_line(status), *[f.h1 for f in fields]]
        if status not in _BODILESS:
            parts.append(b"content-length: %d\r\n" % len(body))
        self._finish_head(parts)
        if self.head.method == "HEAD" or status in _BODILESS:
            body = b""
        if len(body) <= _JOIN_BYTES:
            parts.append(body)
            self._connection.send(b"".join(parts))
        else:
            self._connection.send(b"".join(parts))
            self._connection.send(body)
        self._done()

    def start(self, status: int, fields: Sequence[Fields], length: int | None) -> None:
        """See exchange.ServerExchange."""
        if self.is_done:
            return
        self.is_answering = True
        parts: list[Data] = [status_line(status), *[f.h1 for f in fields]]
        self._is_bodiless = self.head.method == "HEAD" or status in _BODILESS
        self._left = None if self._is_bodiless else length
        if status in _BODILESS:
            pass
        elif length is not None:
            parts.append(b"content-length: %d\r\n" % length)
        elif self._request.version == "1.1":
            self._chunked_answer = True
            parts.append(b"transfer-encoding: chunked\r\n")
        else:
            self._connection.is_closing = True
        self._finish_head(parts)
        self._connection.send(b"".join(parts))

    def write(self, data: Data) -> None:
        """See exchange.ServerExchange."""
        if self.is_done or not data or self._is_bodiless:
            return
        if self._left is not None:
            self._left -= len(data)
        if not self._chunked_answer:
            self._connection.send(data)
        elif len(data) <= _JOIN_BYTES:
            self._connection.send(b"".join((b"%x\r\n" % len(data), data, b"\r\n")))
        else:
            self._connection.send(b"%x\r\n" % len(data))
            self._connection.send(data)
            self._connection.send(b"\r\n")

    def end(self, trailers: Sequence[Fields] | None = None) -> None:
        """See exchange.ServerExchange."""
        if self.is_done:
            return
        if self._left:
            # Not as long as was said: the next answer would be taken for this one's rest.
            self.abort()
            return
        if self._chunked_answer and not self._is_bodiless:
            self._connection.send(b"0\r\n\r\n")
        self._done()

    def abort(self, is_overload: bool = False) -> None:
        """See exchange.ServerExchange."""
        if not self.is_done:
            self.is_done = True
            self.sink = None
            self._connection.close()

    # ---- for the connection --------------------

    @property
    def wants_body(self) -> bool:
        """Whether a piece of the body may be handed on now."""
        return self._is_accepted and not self.is_paused and not self.is_whole

    @property
    def is_awaiting_body(self) -> bool:
        """Whether it is the caller's turn: to send what is wanted, or what will be dropped."""
        return not self.is_whole if self.is_done else self.wants_body

    def took(self, pieces: list[Data], is_end: bool, trailers: Pairs) -> None:
        """Hand on what has come of the body."""
        sink = self.sink
        self.is_whole = is_end
        if sink is None or self.is_done:
            return
        for at, piece in enumerate(pieces, 1):
            sink.on_data(piece)
            if self.is_done:
                return
            if self.is_paused:
                if is_end or at < len(pieces):
                    self.due = pieces[at:], is_end, trailers
                return
        if is_end:
            sink.on_end(trailers)

    def go_on(self) -> bool:
        """Hand on what had been read when it was paused; whether there was any."""
        due = self.due
        if due is None or self.is_paused or self.is_done:
            return False
        self.due = None
        self.took(*due)
        return True

    def lost(self, cause: str) -> None:
        """The caller is gone."""
        sink, self.sink = self.sink, None
        if not self.is_done:
            self.is_done = True
            if sink is not None:
                sink.on_gone(cause)

    def _finish_head(self, parts: list[Data]) -> None:
        connection = self._connection
        if not self.is_whole and not connection.can_skip_rest():
            connection.is_closing = True
        parts.append(DATE.line(connection.loop))
        if connection.is_closing or not self._request.keep_alive:
            connection.is_closing = True
            parts.append(b"connection: close\r\n\r\n")
        elif self._request.version == "1.0":
            parts.append(b"connection: keep-alive\r\n\r\n")
        else:
            parts.append(b"\r\n")

    def _done(self) -> None:
        self.is_done = True
        self.sink = None
        self._connection.answered(self.is_whole)
