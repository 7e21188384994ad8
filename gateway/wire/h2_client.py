"""HTTP/2 connections to servers, kept by address: few, with many requests on each.

A request goes over the connection with the fewest; another is opened when that one has
`h2_streams`. A connection that fails is made anew with the next request, at once: whoever asked has
other servers to ask, and knows better than a backoff here when to come back.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence

from gateway.wire.exchange import AnswerSink, Data, WireError
from gateway.wire.fields import Fields, hpack_field
from gateway.wire.h2_client_connection import H2ClientConnection
from gateway.wire.h2_client_stream import ClientStream
from gateway.wire.settings import ClientWireSettings

_MAX_PREFIXES = 256
"""Encoded request lines that are kept for one address. More methods than any service has."""

_LOST_S = 1.0
"""How long closed connections may take to be gone. They take one turn of the loop."""


class _Place:
    """One address."""

    __slots__ = (
        "address", "client", "connecting", "connections", "is_kept", "prefixes", "waiting",
    )  # fmt: skip

    def __init__(self, client: Http2Client, address: str) -> None:
        self.client = client
        self.address = address
        self.connections: list[H2ClientConnection] = []
        self.connecting = 0
        self.waiting: deque[ClientStream] = deque()
        self.prefixes: dict[tuple[str, str], bytes] = {}
        """The pseudo-fields of a method and a path, encoded."""
        self.is_kept = True

    def on_made(self, connection: H2ClientConnection) -> None:
        """See Owner."""
        self.connections.append(connection)

    def on_lost(self, connection: H2ClientConnection) -> None:
        """See Owner."""
        self.connections.remove(connection)
        self.client.on_lost(self)

    def best(self) -> H2ClientConnection | None:
        """The connection with the fewest requests that takes one more."""
        best, fewest = None, -1
        for connection in self.connections:
            count = len(connection.streams)
            if (best is None or count < fewest) and connection.has_room:
                best, fewest = connection, count
        return best

    def send_waiting(self) -> None:
        """Send what waits, as far as there is room."""
        waiting = self.waiting
        while waiting:
            if waiting[0].is_over:
                waiting.popleft()
                continue
            connection = self.best()
            if connection is None:
                return
            connection.open(waiting.popleft())

    def fail_waiting(self, error: WireError) -> None:
        """No connection will come."""
        waiting, self.waiting = self.waiting, deque()
        for stream in waiting:
            stream.fail(error)


class Http2Client:
    """exchange.Client over HTTP/2. Made and used within one running loop."""

    def __init__(
        self, settings: ClientWireSettings | None = None, *, ssl: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings or ClientWireSettings()
        self._ssl = ssl
        self._loop = asyncio.get_running_loop()
        self._places: dict[str, _Place] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._fewer = asyncio.Event()
        """Set whenever a connection is gone."""

    def __repr__(self) -> str:
        count = sum(len(place.connections) for place in self._places.values())
        return f"Http2Client({len(self._places)} addresses, {count} connections)"

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
    ) -> ClientStream:
        """See exchange.Client. HTTP/2 frames a body by itself, so Content-Length is written only
        where `length` is given: blocks that do not depend on the body repeat, and cost less.

        Raises:
            ValueError: the path or a field holds what it may not.
        """
        place = self._places.get(address)
        if place is None:
            place = self._places[address] = _Place(self, address)
        prefix = place.prefixes.get((method, path)) or self._prefix(place, method, path)
        block = prefix + b"".join([f.h2 for f in fields])
        if length is not None:
            block += hpack_field("content-length", str(length))
        stream = ClientStream(
            sink, block, body, self._settings.write_high_bytes, is_head_request=method == "HEAD"
        )
        place.is_kept = True
        connection = place.best()
        if connection is None or place.waiting:
            self._wait(place, stream)
        else:
            connection.open(stream)
            if len(connection.streams) >= self._settings.h2_streams:
                self._grow(place)
        return stream

    def keep(self, addresses: set[str]) -> None:
        """See exchange.Client."""
        for address in [a for a in self._places if a not in addresses]:
            place = self._places[address]
            place.is_kept = False
            if not place.waiting:
                for connection in list(place.connections):
                    connection.leave()
            self._tidy(place)

    def drop(self, address: str) -> None:
        """See exchange.Client."""
        place = self._places.get(address)
        if place is None:
            return
        for connection in list(place.connections):
            connection.abort()
        place.fail_waiting(WireError("connect_refused", f"{address} was given up", sent=False))

    async def aclose(self) -> None:
        """See exchange.Client."""
        self._is_closed = True
        for task in self._connecting:
            task.cancel()
        for place in list(self._places.values()):
            place.fail_waiting(WireError("reset", "the client was closed", sent=False))
            for connection in list(place.connections):
                connection.close()
        if self._connecting:
            await asyncio.wait(self._connecting)
        try:
            async with asyncio.timeout(_LOST_S):
                await self._lost_all()
        except TimeoutError:
            # Servers that do not take even a goodbye.
            for place in self._places.values():
                for connection in list(place.connections):
                    connection.abort()
            await self._lost_all()
        self._places.clear()

    async def _lost_all(self) -> None:
        while any(place.connections for place in self._places.values()):
            self._fewer.clear()
            await self._fewer.wait()

    # ---- connections --------------------

    def _prefix(self, place: _Place, method: str, path: str) -> bytes:
        if len(place.prefixes) >= _MAX_PREFIXES:
            place.prefixes.clear()
        scheme = "http" if self._ssl is None else "https"
        pairs = (
            (":method", method),
            (":scheme", scheme),
            (":path", path),
            (":authority", place.address),
        )
        prefix = place.prefixes[method, path] = Fields(pairs).h2
        return prefix

    def _wait(self, place: _Place, stream: ClientStream) -> None:
        """Keep a request until there is a connection for it."""
        if self._is_closed or len(place.waiting) >= self._settings.h2_waiting:
            message = "the client is closed" if self._is_closed else "too many requests wait"
            error = WireError("connect_refused", f"{place.address}: {message}", sent=False)
            self._loop.call_soon(stream.fail, error)  # not before `request` has returned
            return
        place.waiting.append(stream)
        if not place.connecting:
            self._grow(place)

    def _grow(self, place: _Place) -> None:
        """One connection more, if there may be one."""
        if place.connecting or self._is_closed:
            return
        usable = [c for c in place.connections if not c.side.is_leaving]
        if len(usable) >= self._settings.h2_connections or any(
            len(c.streams) < self._settings.h2_streams and c.has_room for c in usable
        ):
            return
        place.connecting += 1
        # The one task of this client: in `_connecting` until it is done, cancelled by `aclose`.
        task = self._loop.create_task(self._connect(place))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, place: _Place) -> None:
        error: WireError | None = None
        try:
            await self._open(place)
        except TimeoutError:
            message = f"{place.address} does not accept a connection"
            error = WireError("connect_timeout", message, sent=False)
        except (OSError, ValueError, OverflowError) as refusal:  # or no host, or no port
            error = WireError("connect_refused", f"{place.address}: {refusal}", sent=False)
        except WireError as refusal:
            error = refusal
        finally:
            place.connecting -= 1
        if error is not None and not any(not c.side.is_leaving for c in place.connections):
            place.fail_waiting(error)
        place.send_waiting()
        if error is None and place.waiting:
            self._grow(place)
        self._tidy(place)

    async def _open(self, place: _Place) -> None:
        host, _, port = place.address.rpartition(":")
        async with asyncio.timeout(self._settings.connect_timeout_s):
            _, connection = await self._loop.create_connection(
                lambda: H2ClientConnection(self._settings, place),
                host.strip("[]"),
                int(port),
                ssl=self._ssl,
            )
        if connection.side.is_finished:
            message = f"{place.address}: the connection was closed, or is no HTTP/2"
            raise WireError("bad_answer", message, sent=False)
        if not place.is_kept and not place.waiting:
            connection.leave()

    def on_lost(self, place: _Place) -> None:
        """One of the place's connections is gone."""
        self._fewer.set()
        if place.waiting and not self._is_closed:
            place.send_waiting()
            if place.waiting:
                self._grow(place)
        self._tidy(place)

    def _tidy(self, place: _Place) -> None:
        """Forget an address that has left, once nothing is there any more."""
        if place.is_kept or place.connections or place.connecting or place.waiting:
            return
        if self._places.get(place.address) is place:
            del self._places[place.address]
