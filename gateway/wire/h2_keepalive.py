"""Asks a silent peer whether it lives: a machine that lost power closes nothing."""

from __future__ import annotations

from gateway.wire.h2_core import Core
from gateway.wire.h2_frames import ping

_ALIVE = b"alive?\0\0"
_IDLE_RATIO = 10
"""Connections without requests are asked so many times more seldom: nobody waits for them."""


class Keepalive:
    """PING after silence, for one connection."""

    __slots__ = (
        "_again_s",
        "_asked_at",
        "_core",
        "_heard_at",
        "_interval_s",
        "_last",
        "_timeout_s",
    )

    def __init__(
        self, core: Core, interval_s: float, timeout_s: float, again_s: float = 0.0
    ) -> None:
        self._core = core
        self._interval_s = interval_s
        self._again_s = again_s
        self._last: float | None = None
        """When it was last asked, answered or not."""
        self._timeout_s = timeout_s
        self._heard_at: float | None = None
        self._asked_at: float | None = None

    def is_dead(self, now: float) -> bool:
        """Ask if it is time to; whether the peer has left a question unanswered for too long."""
        core = self._core
        if core.heard or self._heard_at is None:
            core.heard = False
            self._heard_at = now
            self._asked_at = None
        elif self._asked_at is not None:
            return now - self._asked_at > self._timeout_s
        else:
            interval_s = self._interval_s * (1 if core.streams else _IDLE_RATIO)
            is_early = self._last is not None and now - self._last <= self._again_s
            if now - self._heard_at > interval_s and not is_early:
                self._asked_at = self._last = now
                core.sender.control(ping(_ALIVE))
        return False
