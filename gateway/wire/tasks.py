"""Handlers that are coroutines, over a seam of callbacks.

What is seldom called (metadata, statistics, streams of events) is easier to write as a coroutine
that awaits the body and the caller's pace. Each request then costs a task; the hot path uses the
callbacks themselves. A caller who leaves cancels the handler, as does the end of the `Tasks`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from gateway.domain.errors import DeadlineExceeded, TooLarge
from gateway.wire.exchange import Data, RequestHead, ServerExchange
from gateway.wire.fields import Fields, Pairs

_HELD_BYTES = 1 << 20
"""Of a body that is read in chunks, this much may wait for the reader: one window of HTTP/2."""

OnBug = Callable[[Exception], None]
"""Is told of an exception that no handler may raise, to log it."""


class Tasks:
    """Owns the tasks of handlers. Leaving it cancels those that still run, and waits for them."""

    def __init__(self, on_bug: OnBug) -> None:
        self.on_bug = on_bug
        self._running: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"Tasks(running={len(self._running)})"

    def __len__(self) -> int:
        return len(self._running)

    async def __aenter__(self) -> Tasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what still runs; returns when all of it has ended."""
        while running := list(self._running):
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work`, which answers for its own errors: what it raises goes to `on_bug`."""
        # The one place of the wire that makes tasks: they live in this set, and `aclose` ends them.
        # A TaskGroup would end all handlers with the first that has a bug.
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, Exception):
                raise error
            self.on_bug(error)

    def run(
        self,
        exchange: ServerExchange,
        body: Data | None,
        handler: Callable[[Awaited], Awaitable[None]],
    ) -> Awaited:
        """Serve one request by `handler`, within `Front.begin` and with what that was given. A
        handler that raises, or returns without an answer, is a bug: 500, or the answer broken
        off."""
        awaited = Awaited(exchange, body)
        exchange.sink = awaited
        awaited.task = self.start(self._serve(awaited, handler))
        return awaited

    async def _serve(self, awaited: Awaited, handler: Callable[[Awaited], Awaitable[None]]) -> None:
        try:
            await handler(awaited)
            if not awaited.is_answered:
                raise RuntimeError(f"{handler!r} has not answered {awaited!r}")
        except asyncio.CancelledError:
            awaited.break_off()
            raise
        except Exception as error:  # noqa: BLE001  the one place for bugs of these handlers
            self.on_bug(error)
            if awaited.is_started:
                awaited.break_off()
            else:
                awaited.respond(500, (), b"")


class Awaited:
    """One request, for a coroutine. It is the exchange's sink."""

    __slots__ = (
        "_exchange", "_held", "_held_bytes", "_is_accepted", "_is_complete", "_is_gone",
        "_is_paused", "_news", "head", "is_answered", "is_started", "peer", "task", "trailers",
    )  # fmt: skip

    def __init__(self, exchange: ServerExchange, body: Data | None) -> None:
        self._exchange = exchange
        self.head: RequestHead = exchange.head
        self.peer: str = exchange.peer
        self.task: asyncio.Task[None] | None = None
        self.trailers: Pairs = ()
        """The request's, once its body is complete."""
        self.is_started = False
        """Whether an answer has begun."""
        self.is_answered = False
        """Whether the answer is complete."""
        self._held: deque[Data] = deque(() if not body else (body,))
        self._held_bytes = len(body) if body else 0
        self._is_complete = body is not None
        self._is_accepted = body is not None
        self._is_paused = False
        self._is_gone = False
        self._news: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"Awaited({self.head.method} {self.head.path} from {self.peer})"

    # ---- reading

    async def body(self, limit_bytes: int, until: float) -> bytes:
        """All of the body, which must be here by the loop's time `until`.

        Raises:
            TooLarge: `too_large`; the rest is not read.
            DeadlineExceeded: `receive`.
        """
        length = self.head.content_length
        if length is not None and length > limit_bytes:
            raise _too_large(limit_bytes)
        pieces: list[Data] = []
        size = 0
        try:
            async with asyncio.timeout_at(None if self._is_complete else until):
                async for piece in self.chunks():
                    size += len(piece)
                    if size > limit_bytes:
                        raise _too_large(limit_bytes)
                    pieces.append(piece)
        except TimeoutError:
            raise DeadlineExceeded(
                "The deadline passed before the whole request had come", reason="receive"
            ) from None
        if len(pieces) == 1 and isinstance(pieces[0], bytes):
            return pieces[0]
        return b"".join(pieces)

    async def chunks(self) -> AsyncIterator[Data]:
        """The pieces of the body as they come; the caller is held back while none is asked for."""
        if not self._is_accepted:
            self._is_accepted = True
            self._exchange.accept_body()
        while True:
            while self._held:
                piece = self._held.popleft()
                self._held_bytes -= len(piece)
                yield piece
            if self._is_complete:
                return
            if self._is_paused:
                self._is_paused = False
                self._exchange.resume()
            await self._wait()

    # ---- answering

    def respond(
        self,
        status: int,
        fields: Sequence[Fields],
        body: Data,
        trailers: Sequence[Fields] | None = None,
    ) -> None:
        """Answer whole."""
        self.is_started = self.is_answered = True
        self._exchange.respond(status, fields, body, trailers)

    def start(self, status: int, fields: Sequence[Fields], length: int | None = None) -> None:
        """Begin an answer that follows in pieces."""
        self.is_started = True
        self._exchange.start(status, fields, length)

    async def write(self, data: Data) -> None:
        """Send a piece; waits while the caller does not read as fast."""
        while self._exchange.is_congested:
            await self._wait()
        self._exchange.write(data)

    def end(self, trailers: Sequence[Fields] | None = None) -> None:
        """The answer is complete."""
        self.is_answered = True
        self._exchange.end(trailers)

    def break_off(self) -> None:
        """Let the caller see that there is no (whole) answer; nothing where there is one."""
        if not self.is_answered and not self._is_gone:
            self.is_started = self.is_answered = True
            self._exchange.abort()

    # ---- RequestSink

    def on_data(self, data: Data) -> None:
        # A view would keep the connection's whole read buffer for as long as the piece waits.
        self._held.append(bytes(data) if isinstance(data, memoryview) else data)
        self._held_bytes += len(data)
        if self._held_bytes > _HELD_BYTES and not self._is_paused:
            self._is_paused = True
            self._exchange.pause()
        self._wake()

    def on_end(self, trailers: Pairs) -> None:
        self._is_complete = True
        self.trailers = trailers
        self._wake()

    def on_gone(self, cause: str) -> None:
        self._is_gone = True
        if self.task is not None and not self.is_answered:
            self.task.cancel(cause)

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


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"The request is larger than the {limit_bytes} bytes that are taken", reason="too_large"
    )
