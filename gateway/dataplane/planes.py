"""All data planes of one gateway: in this process, or in workers that share its ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from gateway.core.autoscale import Demand
from gateway.core.route import RoutingTable
from gateway.dataplane.addresses import close_all, listening, shown
from gateway.dataplane.certificates import certificate_files
from gateway.dataplane.fronts import OpenFronts, Upstreams, serving
from gateway.dataplane.inflight import Use
from gateway.dataplane.parent import WORKER_COMMAND, WorkerPlanes
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.settings import DataplaneSettings
from gateway.domain.agreement import AgreementTally
from gateway.domain.names import Version
from gateway.domain.replicas import ReplicaStanding
from gateway.ports import Reloader
from gateway.telemetry import Metrics, log


class OpenPlanes(Protocol):
    """ports.DataPlanes that listen; the addresses are the ones that were really bound."""

    http_address: str
    grpc_address: str

    def publish(self, table: RoutingTable) -> None: ...
    def busy(self) -> Collection[Use]: ...
    async def drained(self) -> None: ...
    def tallies(self, model: str) -> Mapping[Version, Sequence[int]]: ...
    def standings(self) -> Mapping[str, ReplicaStanding]: ...
    def demand(self, model: str) -> Demand: ...
    async def called(self) -> Collection[str]: ...

    def agreement(self, model: str) -> AgreementTally | None: ...

    async def reload(self) -> None:
        """Take up what has changed on disk, without losing a request: the certificates and, where
        the planes are in processes of their own, the program.

        Raises:
            InvalidRequest: the certificate files cannot be used; nothing has changed.
            Unavailable: a new process did not start; the old one stays.
        """
        ...


class LocalPlane:
    """One data plane, in this process."""

    def __init__(
        self, plane: Dataplane, fronts: OpenFronts, http_address: str, grpc_address: str
    ) -> None:
        self.plane = plane
        self.http_address = http_address
        self.grpc_address = grpc_address
        self.publish = plane.publish
        self.busy = plane.busy
        self.drained = plane.drained
        self.tallies = plane.tallies
        self.standings = plane.standings
        self.demand = plane.demand
        self.called = plane.called
        self.agreement = plane.agreement
        self._fronts = fronts

    async def reload(self) -> None:
        """See OpenPlanes."""
        if self._fronts.certificates is None:
            log.warning("gateway.nothing_reloaded", cause="no TLS files, and --workers is 1")
        else:
            self._fronts.certificates.reload()


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
        InvalidRequest: an address cannot be bound here, or the certificate files cannot be used.
        Unavailable: a worker did not start.
    """
    certificate_files(settings)  # said here, before a worker has to
    if workers > 1:
        async with WorkerPlanes.open(
            settings, workers, metrics, reloader, log_format, worker_command
        ) as planes:
            yield planes
        return
    sockets = listening(settings.http, "--http")
    try:
        sockets += listening(settings.grpc, "--grpc")
        http_address, grpc_address = map(shown, sockets)
        http, grpc = upstreams()
        plane = Dataplane(settings, http=http, grpc=grpc, metrics=metrics)
        async with serving(plane, sockets, reloader) as fronts:
            yield LocalPlane(plane, fronts, http_address, grpc_address)
    finally:
        close_all(sockets)
