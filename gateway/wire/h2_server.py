"""A caller's HTTP/2 connection on its transport."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import cast

from gateway.wire import h2_frames as h2
from gateway.wire.exchange import Front, Watch
from gateway.wire.h2_frames import H2Error
from gateway.wire.h2_outbox import outbox_of
from gateway.wire.h2_server_side import ServerSide
from gateway.wire.h2_transport import Pipe, peer_name
from gateway.wire.settings import ServerWireSettings

_log = logging.getLogger(__name__)
_rng = random.Random()

_MAX_STEP_S = 5.0
_MIN_STEP_S = 0.01
_STEPS = 4
"""Timeouts are looked at so many times within the shortest of them, but not for ever finer."""


class H2ServerConnection(asyncio.Protocol):
    """`ServerSide` on a transport: reads, flushes, one timer."""

    def __init__(
        self,
        front: Front,
        settings: ServerWireSettings,
        watch: Watch,
        *,
        is_tls: bool = False,
        on_lost: Callable[[H2ServerConnection], None] | None = None,
    ) -> None:
        self._front = front
        self._settings = settings
        self._watch = watch
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox_of(self._loop)
        self._pipe: Pipe | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_tls = is_tls
        self._step_s = _step_s(settings)
        self._side = ServerSide(front, settings, watch, self._wake, clock=self._loop.time, rng=_rng)
        self._receive = self._side.core.receive

    def __repr__(self) -> str:
        side = self._side
        return f"H2ServerConnection({side.peer}, {len(side.core.streams)} streams)"

    # ---- asyncio.Protocol --------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._side.peer = peer_name(transport)
        self._pipe = Pipe(transport, self._side.core, self._settings.write_high_bytes)
        self._watch.opened("h2")
        self._wake()  # the greeting may have been announced before there was where to write it
        self._timer = self._loop.call_later(self._step_s, self._tick)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        outbox = self._outbox
        outbox.depth += 1
        try:
            if not self._side.is_finished:
                self._receive(data)
        except H2Error as error:
            self._side.fail(error)
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
        self._side.is_finished = True
        self._side.core.lose_all("lost")
        self._watch.closed("h2")
        if self._on_lost is not None:
            self._on_lost(self)

    # ---- for the listener --------------------

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return not self._side.core.streams

    def drain(self) -> None:
        """Answer what is under way or on its way, then close."""
        self._side.drain()

    def retire(self) -> None:
        """Drain, and close after `age_grace_s`."""
        self._side.retire()

    def close(self) -> None:
        """Close now; requests under way are gone."""
        self._side.finish("closed")
        self.flush()
        if self._pipe is not None and self._pipe.is_paused:
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
            self._side.fail(error)
            pipe.flush()
        except Exception:  # noqa: BLE001  a bug of a sink's costs one connection
            self._break()
            pipe.flush()
        if self._side.is_finished:
            pipe.transport.close()
        elif pipe.is_paused:
            pipe.bound_backlog()

    def _break(self) -> None:
        _log.exception("request.bug")
        self._side.finish("bug", h2.INTERNAL_ERROR)

    def _tick(self) -> None:
        pipe = self._pipe
        if pipe is None:
            return
        now = self._loop.time()
        self._timer = self._loop.call_later(self._step_s, self._tick)
        if pipe.is_stuck(now, self._settings.write_timeout_s):
            if not self._side.is_finished:
                self._watch.refused("write_timeout")
                self._side.finish("write_timeout")
            pipe.transport.abort()
            return
        try:
            self._side.tick(now, is_deaf=pipe.is_deaf)
        except H2Error as error:
            self._side.fail(error)
        if self._side.is_finished:
            self.flush()


def _step_s(settings: ServerWireSettings) -> float:
    shortest = min(
        settings.head_timeout_s,
        settings.body_timeout_s,
        settings.write_timeout_s,
        settings.ping_interval_s,
        settings.ping_timeout_s,
        settings.age_grace_s,
        settings.max_connection_age_s or _MAX_STEP_S * _STEPS,
    )
    return min(_MAX_STEP_S, max(_MIN_STEP_S, shortest / _STEPS))
