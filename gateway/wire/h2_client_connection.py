"""A connection to an HTTP/2 server on its transport."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, cast

from gateway.wire import h2_frames as h2
from gateway.wire.h2_client_side import ClientSide
from gateway.wire.h2_client_stream import ClientStream
from gateway.wire.h2_frames import H2Error
from gateway.wire.h2_outbox import outbox_of
from gateway.wire.h2_transport import Pipe, peer_name
from gateway.wire.settings import ClientWireSettings

_log = logging.getLogger(__name__)

_MAX_STEP_S = 5.0
_MIN_STEP_S = 0.01
_STEPS = 4


class Owner(Protocol):
    """Who uses a connection."""

    def on_made(self, connection: H2ClientConnection) -> None: ...
    def on_lost(self, connection: H2ClientConnection) -> None: ...
    def send_waiting(self) -> None:
        """There may be room for requests that wait."""
        ...


class H2ClientConnection(asyncio.Protocol):
    """`ClientSide` on a transport: reads, flushes, one timer."""

    def __init__(
        self,
        settings: ClientWireSettings,
        owner: Owner,
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox_of(self._loop)
        self._pipe: Pipe | None = None
        self._timer: asyncio.TimerHandle | None = None
        shortest = min(settings.ping_interval_s, settings.ping_timeout_s)
        self._step_s = min(_MAX_STEP_S, max(_MIN_STEP_S, shortest / _STEPS))
        self._peer = ""
        self.side = ClientSide(settings, self._wake, owner.send_waiting)
        self.streams = self.side.core.streams
        """Requests under way."""
        self._receive = self.side.core.receive

    def __repr__(self) -> str:
        return f"H2ClientConnection({self._peer}, {len(self.streams)} streams)"

    # ---- asyncio.Protocol --------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._peer = peer_name(transport)
        self.side.core.now = self._loop.time()
        self._pipe = Pipe(transport, self.side.core, self._settings.write_high_bytes)
        self._timer = self._loop.call_later(self._step_s, self._tick)
        self._wake()  # the greeting was announced before there was where to write it
        spoken = transport.get_extra_info("ssl_object")
        if spoken is not None and spoken.selected_alpn_protocol() != "h2":
            self.side.fail(H2Error(h2.PROTOCOL_ERROR, "TLS agreed on another protocol"))
        self._owner.on_made(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        outbox = self._outbox
        outbox.depth += 1
        try:
            if not self.side.is_finished:
                self._receive(data)
        except H2Error as error:
            self.side.fail(error)
        except Exception:  # noqa: BLE001  a bug of a sink's costs one connection
            self._break()
        finally:
            outbox.leave()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._pipe is not None:
            self._pipe.pause()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._pipe is not None:
            self._pipe.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._timer is not None:
            self._timer.cancel()
        self._pipe = None
        self.side.is_finished = self.side.is_leaving = True
        self.side.core.lose_all("lost")
        self._owner.on_lost(self)

    # ---- for the client --------------------

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent."""
        return self.side.has_room

    def open(self, stream: ClientStream) -> None:
        """Send a request. There must be room."""
        self.side.open(stream)

    def leave(self) -> None:
        """Send nothing new, and close when all answers are here."""
        self.side.leave()

    def close(self) -> None:
        """Close now; requests under way fail."""
        self.side.finish()
        self.flush()
        if self._pipe is not None and self._pipe.is_paused:
            self.abort()

    def abort(self) -> None:
        """Close at once, whatever has been written."""
        if self._pipe is not None:
            self._pipe.transport.abort()

    # ---- writing --------------------

    def _wake(self) -> None:
        self._outbox.add(self)

    def flush(self) -> None:
        """Settle what happened and write what came of it."""
        pipe = self._pipe
        if pipe is None:
            return
        try:
            pipe.flush()
        except H2Error as error:
            self.side.fail(error)
            pipe.flush()
        except Exception:  # noqa: BLE001  a bug of a sink's costs one connection
            self._break()
            pipe.flush()
        if self.side.is_finished:
            pipe.transport.close()
        elif pipe.is_paused and pipe.is_backlogged:
            # A server that asks (PING, SETTINGS) and does not read our answers. Not reading on, as
            # our own server does, could have both sides wait for each other.
            self.side.finish("control_flood")
            pipe.transport.abort()

    def _break(self) -> None:
        _log.exception("answer.bug")
        self.side.finish("bug", h2.INTERNAL_ERROR)

    def _tick(self) -> None:
        if self._pipe is None:
            return
        self._timer = self._loop.call_later(self._step_s, self._tick)
        try:
            self.side.tick(self._loop.time())
        except H2Error as error:
            self.side.fail(error)
            self.flush()
            if self._pipe is not None:
                self._pipe.transport.abort()
