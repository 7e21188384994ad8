"""Both fronts over one data plane, started and stopped together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.dataplane.grpc import GrpcFront
from gateway.dataplane.http import HttpFront
from gateway.dataplane.plane import Dataplane
from gateway.domain.errors import Conflict
from gateway.ports import Reloader, Upstream

Upstreams = Callable[[], tuple[Upstream, Upstream]]
"""Makes the HTTP and the gRPC upstream of one process, inside its running loop."""


@asynccontextmanager
async def background() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup for tasks beside a block. An error of the block comes out as it is, not wrapped
    in a group, so that whoever used the block can name it."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


@asynccontextmanager
async def serving(
    plane: Dataplane, http: socket.socket, grpc: str, reloader: Reloader | None, *, reuse_port: bool
) -> AsyncIterator[int]:
    """Answer on the bound socket `http` and the address `grpc`; gives the gRPC port.

    Leaving the block takes no new requests, lets those under way finish within `drain_s`, and
    closes the connections to replicas.

    Raises:
        Conflict: the gRPC address was taken in the meantime (`port_in_use`).
    """
    http_front = HttpFront(plane, plane.metrics.render, reloader)
    grpc_front = GrpcFront(plane, reloader)
    try:
        try:
            port = await grpc_front.start(grpc, reuse_port=reuse_port)
        except RuntimeError as error:
            raise Conflict(
                f"{grpc} is in use by another program. Stop it, or choose another address with "
                "--grpc HOST:PORT.",
                reason="port_in_use",
            ) from error
        await http_front.start(http)
        yield port
    finally:
        try:
            grpc_front.health.drain()
            await http_front.stop()
            await grpc_front.stop()
        finally:
            plane.translation.close()
            await plane.http.upstream.aclose()
            await plane.grpc.upstream.aclose()
