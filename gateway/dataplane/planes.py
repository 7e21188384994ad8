"""All data planes of one gateway: in this process, or in workers that share its ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from gateway.core.route import RoutingTable
from gateway.dataplane.addresses import reserve, shown
from gateway.dataplane.fronts import Upstreams, background, serving
from gateway.dataplane.inflight import Use
from gateway.dataplane.parent import WORKER_COMMAND, WorkerPlanes
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.settings import DataplaneSettings
from gateway.ports import Reloader
from gateway.telemetry import Metrics, watch_loop_lag


class OpenPlanes(Protocol):
    """ports.DataPlanes that listen; the addresses are the ones that were really bound."""

    http_address: str
    grpc_address: str

    def publish(self, table: RoutingTable) -> None: ...
    def busy(self) -> Collection[Use]: ...
    async def drained(self) -> None: ...


class LocalPlane:
    """One data plane, in this process."""

    def __init__(self, plane: Dataplane, http_address: str, grpc_address: str) -> None:
        self.plane = plane
        self.http_address = http_address
        self.grpc_address = grpc_address
        self.publish = plane.publish
        self.busy = plane.busy
        self.drained = plane.drained


@asynccontextmanager
async def open_planes(
    settings: DataplaneSettings,
    *,
    upstreams: Upstreams,
    metrics: Metrics,
    reloader: Reloader | None = None,
    workers: int = 1,
    log_format: str = "text",
    worker_command: Sequence[str] = WORKER_COMMAND,
) -> AsyncIterator[OpenPlanes]:
    """Listen on both ports and answer until the block is left, then drain.

    With `workers` of 2 or more, that many processes answer and this one only tells them what to do;
    `metrics` must then have a directory of its own to share values through. With 0 or 1 everything
    is in this process.

    Raises:
        Conflict: an address is in use; the message names it and its flag.
        InvalidRequest: an address cannot be bound here.
        Unavailable: a worker did not start.
    """
    if workers > 1:
        async with WorkerPlanes.open(
            settings, workers, metrics, reloader, log_format, worker_command
        ) as planes:
            yield planes
        return
    http = reserve(settings.http, "--http")
    try:
        # gRPC binds by itself; this finds out who else is there, in words.
        probe = reserve(settings.grpc, "--grpc")
        host = shown(probe).rpartition(":")[0]
        asked = settings.grpc.rpartition(":")[2]
        probe.close()
        http_upstream, grpc_upstream = upstreams()
        plane = Dataplane(settings, http=http_upstream, grpc=grpc_upstream, metrics=metrics)
        async with (
            serving(plane, http, f"{host}:{asked}", reloader, reuse_port=False) as port,
            background() as tasks,
        ):
            lag = tasks.create_task(watch_loop_lag(metrics))
            try:
                yield LocalPlane(plane, shown(http), f"{host}:{port}")
            finally:
                lag.cancel()
    finally:
        http.close()
