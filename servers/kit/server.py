"""One model server: manager, workers and two ports, from listening to drained.

Stops in this order: say NOT_SERVING, take no new connections and refuse new predictions, let what
is in flight finish (up to the drain time), close the connections, end.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.codecs.tfs_status import ConfiguredModel
from gateway.domain.models import PROTOCOLS
from gateway.wire.listener import Listener
from gateway.wire.tasks import Tasks
from servers.kit import logs
from servers.kit.batching import Workers
from servers.kit.fetch import VersionCache
from servers.kit.front import KitFront
from servers.kit.manager import Manager
from servers.kit.oip_service import OipService
from servers.kit.rest import Rest
from servers.kit.rpc import Rpc
from servers.kit.runtime import Runtime
from servers.kit.service import Service
from servers.kit.settings import ServerSettings
from servers.kit.versions import BySource, Versions


@dataclass(frozen=True, slots=True)
class Running:
    """A server that listens."""

    http: str
    grpc: str
    service: Service
    manager: Manager


class PortTaken(OSError):
    """An address cannot be listened on; the message says which and what to do."""


def listen(address: str, flag: str) -> socket.socket:
    """A bound, listening socket.

    Raises:
        PortTaken: somebody listens there already, or the address is not one of this machine.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.bind((host, int(port)))
        made.listen(1024)
    except OSError as error:
        made.close()
        raise _taken(address, flag, error.strerror or str(error)) from error
    made.setblocking(False)
    return made


def listen_both(settings: ServerSettings) -> tuple[socket.socket, socket.socket]:
    """The sockets of `--http` and `--grpc`.

    Raises:
        PortTaken: one of them cannot be had; then the other is closed.
    """
    http = listen(settings.http, "--http")
    try:
        return http, listen(settings.grpc, "--grpc")
    except PortTaken:
        http.close()
        raise


def _taken(address: str, flag: str, why: str) -> PortTaken:
    return PortTaken(
        f"Cannot listen on {address}: {why}. Stop the program that holds it, or choose another "
        f"address with {flag} (port 0 takes any free one)."
    )


def versions_for(settings: ServerSettings) -> Versions:
    """Where this server's versions come from (see servers.kit.versions)."""
    if settings.cache_dir is not None:
        return VersionCache(settings.cache_dir, settings.cache_bytes)
    folder = Path.home() / ".cache" / "model-gateway" / "versions"
    return BySource(lambda: VersionCache(folder, settings.cache_bytes))


@asynccontextmanager
async def serving(
    runtime: Runtime, settings: ServerSettings, versions: Versions | None = None
) -> AsyncIterator[Running]:
    """Serve inside the block; leaving it drains.

    Raises:
        PortTaken: before anything else has begun.
    """
    versions = versions or versions_for(settings)
    http, grpc = listen_both(settings)
    workers = Workers(settings.threads)
    manager = Manager(runtime, versions, workers, settings.batch, settings.load)
    service = Service(
        manager,
        timeout_s=settings.timeout_s,
        offload_bytes=settings.offload_bytes,
        in_flight_limit=settings.in_flight_limit,
    )
    oip = OipService(service, settings.v2_flavour)
    try:
        async with Tasks(log_bug) as handlers:
            rpc = Rpc(service, oip, settings.max_body, handlers)
            rest = Rest(service, oip, settings.max_body, handlers)
            listener = Listener(KitFront(rest, rpc))
            http_at, grpc_at = address_of(settings.http, http), address_of(settings.grpc, grpc)
            await listener.start(http)
            await listener.start(grpc)
            manager.configure([ConfiguredModel(name, uri) for name, uri in settings.models])
            async with asyncio.TaskGroup() as tasks:
                life = tasks.create_task(manager.run(), name="manager")
                rpc.health.say(True)
                try:
                    yield Running(http_at, grpc_at, service, manager)
                finally:
                    rpc.health.say(False)
                    rpc.health.end()
                    await _drain(service, listener, settings.drain_s)
                    life.cancel()
    finally:
        manager.close()
        workers.close()
        service.close()


def address_of(asked: str, sock: socket.socket) -> str:
    """What was asked for, with the port that it became."""
    return f"{asked.rpartition(':')[0]}:{sock.getsockname()[1]}"


def log_bug(error: Exception) -> None:
    """An error of a handler that nobody foresaw."""
    logs.bug("request.crashed", error)


async def _drain(service: Service, listener: Listener, longest_s: float) -> None:
    """Finish what is in flight on both ports, at most `longest_s`."""
    await service.stop()
    async with asyncio.TaskGroup() as ends:
        ends.create_task(listener.stop(longest_s), name="stop listening")
        if not await service.drained(longest_s):
            logs.warn("server.drain_timed_out", in_flight=service.in_flight, after_s=longest_s)


def write_ready_file(path: Path, running: Running) -> None:
    """Say pid and addresses, in one rename, so that nobody reads half of it."""
    said = {
        "pid": os.getpid(),
        "http": running.http,
        "grpc": running.grpc,
        "control": running.grpc,
        "status_http": running.http,
        "speaks": PROTOCOLS,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(said))
    draft.replace(path)
