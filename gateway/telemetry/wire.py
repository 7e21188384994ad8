"""Counts what happens on the callers' side of the wire."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from gateway.wire.settings import CAUSES

PROTOCOLS = ("h1", "h2")


class WireCounts:
    """wire.exchange.Watch. The series are there from the beginning, at 0, so that the first refusal
    is an increase for whoever watches."""

    def __init__(self, connections: Gauge, refused: Counter) -> None:
        self._connections = {protocol: connections.labels(protocol) for protocol in PROTOCOLS}
        self._refused = {cause: refused.labels(cause) for cause in CAUSES}

    def opened(self, protocol: str) -> None:
        """See wire.exchange.Watch."""
        self._connections[protocol].inc()

    def closed(self, protocol: str) -> None:
        """See wire.exchange.Watch."""
        self._connections[protocol].dec()

    def refused(self, cause: str) -> None:
        """See wire.exchange.Watch."""
        self._refused[cause].inc()
