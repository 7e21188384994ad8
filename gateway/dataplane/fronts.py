"""What answers in one process: its front on listening sockets, and what runs beside it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from gateway.dataplane.certificates import Certificates, certificate_files
from gateway.dataplane.front import GatewayFront
from gateway.dataplane.plane import Dataplane
from gateway.ports import DirectUpstream, Reloader
from gateway.telemetry import watch_loop_lag
from gateway.wire.listener import Listener

Upstreams = Callable[[], tuple[DirectUpstream, DirectUpstream]]
"""Makes the HTTP and the gRPC upstream of one process, inside its running loop."""


class OpenFronts:
    """What serves while its block lasts."""

    def __init__(self, listener: Listener, certificates: Certificates | None) -> None:
        self.listener = listener
        self.certificates = certificates
        self.has_successor = False
        """To be set before the block is left where others answer on the same ports afterwards: then
        nobody is told that the gateway is going, because it is not."""


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
    plane: Dataplane,
    sockets: Sequence[socket.socket],
    reloader: Reloader | None,
) -> AsyncIterator[OpenFronts]:
    """Answer on listening sockets, which are this block's from here on.

    Leaving the block takes no new connections, lets requests under way finish within `drain_s`, and
    closes the plane.

    Raises:
        InvalidRequest: the certificate files cannot be used (`bad_certificate`).
    """
    metrics = plane.metrics
    try:
        front = GatewayFront(plane, reloader)
        files = certificate_files(plane.settings)
        tls = None if files is None else files.context
        listener = Listener(front, plane.settings.wire, watch=metrics.wire, tls=tls)
        certificates = None if files is None else Certificates(files, listener)
        fronts = OpenFronts(listener, certificates)
        metrics.sample_in_flight(lambda: plane.in_flight.by_model)
        metrics.sample_turns(plane.turns)
        async with background() as beside:
            watching = [beside.create_task(watch_loop_lag(metrics))]
            if metrics.directory is not None:
                watching.append(beside.create_task(metrics.hand_over_regularly()))
            if certificates is not None:
                watching.append(beside.create_task(certificates.watch()))
            try:
                for sock in sockets:
                    await listener.start(sock)
                yield fronts
            finally:
                await _leave(plane, front, fronts)
                for task in watching:
                    task.cancel()
    finally:
        await plane.aclose()
        metrics.hand_over()


async def _leave(plane: Dataplane, front: GatewayFront, fronts: OpenFronts) -> None:
    drain_s, patience_s = plane.settings.drain_s, plane.settings.patience_s
    if fronts.has_successor:
        # By then HTTP/1.1 connections that were still asked over have been told to end, as HTTP/2
        # ones are at once: whoever comes again asks the successor, and hears that all is well.
        ending = asyncio.get_running_loop().call_later(min(patience_s, drain_s), front.drain)
    else:
        front.drain()
        ending = None
    try:
        await fronts.listener.stop(drain_s, patience_s=patience_s)
    finally:
        if ending is not None:
            ending.cancel()
