"""One gRPC call over an exchange: what its head says, and the ways to answer it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from gateway.wire.exchange import Data, RequestHead, ServerExchange
from gateway.wire.fields import Fields, Pairs
from gateway.wire.grpc_messages import ACCEPTED, ENCODINGS, GrpcAbort, frame, prefix
from gateway.wire.grpc_text import (
    CONTENT_TYPE,
    OK_TRAILERS,
    Code,
    parse_timeout,
    status_fields,
)

HEAD: Final = Fields((("content-type", CONTENT_TYPE),))
_HEAD_ONLY: Final = (HEAD,)
_OK: Final = (OK_TRAILERS,)
_ACCEPTED: Final = Fields((("grpc-accept-encoding", ACCEPTED),))
_TEXT: Final = Fields((("content-type", "text/plain; charset=utf-8"),))
_ALLOW: Final = Fields((("allow", "POST"),))

_JOINED_BYTES = 64 * 1024
"""Up to here a message is copied behind its prefix; beyond, a second write is cheaper."""
_FOREVER_S = 365 * 24 * 3600.0
"""Deadlines beyond need no timer."""

_OF_THE_TRANSPORT = frozenset(
    ("te", "content-type", "content-length", "grpc-accept-encoding", "host")
)


class GrpcHead:
    """What the head of a call says, read once for each distinct head."""

    __slots__ = ("encoding", "kept", "metadata", "path", "placed", "refusal", "timeout_s")

    def __init__(self, head: RequestHead) -> None:
        self.path = head.path
        self.refusal: Callable[[ServerExchange], None] | None = None
        """Answers a call that cannot be served, whoever would serve it."""
        self.timeout_s: float | None = None
        self.encoding = "identity"
        metadata: list[tuple[str, str]] = []
        for name, value in head.fields:
            if name == "grpc-timeout":
                self._read_timeout(value)
            elif name == "grpc-encoding":
                self.encoding = value
            elif name not in _OF_THE_TRANSPORT:
                metadata.append((name, value))
        self.metadata: Pairs = tuple(metadata)
        """The caller's, `user-agent` included; without what belongs to the transport."""
        self.kept: Any = None
        """For whoever serves the call, as `RequestHead.kept`."""
        self.placed: Any = None
        """The same, for what depends on more than the head."""
        if not head.is_h2:
            self.refusal = _needs_http2
        elif head.method != "POST":
            self.refusal = _needs_post
        elif not is_grpc(head.get("content-type")):
            self.refusal = _needs_content_type
        elif self.encoding != "identity" and self.encoding not in ENCODINGS:
            self.refusal = self._unknown_encoding

    def _read_timeout(self, value: str) -> None:
        try:
            self.timeout_s = parse_timeout(value)
        except ValueError as error:
            # Grpc-go's answer. To serve without a limit what was meant to have one would be worse.
            said = str(error)
            self.refusal = lambda exchange: respond_status(exchange, Code.INTERNAL, said)

    def _unknown_encoding(self, exchange: ServerExchange) -> None:
        said = f"Compression algorithm '{self.encoding[:40]}' is not supported"
        fields = (HEAD, _ACCEPTED, status_fields(Code.UNIMPLEMENTED, said))
        exchange.respond(200, fields, b"")


def read_head(head: RequestHead) -> GrpcHead:
    """The same object for the same head."""
    kept = head.kept
    if isinstance(kept, GrpcHead):
        return kept
    made = head.kept = GrpcHead(head)
    return made


def is_grpc(content_type: str | None) -> bool:
    """`application/grpc`, with or without a subtype (`+proto`) or parameters; not `-web`."""
    if content_type is None or not content_type.startswith(CONTENT_TYPE):
        return False
    return content_type[len(CONTENT_TYPE) :][:1] in ("", "+", ";")


def _needs_http2(exchange: ServerExchange) -> None:
    exchange.respond(505, (_TEXT,), b"gRPC needs HTTP/2\n")


def _needs_post(exchange: ServerExchange) -> None:
    exchange.respond(405, (_TEXT, _ALLOW), b"gRPC needs POST\n")


def _needs_content_type(exchange: ServerExchange) -> None:
    exchange.respond(415, (_TEXT,), b"gRPC needs content-type: application/grpc\n")


# ---- answers --------------------


def respond_status(
    exchange: ServerExchange, code: int, message: str = "", trailers: Pairs = ()
) -> None:
    """End a call to which nothing has been answered yet, with its status only."""
    exchange.respond(200, (HEAD, status_fields(code, message, trailers)), b"")


