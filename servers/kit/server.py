"""One model server: manager, workers and two fronts, from listening to drained.

Stops in this order: take no new connections and say NOT_SERVING, let what is in flight finish (up
to the drain time), close the fronts, end.
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

import grpc
from aiohttp import web

from gateway.codecs.tfs_status import ConfiguredModel
from gateway.domain.models import PROTOCOLS
from servers.kit import logs
from servers.kit.batching import Workers
from servers.kit.fetch import VersionCache
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
        raise taken(address, flag, error.strerror or str(error)) from error
    made.setblocking(False)
    return made


def taken(address: str, flag: str, why: str) -> PortTaken:
    """The words for an address that cannot be had."""
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
    http = listen(settings.http, "--http")
    workers = Workers(settings.threads)
    manager = Manager(runtime, versions, workers, settings.batch, settings.load)
    service = Service(
        manager,
        timeout_s=settings.timeout_s,
        offload_bytes=settings.offload_bytes,
        in_flight_limit=settings.in_flight_limit,
    )
    oip = OipService(service, settings.v2_flavour)
    rpc, rest = Rpc(service, oip), Rest(service, oip, settings.max_body)
    try:
        grpc_server, grpc_port = await rpc.start(settings.grpc, settings.max_body)
    except OSError as error:
        http.close()
        raise taken(settings.grpc, "--grpc", "the port is taken or not ours") from error
    runner = await rest.start(http)
    host = settings.http.rpartition(":")[0]
    running = Running(
        f"{host}:{http.getsockname()[1]}",
        f"{settings.grpc.rpartition(':')[0]}:{grpc_port}",
        service,
        manager,
    )
    manager.configure([ConfiguredModel(name, uri) for name, uri in settings.models])
    try:
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(manager.run(), name="manager")
            await rpc.say(True)
            try:
                yield running
            finally:
                await rpc.say(False)
                await _drain(service, runner, grpc_server, settings.drain_s)
                life.cancel()
    finally:
        manager.close()
        workers.close()
        service.close()


async def _drain(
    service: Service, runner: web.ServerRunner, grpc_server: grpc.aio.Server, longest_s: float
) -> None:
    """Finish what is in flight on both fronts, at most `longest_s`."""
    for site in list(runner.sites):
        await site.stop()
    if runner.server is not None:
        runner.server.pre_shutdown()  # idle connections close now, busy ones after their answer
    await service.stop()
    async with asyncio.TaskGroup() as fronts:
        # Takes no new calls at once, and cancels those still running after the grace.
        fronts.create_task(grpc_server.stop(longest_s), name="stop grpc")
        if not await service.drained(longest_s):
            logs.warn("server.drain_timed_out", in_flight=service.in_flight, after_s=longest_s)
    await runner.cleanup()


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
