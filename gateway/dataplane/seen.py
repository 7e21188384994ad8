"""What is written down of each request: its metrics, its access line, its timing."""

from __future__ import annotations

import asyncio
from time import perf_counter

from gateway.dataplane.plane import Admitted, Dataplane
from gateway.telemetry import log
from gateway.telemetry.metrics import UNKNOWN_MODEL

VERSION = "x-gateway-version"
"""Header and trailer: the version that answered."""

SERVER_TIMING = "server-timing"


class Seen:
    """One request, from its first byte to its answer."""

    __slots__ = ("_plane", "_protocol", "ask", "begun", "code", "model", "reason", "started_at")

    def __init__(self, plane: Dataplane, protocol: str, code_if_left: str) -> None:
        self._plane = plane
        self._protocol = protocol
        self.begun = perf_counter()
        self.started_at = asyncio.get_running_loop().time()
        self.code = code_if_left
        """What is counted when the caller leaves before the answer."""
        self.model = ""
        self.reason = ""
        self.ask: Admitted | None = None

    def finish(self, what: str) -> None:
        """Count it, and write its line where that is asked for."""
        plane, ask = self._plane, self.ask
        took_s = perf_counter() - self.begun
        version = "" if ask is None or ask.answered_by is None else str(ask.answered_by)
        model = self.model if self.model in plane.table.models else UNKNOWN_MODEL
        plane.metrics.answered(model, version, self._protocol, self.code, took_s)
        if plane.settings.access_log:
            log.event(
                "request.answered",
                protocol=self._protocol,
                what=what,
                model=self.model,
                version=version,
                code=self.code,
                reason=self.reason,
                took_s=round(took_s, 6),
                attempts=0 if ask is None else len(ask.attempts) + (ask.answered_by is not None),
            )


def server_timing(ask: Admitted) -> str:
    """`queue`: until the first call; `upstream`: in calls; `gateway`: the rest. Milliseconds, as
    the header's own specification wants them."""
    queue_s = ask.sent - ask.begun
    gateway_s = perf_counter() - ask.begun - queue_s - ask.upstream_s
    return (
        f"queue;dur={queue_s * 1e3:.3f}, upstream;dur={ask.upstream_s * 1e3:.3f}, "
        f"gateway;dur={max(0.0, gateway_s) * 1e3:.3f}"
    )