def answer(exchange: ServerExchange, message: Data, trailers: Sequence[Fields] = ()) -> None:
    """Answer a unary call with OK. `trailers` go with the status."""
    ending = (OK_TRAILERS, *trailers) if trailers else _OK
    size = len(message)
    if size <= _JOINED_BYTES:
        exchange.respond(200, _HEAD_ONLY, frame(message), ending)
        return
    exchange.start(200, _HEAD_ONLY, None)
    exchange.write(prefix(size))
    exchange.write(message)
    exchange.end(ending)


# ---- calls --------------------


class GrpcCall:
    """One call, as its handler sees it."""

    __slots__ = (
        "_is_over", "_is_started", "_news", "_task", "_timer", "_trailers", "deadline_at",
        "exchange", "head", "metadata", "on_cancelled", "peer",
    )  # fmt: skip

    def __init__(self, exchange: ServerExchange, head: GrpcHead, now: float) -> None:
        self.exchange = exchange
        self.head = head
        self.metadata = head.metadata
        self.peer = exchange.peer
        timeout_s = head.timeout_s
        self.deadline_at = None if timeout_s is None else now + timeout_s
        """By the loop's clock; None: the caller set none."""
        self.on_cancelled: Callable[[], None] | None = None
        """Called once when the caller left or the deadline passed; nothing can be answered then.
        For `Direct` handlers: coroutines are cancelled."""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._trailers: Pairs = ()
        self._is_started = False
        self._is_over = False
        self._news: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"GrpcCall({self.head.path} from {self.peer})"

    @property
    def is_over(self) -> bool:
        """Whether it has been answered, or cannot be any more."""
        return self._is_over

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, 0 after it; None without one."""
        if self.deadline_at is None:
            return None
        return max(0.0, self.deadline_at - asyncio.get_running_loop().time())

    async def abort(self, code: int, details: str = "", trailers: Pairs = ()) -> NoReturn:
        """End the call with an error. Raises GrpcAbort, which the handler lets through."""
        raise GrpcAbort(code, details, trailers)

    def set_trailing_metadata(self, trailers: Pairs) -> None:
        """Send these with the status, whatever it will be."""
        self._trailers = trailers

    async def write(self, message: Data) -> None:
        """Send one message of a stream; waits while the caller does not read as fast."""
        exchange = self.exchange
        if not self._is_started:
            self._is_started = True
            exchange.start(200, _HEAD_ONLY, None)
        while exchange.is_congested:
            await self._wait()
        if len(message) <= _JOINED_BYTES:
            exchange.write(frame(message))
        else:
            exchange.write(prefix(len(message)))
            exchange.write(message)

    def reply(self, message: Data, trailers: Pairs = ()) -> None:
        """End a unary call with its answer. Ignored when the call is over."""
        if self._is_over:
            return
        self._end()
        trailers = (*self._trailers, *trailers)
        answer(self.exchange, message, (Fields(trailers),) if trailers else ())

    def finish(self, code: int, details: str = "", trailers: Pairs = ()) -> None:
        """End the call with a status alone: an error, or the end of a stream. Ignored when it is
        over."""
        if self._is_over:
            return
        self._end()
        trailers = (*self._trailers, *trailers)
        if self._is_started:
            self.exchange.end((status_fields(code, details, trailers),))
        else:
            respond_status(self.exchange, code, details, trailers)

    # ---- used by GrpcMethods

    def arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the call at its deadline."""
        timeout_s, deadline_at = self.head.timeout_s, self.deadline_at
        if timeout_s is not None and deadline_at is not None and timeout_s < _FOREVER_S:
            self._timer = loop.call_at(deadline_at, self._too_late)

    def disarm(self) -> None:
        """From now on its handler minds the deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def run(self, task: asyncio.Task[None]) -> None:
        """`task` serves this call; is cancelled with it."""
        self._task = task

    def leave(self) -> None:
        """The server ends before the call does."""
        self.finish(Code.UNAVAILABLE, "The server is shutting down")

    def _too_late(self) -> None:
        self._timer = None
        self.finish(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self._cancel()

    def _end(self) -> None:
        self._is_over = True
        self.disarm()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self.on_cancelled is not None:
            self.on_cancelled()

    # ---- RequestSink, where all of the request has come

    def on_data(self, data: Data) -> None: ...

    def on_end(self, trailers: Pairs) -> None: ...

    def on_gone(self, cause: str) -> None:
        if not self._is_over:
            self._end()
            self._cancel()

    def on_writable(self) -> None:
        self._wake()

    async def _wait(self) -> None:
        if self._news is None:
            self._news = asyncio.Event()
        self._news.clear()
        await self._news.wait()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
