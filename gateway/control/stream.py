"""The event stream (server-sent events, WHATWG HTML 9.2).

A reader is never waited for by anybody but its own task: what it has not taken yet is in the event
log, not in a queue of its own, and one that stops reading altogether is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import msgspec
from aiohttp import web

from gateway.control import views
from gateway.control.events import EventLog, EventReader, Lagging
from gateway.control.operations import STREAM
from gateway.domain.errors import GatewayError, Overloaded
from gateway.ports import Event


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Bounds of the event streams."""

    max_streams: int = 64
    """Streams at once. Each is a connection and a task; a console and a handful of terminals per
    person make this enough for a team, and more would be a leak."""

    heartbeat_s: float = 15.0
    """Seconds of silence after which a comment is sent, so that proxies (which often close after
    60 s) and readers know that the stream lives."""

    stall_s: float = 10.0
    """Seconds that one write may wait for the reader before the stream is cut."""

    retry_s: float = 1.0
    """What browsers are told to wait before they come back."""


class EventStreams:
    """All streams of one listener; `close` ends them."""

    def __init__(self, events: EventLog, settings: StreamSettings) -> None:
        self._events = events
        self._settings = settings
        self._open = 0
        self._closing = False

    def __repr__(self) -> str:
        return f"EventStreams(open={self._open})"

    @property
    def open(self) -> int:
        """Streams now."""
        return self._open

    @property
    def is_closing(self) -> bool:
        """Whether the listener is stopping."""
        return self._closing

    def close(self) -> None:
        """End all event streams, so that the listener can stop."""
        self._closing = True
        self._events.wake()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Count one stream while it lasts.

        Raises:
            Overloaded: there are as many streams as there may be (`too_many_streams`).
        """
        if self._open >= self._settings.max_streams:
            raise Overloaded(
                f"There are {self._open} streams of events or logs already; close some, or poll.",
                reason="too_many_streams",
                retry_after_s=5.0,
            )
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def serve(
        self, request: web.Request, after: int | None, model: str | None
    ) -> web.StreamResponse:
        """Answer with events after a position (None: from now on) until the reader leaves.

        Raises:
            Overloaded: see `slot`.
        """
        with self.slot():
            newest = await self._events.newest()
            # A position of another database would wait for numbers that may never come.
            reader = self._events.reader(newest if after is None else min(after, newest))
            out = await begin(request, STREAM, self._settings.stall_s)
            with suppress(ReaderGone):
                await out.write(f"retry: {int(self._settings.retry_s * 1000)}\n\n".encode())
                try:
                    await self._send_all(out, reader, model)
                except Lagging as lag:
                    words = "This reader was too slow; come back with Last-Event-ID to read on."
                    await out.write(_block(_notice("stream.cut", lag.after, words)))
                except GatewayError as error:  # the store; too late for a status
                    await out.write(_block(_notice("stream.cut", reader.position, error.message)))
                await out.end()
            return out.response

    async def _send_all(self, out: StreamOut, reader: EventReader, model: str | None) -> None:
        while not self._closing:
            position = reader.position
            batch = await reader.read()
            if not batch:
                await self._pause(out, reader)
                continue
            if position and batch[0].seq > position + 1:
                words = f"Events {position + 1} to {batch[0].seq - 1} are no longer kept."
                await out.write(_block(_notice("stream.gap", position, words)))
            for event in batch:
                if model in (None, event.model):
                    await out.write(_block(event, event.seq))

    async def _pause(self, out: StreamOut, reader: EventReader) -> None:
        try:
            async with asyncio.timeout(self._settings.heartbeat_s):
                await reader.wait()
        except TimeoutError:
            await out.write(b": still here\n\n")


class ReaderGone(Exception):
    """The client has left, or has stopped reading and was cut."""


class StreamOut:
    """An answer that goes on; a reader that stalls is cut instead of waited for."""

    def __init__(self, request: web.Request, response: web.StreamResponse, stall_s: float) -> None:
        self.response = response
        self._request = request
        self._stall_s = stall_s

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its connection."""
        transport = self._request.transport
        return transport is None or transport.is_closing()

    async def write(self, data: bytes) -> None:
        """Send, waiting for the reader at most `stall_s`. Raises ReaderGone."""
        try:
            async with asyncio.timeout(self._stall_s):
                await self.response.write(data)
        except TimeoutError as error:
            transport = self._request.transport
            if transport is not None:
                transport.abort()
            raise ReaderGone from error
        except ConnectionError as error:
            raise ReaderGone from error

    async def end(self) -> None:
        """Say that this was all. Raises ReaderGone."""
        try:
            async with asyncio.timeout(self._stall_s):
                await self.response.write_eof()
        except (TimeoutError, ConnectionError) as error:
            raise ReaderGone from error


async def begin(request: web.Request, media: str, stall_s: float) -> StreamOut:
    """Send the head of an answer that goes on."""
    response = web.StreamResponse(
        headers={"Content-Type": media, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    return StreamOut(request, response, stall_s)


def _block(event: Event, position: int | None = None) -> bytes:
    """One server-sent event. JSON has no raw newlines, so `data` is one line."""
    at = f"id: {position}\n" if position is not None else ""
    kind = "".join(event.type.splitlines())
    data = msgspec.json.encode(views.event(event))
    return f"{at}event: {kind}\ndata: ".encode() + data + b"\n\n"


def _notice(kind: str, position: int, words: str) -> Event:
    """An event about the stream itself: not kept, and sent without an id to resume from."""
    return Event(kind, "", words, seq=position)
