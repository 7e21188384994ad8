"""The seam of the wire: one request and its answer, whatever version of HTTP carries them.

Callbacks, not coroutines: nothing on the hot path makes a task or a future. Everything happens on
the event loop's thread. A whole request (or answer) that came in one wake-up is handed over in one
call; what is larger comes piece by piece.

Heads are immutable and shared: a connection that sends the same head again gets the same object
again. Whoever derives something from a head may keep it in `kept`; it must depend on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.wire.fields import Fields, Pairs

Data = bytes | bytearray | memoryview
"""A piece of a body. A memoryview keeps the whole read buffer alive: copy what is kept for long."""


class RequestHead:
    """Everything of a request but its body."""

    __slots__ = (
        "authority", "content_length", "expects_continue", "fields", "is_h2", "kept", "method",
        "path",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        path: str,
        fields: Pairs,
        *,
        authority: str = "",
        content_length: int | None = None,
        expects_continue: bool = False,
        is_h2: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        """The request target as it came: path and query, still percent-encoded."""
        self.fields = fields
        """Without Host and without pseudo-fields; names in lower case."""
        self.authority = authority
        self.content_length = content_length
        """None: no body, or one of unknown length."""
        self.expects_continue = expects_continue
        self.is_h2 = is_h2
        self.kept: Any = None

    def get(self, name: str) -> str | None:
        """The first field of that (lower-case) name."""
        for field, value in self.fields:
            if field == name:
                return value
        return None


class ResponseHead:
    """Everything of an answer but its body and trailers. Interim (1xx) answers are not shown."""

    __slots__ = ("content_length", "fields", "kept", "status")

    def __init__(self, status: int, fields: Pairs, content_length: int | None = None) -> None:
        self.status = status
        self.fields = fields
        self.content_length = content_length
        self.kept: Any = None

    def get(self, name: str) -> str | None:
        """The first field of that (lower-case) name."""
        for field, value in self.fields:
            if field == name:
                return value
        return None


# ---- server side --------------------


class RequestSink(Protocol):
    """Takes what follows a request's head. Set as `ServerExchange.sink`."""

    def on_data(self, data: Data) -> None:
        """A piece of the body. Not called for a body that was handed to `Front.begin` whole."""
        ...

    def on_end(self, trailers: Pairs) -> None:
        """The body is complete. Not called for a body that was handed to `Front.begin` whole."""
        ...

    def on_gone(self, cause: str) -> None:
        """The caller left, or broke the protocol (a slug for logs and metrics): no answer can reach
        it any more. May come until the answer is complete; the last call that there is."""
        ...

    def on_writable(self) -> None:
        """`is_congested` has become False again."""
        ...


class ServerExchange(Protocol):
    """One request that has come in, and the way to answer it."""

    head: RequestHead
    sink: RequestSink | None
    """Whoever is to hear of this exchange. To be set by `Front.begin` before it returns, unless it
    has answered."""

    @property
    def peer(self) -> str:
        """`host:port` of the caller."""
        ...

    @property
    def is_congested(self) -> bool:
        """The caller does not read as fast as we write: stop, and wait for `on_writable`."""
        ...

    def accept_body(self) -> None:
        """Let the body come: sends 100 Continue where it is expected. Until this is called, no
        `on_data` comes, and an answer refuses the body unread."""
        ...

    def pause(self) -> None:
        """Take no more of the body for now: the caller is held back by its flow control."""
        ...

    def resume(self) -> None:
        """The opposite of `pause`."""
        ...

    def respond(
        self,
        status: int,
        fields: Sequence[Fields],
        body: Data,
        trailers: Sequence[Fields] | None = None,
    ) -> None:
        """Answer whole, in one write. Writes Content-Length (HTTP/1.1, and HTTP/2 without
        trailers) and Date; HEAD's body is left out. HTTP/1.1 drops trailers."""
        ...

    def start(self, status: int, fields: Sequence[Fields], length: int | None) -> None:
        """Begin an answer that follows in pieces: `write`, then `end`. None: length unknown."""
        ...

    def write(self, data: Data) -> None: ...

    def end(self, trailers: Sequence[Fields] | None = None) -> None: ...

    def abort(self, is_overload: bool = False) -> None:
        """Break the answer off so that the caller sees that it is incomplete: RST_STREAM, or the
        HTTP/1.1 connection closed."""
        ...


