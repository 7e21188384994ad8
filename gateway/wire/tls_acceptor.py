"""Accepts on one socket, and shakes hands before anybody else sees the connection.

The loops' own TLS servers say nothing of a handshake that failed, and call a protocol only after
one that did not: connections that hang in it could neither be bounded nor counted.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable

_AT_ONCE = 64
"""Connections accepted in one turn of the loop; each handshake costs about a millisecond."""

_PAUSE_S = 0.5
"""Wait after the process has run out of descriptors or memory. What asyncio waits is a second."""

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Secured(asyncio.Protocol):
    """The protocol of an accepted connection; `connection_made` is called after the handshake."""

    __slots__ = ("handshake", "is_secured")

    def __init__(self, is_secured: bool) -> None:
        self.is_secured = is_secured
        """Clear text, or the handshake is done."""
        self.handshake: asyncio.Task[None] | None = None
        """To be cancelled for an end before that."""


class TlsAcceptor:
    """One listening socket under TLS. Every handshake asks `tls` for the context that counts."""

    def __init__(
        self,
        sock: socket.socket,
        tls: Callable[[], ssl.SSLContext | None],
        handshake_timeout_s: float,
        admit: Callable[[], Secured | None],
        on_failed: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._tls = tls
        self._timeout_s = handshake_timeout_s
        self._admit = admit
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Accept no more. Handshakes under way go on."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._loop.remove_reader(self._sock.fileno())
                self._pause = self._loop.call_later(_PAUSE_S, self._resume)
                return
            protocol = self._admit()
            if protocol is None:
                accepted.close()
                continue
            accepted.setblocking(False)
            # Kept by the protocol, and cancelled by its `close`.
            protocol.handshake = self._loop.create_task(self._shake(protocol, accepted))

    async def _shake(self, protocol: Secured, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._tls(),
                ssl_handshake_timeout=self._timeout_s,
            )
        except OSError:  # An SSLError too, and the time being over.
            pass
        finally:
            # Also where the caller left in the middle of it, which raises nothing.
            if not protocol.is_secured:
                self._on_failed()
                protocol.connection_lost(None)
