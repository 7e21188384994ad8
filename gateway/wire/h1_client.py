"""HTTP/1.1 connections to servers, kept by address.

The connection that was used last is used first, so that what is not needed any more grows old and
is closed. An address that has left (`keep`) gets no new exchange of its own accord: its connections
close when they are done, so none outlives its server and is taken for a newcomer on the same port.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence

from gateway.wire.exchange import AnswerSink, Data, WireError
from gateway.wire.fields import Fields
from gateway.wire.h1_client_connection import H1ClientConnection, H1ClientExchange, request_head
from gateway.wire.settings import ClientWireSettings

_MAX_WAITING = 16 * 1024
"""Requests that wait for a connection to one address. Admission bounds them sooner; this bounds
them where there is none."""


class _Place:
    """One address."""

    __slots__ = ("connecting", "idle", "is_kept", "open", "waiting")

    def __init__(self) -> None:
        self.idle: list[H1ClientConnection] = []
        self.open: set[H1ClientConnection] = set()
        self.connecting = 0
        self.waiting: deque[tuple[H1ClientExchange, Data | None]] = deque()
        self.is_kept = True


class Http1Client:
    """exchange.Client over HTTP/1.1. Made and used within one running loop."""

    def __init__(
        self, settings: ClientWireSettings | None = None, *, ssl: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings or ClientWireSettings()
        self._ssl = ssl
        self._places: dict[str, _Place] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._fewer = asyncio.Event()
        """Set whenever a connection is gone."""

    def __repr__(self) -> str:
        count = sum(len(place.open) for place in self._places.values())
        return f"Http1Client({len(self._places)} addresses, {count} connections)"

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
    ) -> H1ClientExchange:
        """See exchange.Client.

        Raises:
            ValueError: the path or a field holds what it may not.
        """
        if body is not None:
            has_none = not body and method in ("GET", "HEAD", "OPTIONS", "DELETE")
            framing = b"" if has_none else b"content-length: %d\r\n" % len(body)
        elif length is not None:
            framing = b"content-length: %d\r\n" % length
        else:
            framing = b"transfer-encoding: chunked\r\n"
        head = request_head(address, method, path, fields, framing)
        exchange = H1ClientExchange(address, sink, head, is_head=method == "HEAD")
        exchange.is_sent = body is not None
        exchange.is_chunked = body is None and length is None
        place = self._places.get(address)
        if place is None:
            place = self._places[address] = _Place()
        place.is_kept = True
        while place.idle:
            connection = place.idle.pop()
            if connection.is_open:
                connection.begin(exchange, body)
                return exchange
        self._wait(address, place, exchange, body)
        return exchange

    def keep(self, addresses: set[str]) -> None:
        """See exchange.Client."""
        for address in [a for a in self._places if a not in addresses]:
            place = self._places[address]
            place.is_kept = False
            for connection in place.idle:
                connection.close()
            place.idle.clear()
            if not place.open and not place.connecting and not place.waiting:
                del self._places[address]

    def drop(self, address: str) -> None:
        """See exchange.Client."""
        place = self._places.get(address)
        if place is None:
            return
        for connection in list(place.open):
            connection.close()
        waiting, place.waiting = place.waiting, deque()
        for exchange, _ in waiting:
            exchange.fail(WireError("connect_refused", f"{address} was given up", sent=False))

    async def aclose(self) -> None:
        """See exchange.Client."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._connecting:
            task.cancel()
        for place in self._places.values():
            for connection in list(place.open):
                connection.close()
            while place.waiting:
                exchange, _ = place.waiting.popleft()
                exchange.fail(WireError("reset", "the client was closed", sent=False))
        if self._connecting:
            await asyncio.wait(self._connecting)
        while any(place.open for place in self._places.values()):
            self._fewer.clear()
            await self._fewer.wait()
        self._places.clear()

    # ---- connecting --------------------

    def _wait(
        self, address: str, place: _Place, exchange: H1ClientExchange, body: Data | None
    ) -> None:
        if self._is_closed or len(place.waiting) >= _MAX_WAITING:
            why = "the client is closed" if self._is_closed else "too many requests wait for it"
            error = WireError("connect_refused", f"{address}: {why}", sent=False)
            asyncio.get_running_loop().call_soon(exchange.fail, error)
            return
        place.waiting.append((exchange, body))
        self._connect_more(address, place)

    def _connect_more(self, address: str, place: _Place) -> None:
        """As many connections as there are requests that wait, within the bound."""
        room = self._settings.max_connections - len(place.open) - place.connecting
        if place.connecting < len(place.waiting) and room > 0:
            place.connecting += 1
            # Owned here: kept in `_connecting`, cancelled and awaited by `aclose`.
            task = asyncio.get_running_loop().create_task(self._connect(address, place))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, address: str, place: _Place) -> None:
        loop = asyncio.get_running_loop()
        host, _, port = address.rpartition(":")
        error: WireError | None = None
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: H1ClientConnection(address, self._settings, self._freed, self._lost),
                    host.strip("[]"),
                    int(port),
                    ssl=self._ssl,
                )
        except TimeoutError:
            error = WireError(
                "connect_timeout", f"{address} did not accept a connection in time", sent=False
            )
        except (OSError, ValueError, OverflowError) as failure:  # or no host, or no port
            words = getattr(failure, "strerror", None) or str(failure)
            error = WireError(
                "connect_refused", f"{address} cannot be reached: {words}", sent=False
            )
        finally:
            place.connecting -= 1
        if error is not None:
            # Everything that waits would run into the same, and there may be another server to ask.
            failed, place.waiting = place.waiting, deque()
            for exchange, _ in failed:
                exchange.fail(error)
            return
        if self._is_closed:
            connection.close()
            return
        place.open.add(connection)
        self._freed(connection)

    # ---- for the connections --------------------

    def _freed(self, connection: H1ClientConnection) -> None:
        place = self._places.get(connection.address)
        if place is None or connection not in place.open:
            connection.close()
            return
        while place.waiting:
            exchange, body = place.waiting.popleft()
            if not exchange.is_over:
                connection.begin(exchange, body)
                return
        if not place.is_kept:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        place.idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._settings.keepalive_s / 2, self._sweep)

    def _lost(self, connection: H1ClientConnection) -> None:
        place = self._places.get(connection.address)
        if place is None:
            return
        place.open.discard(connection)
        self._fewer.set()
        if connection in place.idle:
            place.idle.remove(connection)
        if place.waiting and not self._is_closed:
            self._connect_more(connection.address, place)
        elif not place.is_kept and not place.open and not place.connecting:
            self._places.pop(connection.address, None)

    def _sweep(self) -> None:
        """Close what nobody has used for a while."""
        self._sweeper = None
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._settings.keepalive_s
        left = False
        for place in self._places.values():
            for connection in [c for c in place.idle if c.idle_since < oldest]:
                place.idle.remove(connection)
                connection.close()
            left = left or bool(place.idle)
        if left:
            self._sweeper = loop.call_later(self._settings.keepalive_s / 2, self._sweep)