class Front(Protocol):
    """What answers requests. One for each listener."""

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        """A request has come. `body` is all of it where it came together with its head, or where
        there is none (b""); None where it (or its rest) is still to come: call `accept_body`.

        Must not raise: an exception is a bug, is logged, and breaks the exchange off.
        """
        ...


# ---- client side --------------------


class WireError(Exception):
    """No answer came. `reason`: `connect_refused`, `connect_timeout`, `reset` (it broke before the
    answer was complete), `bad_answer` (it was no HTTP, or beyond a bound)."""

    def __init__(self, reason: str, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.sent = sent
        """Whether the server may have seen the request: False where no byte of it left, or where
        the server said that it did not act on it (GOAWAY, REFUSED_STREAM)."""


class AnswerSink(Protocol):
    """Takes what comes back. Either `on_whole`, or `on_head`, `on_data`…, `on_end`; `on_failed` at
    any time in between is the last call. Nothing is called after `ClientExchange.cancel`. None of
    them is called before `request` has returned."""

    def on_whole(self, head: ResponseHead, body: Data, trailers: Pairs) -> None: ...

    def on_head(self, head: ResponseHead) -> None: ...

    def on_data(self, data: Data) -> None: ...

    def on_end(self, trailers: Pairs) -> None: ...

    def on_failed(self, error: WireError) -> None: ...

    def on_writable(self) -> None:
        """`is_congested` has become False again. An answer may come before the request has been
        sent whole; the rest then need not be sent (`cancel`, or `end`)."""
        ...


class ClientExchange(Protocol):
    """One request on its way to a server."""

    @property
    def is_congested(self) -> bool:
        """The server does not read as fast as we write: stop, and wait for `on_writable`."""
        ...

    def write(self, data: Data) -> None: ...

    def end(self) -> None:
        """The request's body is complete."""
        ...

    def cancel(self) -> None:
        """Give up: RST_STREAM, or the HTTP/1.1 connection closed; this tells the server."""
        ...

    def pause(self) -> None:
        """Take no more of the answer for now."""
        ...

    def resume(self) -> None: ...


class Client(Protocol):
    """Connections to servers, by address. One of these for HTTP/1.1 and one for HTTP/2."""

    def request(
        self,
        address: str,
        method: str,
        path: str,
        fields: Sequence[Fields],
        body: Data | None,
        sink: AnswerSink,
        *,
        length: int | None = None,
    ) -> ClientExchange:
        """Send a request to `host:port`, over a pooled connection or a new one.

        With `body` it is sent whole, in one write with its head, and `end` must not be called. With
        None it follows by `write` and `end`; `length` is its length where that is known. Written
        here: the request line or pseudo-fields, Host, Content-Length or Transfer-Encoding; all
        else (`te: trailers` too) is in `fields`.
        """
        ...

    def drop(self, address: str) -> None:
        """Close its connections now, in use or not: requests under way there fail as `reset`, those
        that wait for a connection as not sent."""
        ...

    def keep(self, addresses: set[str]) -> None:
        """Close the connections to every other address; those in use, when they are done."""
        ...

    async def aclose(self) -> None:
        """Close everything now, in use or not: exchanges under way fail."""
        ...


class Watch(Protocol):
    """Who counts what happens on the wire."""

    def opened(self, protocol: str) -> None:
        """A connection of a caller: `h1`, `h2`."""
        ...

    def closed(self, protocol: str) -> None: ...

    def refused(self, cause: str) -> None:
        """A bound of `ServerWireSettings` was reached, or the protocol was broken. `cause` is one
        of `settings.CAUSES`."""
        ...
