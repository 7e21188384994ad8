"""Accepts connections and finds out what they speak: HTTP/1.1 and HTTP/2 on every port.

In clear text the first bytes decide (HTTP/2 without TLS begins with a preface that no HTTP/1.1
request has, RFC 9113 section 3.4), under TLS what ALPN agreed on. Until that is known a connection
belongs to a `_Newcomer`; then to the protocol's own class, which the bytes go to directly.

All sockets of one listener share the bound on connections, so a process has one listener, however
many ports it has.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from gateway.wire.exchange import Front, Watch
from gateway.wire.h1_server import H1ServerConnection
from gateway.wire.h2_server import H2ServerConnection
from gateway.wire.settings import ServerWireSettings
from gateway.wire.tls_acceptor import Secured, TlsAcceptor

BACKLOG = 4096
"""Connections that may wait to be accepted. Linux' own default bound (net.core.somaxconn): a worker
that is being replaced leaves them to its successor for some tenths of a second."""

_PREFACE = b"PRI * HTTP/2.0"
"""The first line of HTTP/2's preface. The rest of it is the connection's to check."""

_KEEPALIVE_S = 60
"""Seconds of silence after which the kernel asks whether a caller's machine is still there (Linux'
own default is two hours). HTTP/2 asks by itself; HTTP/1.1 has no way to."""

_LOOK_S = 0.02
"""How often a stopping listener looks whether its connections are done."""

_LOST_S = 1.0
"""How long closed connections may take to be gone. They take one turn of the loop."""


class Connection(Protocol):
    """What the listener knows of a connection, whatever it speaks."""

    @property
    def is_idle(self) -> bool: ...
    def drain(self) -> None: ...
    def close(self) -> None: ...


class Unwatched:
    """exchange.Watch for whoever does not count."""

    def opened(self, protocol: str) -> None:
        """See exchange.Watch."""

    def closed(self, protocol: str) -> None:
        """See exchange.Watch."""

    def refused(self, cause: str) -> None:
        """See exchange.Watch."""


class Listener:
    """Serves a front on listening sockets."""

    def __init__(
        self,
        front: Front,
        settings: ServerWireSettings | None = None,
        *,
        watch: Watch | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.front = front
        self.settings = settings or ServerWireSettings()
        self.watch: Watch = watch or Unwatched()
        self.tls = tls
        """May be replaced by another context, for handshakes from then on; not by None."""
        self.is_stopped = False
        self._servers: dict[socket.socket, asyncio.AbstractServer | TlsAcceptor] = {}
        self._connections: dict[Connection, asyncio.Transport | None] = {}
        self._fewer = asyncio.Event()

    def __repr__(self) -> str:
        return f"Listener({len(self._servers)} sockets, {len(self._connections)} connections)"

    @property
    def connections(self) -> int:
        """Connections of callers now, those that have said nothing yet included."""
        return len(self._connections)

    async def start(self, sock: socket.socket) -> None:
        """Accept on a bound socket, which is the listener's from here on. May be called for
        several. A listener that has been stopped closes it."""
        sock.setblocking(False)
        # Accepted sockets inherit these. An answer is written whole, so there is nothing to wait
        # for; and a caller whose machine has gone says nothing any more.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        if self.tls is None:
            self._servers[sock] = await asyncio.get_running_loop().create_server(
                lambda: _Newcomer(self), sock=sock, backlog=BACKLOG
            )
        else:
            self._servers[sock] = TlsAcceptor(
                sock,
                lambda: self.tls,
                self.settings.head_timeout_s,
                self._admitted,
                self._on_handshake,
            )
        if self.is_stopped:
            self.leave(sock)

    def leave(self, sock: socket.socket) -> None:
        """Accept no more on one socket; connections that came over it stay."""
        self._servers.pop(sock).close()

    async def stop(self, drain_s: float, *, patience_s: float = 0.0) -> None:
        """Accept no more, let requests under way finish within `drain_s`, then close everything.

        `patience_s` is how long connections without a request are kept so that the next one, which
        may be on its way, is answered too (and told that it is the last). HTTP/1.1 has no other way
        to end a connection without a race. 0 closes them at once.
        """
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        self.is_stopped = True
        for sock in list(self._servers):
            self.leave(sock)
        # What the kernel had handed over already gets its protocol in this turn or the next.
        await asyncio.sleep(0)
        await self._drained(began_at + min(patience_s, drain_s), began_at + drain_s)
        for connection in list(self._connections):
            connection.close()
        gone_by = loop.time() + _LOST_S
        while self._connections and loop.time() < gone_by:
            await self._look_again()
            # A caller who does not read what was written to it would keep it open.
            for transport in self._connections.values():
                if transport is not None:
                    transport.abort()

    async def _drained(self, patient_until: float, until: float) -> None:
        loop = asyncio.get_running_loop()
        told: set[Connection] = set()
        while self._connections and (now := loop.time()) < until:
            for connection in [c for c in self._connections if c not in told]:
                if now < patient_until and isinstance(connection, H1ServerConnection):
                    connection.is_closing = True
                    continue
                told.add(connection)
                connection.drain()
            if now >= patient_until and all(c.is_idle for c in self._connections):
                return
            await self._look_again()

    async def _look_again(self) -> None:
        """When a connection has gone, or soon: one that has become idle does not say so."""
        self._fewer.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._fewer.wait()

    # ---- for newcomers --------------------

    def _admits(self, newcomer: _Newcomer) -> bool:
        if len(self._connections) >= self.settings.max_connections:
            self.watch.refused("connections_limit")
            return False
        self._connections[newcomer] = newcomer.transport
        return True

    def _admitted(self) -> _Newcomer | None:
        newcomer = _Newcomer(self)
        return newcomer if self._admits(newcomer) else None

    def _on_handshake(self) -> None:
        self.watch.refused("tls_handshake")

    def _lost(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._fewer.set()

    def _become(
        self, newcomer: _Newcomer, transport: asyncio.Transport, first: bytes, is_h2: bool
    ) -> None:
        """Hand a connection, and what it has said, to the class of its protocol."""
        kind: Callable[..., H1ServerConnection | H2ServerConnection]
        kind = H2ServerConnection if is_h2 else H1ServerConnection
        connection = kind(
            self.front,
            self.settings,
            self.watch,
            is_tls=self.tls is not None,
            on_lost=self._lost,
        )
        self._connections.pop(newcomer, None)
        self._connections[connection] = transport
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if first:
            connection.data_received(first)


class _Newcomer(Secured):
    """A connection that has not said yet what it speaks."""

    __slots__ = ("_first", "_listener", "_timer", "transport")

    def __init__(self, listener: Listener) -> None:
        super().__init__(is_secured=listener.tls is None)
        self._listener = listener
        self._first = b""
        self.transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """It has sent nothing that could be a request."""
        return self.is_secured and not self._first

    def drain(self) -> None:
        """Nothing has to be said: as soon as it is a connection, that one is drained."""

    def close(self) -> None:
        """End it now."""
        if self.transport is not None:
            self.transport.abort()
        elif self.handshake is not None:
            self.handshake.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio.Protocol. Under TLS the bound has been looked at before the handshake."""
        self.transport = cast(asyncio.Transport, transport)
        listener = self._listener
        if self.is_secured and not listener._admits(self):
            transport.close()
            return
        self.is_secured = True
        secured = transport.get_extra_info("ssl_object")
        agreed = None if secured is None else secured.selected_alpn_protocol()
        if agreed is not None:
            self._decide(is_h2=agreed == "h2")
            return
        self._timer = asyncio.get_running_loop().call_later(
            listener.settings.head_timeout_s, self._on_timeout
        )

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        self._first = first = self._first + data if self._first else data
        if first.startswith(_PREFACE):
            self._decide(is_h2=True)
        elif not _PREFACE.startswith(first):
            self._decide(is_h2=False)

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio.Protocol."""
        if self._timer is not None:
            self._timer.cancel()
        self._listener._lost(self)

    def _decide(self, *, is_h2: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        transport = cast(asyncio.Transport, self.transport)
        self._listener._become(self, transport, self._first, is_h2)

    def _on_timeout(self) -> None:
        self._listener.watch.refused("head_timeout")
        self.close()
