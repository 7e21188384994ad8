"""gRPC over HTTP/2, server side: calls come in as exchanges, and are served by their paths.

Three kinds of handlers: `Unary` and `Stream` are coroutines, one task for each call; `Direct` is
called with the message and answers by itself, now or later, without a task. A caller who leaves,
and a deadline that passes, cancel the handler. What a handler raises (beside `GrpcAbort`) is a bug:
it is handed to `Tasks.on_bug`, and the caller gets UNKNOWN, as from gRPC's own servers.

Metadata is text here; values of `-bin` names stay base64, as they are on the wire.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from gateway.wire.exchange import Data, ServerExchange
from gateway.wire.fields import Pairs
from gateway.wire.grpc_call import (
    HEAD,
    GrpcCall,
    GrpcHead,
    answer,
    is_grpc,
    read_head,
    respond_status,
)
from gateway.wire.grpc_messages import GrpcAbort, Messages, frame, prefix, whole_message
from gateway.wire.grpc_text import (
    OK_TRAILERS,
    Code,
    code_name,
    decode_message,
    encode_message,
    format_timeout,
    parse_timeout,
    status_fields,
)
from gateway.wire.tasks import Tasks

__all__ = [
    "HEAD", "OK_TRAILERS", "Code", "Direct", "GrpcAbort", "GrpcCall", "GrpcHead", "GrpcMethods",
    "Messages", "Stream", "Unary", "answer", "code_name", "decode_message", "encode_message",
    "format_timeout", "frame", "is_grpc", "parse_timeout", "prefix", "read_head", "respond_status",
    "status_fields", "whole_message",
]  # fmt: skip

_HELD_BYTES = 1 << 20
_HELD_MESSAGES = 16
"""Of a stream, so much may wait for its handler before the caller is held back."""


@dataclass(frozen=True, slots=True)
class Unary:
    """One message in, one out."""

    handler: Callable[[bytes, GrpcCall], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Stream:
    """Any number of messages either way: reads the iterator, writes by `GrpcCall.write`, and
    returns for OK."""

    handler: Callable[[AsyncIterator[bytes], GrpcCall], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Direct:
    """One message in; answers by `GrpcCall.reply` or `finish`, or over the exchange. Minds the
    deadline itself (`GrpcCall.deadline_at`), and hears of a caller who left by `on_cancelled`."""

    handler: Callable[[ServerExchange, bytes, GrpcCall], None]


Method = Unary | Stream | Direct


class GrpcMethods:
    """Serves methods by their paths. Nothing of the wire's bounds is here but the size of a
    message."""

    def __init__(
        self, handlers: Mapping[str, Method], tasks: Tasks, max_message_bytes: int = 4 << 20
    ) -> None:
        self._handlers = dict(handlers)
        self._tasks = tasks
        self._max_bytes = max_message_bytes

    def __repr__(self) -> str:
        return f"GrpcMethods({sorted(self._handlers)})"

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        """As `exchange.Front.begin`, for calls with `application/grpc`."""
        head = read_head(exchange.head)
        if head.refusal is not None:
            head.refusal(exchange)
            return
        method = self._handlers.get(head.path)
        if method is None:
            respond_status(exchange, Code.UNIMPLEMENTED, "Method not found!")
            return
        loop = asyncio.get_running_loop()
        call = GrpcCall(exchange, head, loop.time())
        if body is not None and not isinstance(method, Stream):
            message = whole_message(body, self._max_bytes)
            if message is not None:
                exchange.sink = call
                if isinstance(method, Unary):
                    call.arm(loop)
                self._serve(method, message, call)
                return
        call.arm(loop)
        messages = Messages(self._max_bytes, head.encoding)
        sink: _Requests | _OneRequest
        if isinstance(method, Stream):
            sink = _Requests(call, messages)
            call.run(self._tasks.start(self._stream(method, sink, call)))
        else:
            sink = _OneRequest(call, messages, method, self._serve)
        exchange.sink = sink
        if body is None:
            exchange.accept_body()
            return
        if body:
            sink.on_data(body)
        sink.on_end(())

    def _serve(self, method: Unary | Direct, message: bytes, call: GrpcCall) -> None:
        if isinstance(method, Unary):
            call.run(self._tasks.start(self._unary(method, message, call)))
            return
        call.disarm()
        try:
            method.handler(call.exchange, message, call)
        except Exception as error:  # noqa: BLE001  the one place for bugs of these handlers
            self._bug(error, call)

    async def _unary(self, method: Unary, message: bytes, call: GrpcCall) -> None:
        try:
            call.reply(await method.handler(message, call))
        except GrpcAbort as abort:
            call.finish(abort.code, abort.details, abort.trailers)
        except asyncio.CancelledError:
            call.leave()
            raise
        except Exception as error:  # noqa: BLE001  the one place for bugs of these handlers
            self._bug(error, call)

    async def _stream(self, method: Stream, requests: _Requests, call: GrpcCall) -> None:
        try:
            await method.handler(requests, call)
            call.finish(Code.OK)
        except GrpcAbort as abort:
            call.finish(abort.code, abort.details, abort.trailers)
        except asyncio.CancelledError:
            call.leave()
            raise
        except Exception as error:  # noqa: BLE001  the one place for bugs of these handlers
            self._bug(error, call)

    def _bug(self, error: Exception, call: GrpcCall) -> None:
        self._tasks.on_bug(error)
        call.finish(Code.UNKNOWN, f"Unexpected {type(error).__name__}")


class _OneRequest:
    """Waits for the one message of a call (RequestSink)."""

    __slots__ = ("_call", "_message", "_messages", "_method", "_serve")

    def __init__(
        self,
        call: GrpcCall,
        messages: Messages,
        method: Unary | Direct,
        serve: Callable[[Unary | Direct, bytes, GrpcCall], None],
    ) -> None:
        self._call = call
        self._messages = messages
        self._method = method
        self._serve = serve
        self._message: bytes | None = None

    def on_data(self, data: Data) -> None:
        if self._call.is_over:
            return
        try:
            found = self._messages.feed(data)
        except GrpcAbort as error:
            self._call.finish(error.code, error.details)
            return
        if len(found) > (self._message is None):
            # Its code for a wrong number of messages is in grpc's doc/statuscodes.md.
            self._call.finish(Code.UNIMPLEMENTED, "More than one request for a unary method")
        elif found:
            self._message = found[0]

    def on_end(self, trailers: Pairs) -> None:
        call = self._call
        if call.is_over:
            return
        if self._messages.is_partial:
            call.finish(Code.INTERNAL, "The request ends within a message")
        elif self._message is None:
            call.finish(Code.UNIMPLEMENTED, "No request for a unary method")
        else:
            call.exchange.sink = call
            self._serve(self._method, self._message, call)

    def on_gone(self, cause: str) -> None:
        self._call.on_gone(cause)

    def on_writable(self) -> None:
        self._call.on_writable()


class _Requests:
    """The messages of a stream as they come (RequestSink and AsyncIterator)."""

    __slots__ = (
        "_call", "_error", "_held_bytes", "_is_complete", "_is_paused", "_messages", "_news",
        "_waiting",
    )  # fmt: skip

    def __init__(self, call: GrpcCall, messages: Messages) -> None:
        self._call = call
        self._messages = messages
        self._waiting: deque[bytes] = deque()
        self._held_bytes = 0
        self._is_complete = False
        self._is_paused = False
        self._error: GrpcAbort | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next message. Raises GrpcAbort where what comes is no message."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._is_complete:
                raise StopAsyncIteration
            if self._is_paused:
                self._is_paused = False
                self._call.exchange.resume()
            self._news.clear()
            await self._news.wait()
        message = self._waiting.popleft()
        self._held_bytes -= len(message)
        return message

    def on_data(self, data: Data) -> None:
        if self._call.is_over or self._error is not None:
            return
        try:
            found = self._messages.feed(data)
        except GrpcAbort as error:
            self._error = error
            found = []
        self._waiting += found
        self._held_bytes += sum(map(len, found))
        is_full = self._held_bytes > _HELD_BYTES or len(self._waiting) > _HELD_MESSAGES
        if is_full and not self._is_paused:
            self._is_paused = True
            self._call.exchange.pause()
        self._news.set()

    def on_end(self, trailers: Pairs) -> None:
        self._is_complete = True
        if self._messages.is_partial and self._error is None:
            self._error = GrpcAbort(Code.INTERNAL, "The request ends within a message")
        self._news.set()

    def on_gone(self, cause: str) -> None:
        self._call.on_gone(cause)

    def on_writable(self) -> None:
        self._call.on_writable()
