"""A worker process: one data plane that the parent tells what to do. `python -m gateway worker`.

Not for people. It exits when its parent is gone, however that went, after draining.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from gateway.dataplane.addresses import reserve
from gateway.dataplane.fronts import Upstreams, background, serving
from gateway.dataplane.messages import (
    Busy,
    Channel,
    Failed,
    Publish,
    Refresh,
    Reload,
    ReloadDone,
    Serving,
    Start,
    ToWorker,
    raised,
)
from gateway.dataplane.plane import Dataplane
from gateway.domain.errors import GatewayError
from gateway.telemetry import LogFormat, Metrics, configure_logging, watch_loop_lag


def main(argv: Sequence[str], upstreams: Upstreams) -> int:
    """Run one worker over the socket `--fd N`; returns the exit code. `upstreams` makes the clients
    to replicas, which this room may not name itself."""
    parser = argparse.ArgumentParser(prog="gateway worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="socket to the parent")
    fd = parser.parse_args(argv).fd
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        import uvloop

        return uvloop.run(_run(socket.socket(fileno=fd), upstreams))
    return asyncio.run(_run(socket.socket(fileno=fd), upstreams))


async def _run(sock: socket.socket, upstreams: Upstreams) -> int:
    sock.setblocking(False)
    channel: Channel[ToWorker] = await Channel.over(sock, ToWorker)
    start, first = await channel.receive(), await channel.receive()
    if not isinstance(start, Start) or not isinstance(first, Publish):
        return 1
    configure_logging(cast(LogFormat, start.log_format))
    metrics = Metrics(Path(start.metrics_dir) if start.metrics_dir else None)
    http_upstream, grpc_upstream = upstreams()
    plane = Dataplane(start.settings, http=http_upstream, grpc=grpc_upstream, metrics=metrics)
    # Before the first connection comes in: a worker without a table would know no model.
    plane.publish(first.table)
    reloader = _ParentReloader(channel) if start.takes_reloads else None
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    try:
        http = reserve(start.settings.http, "--http", reuse_port=True, is_shared=True)
        async with (
            serving(plane, http, start.settings.grpc, reloader, reuse_port=True),
            background() as tasks,
        ):
            beside = [
                tasks.create_task(watch_loop_lag(metrics)),
                tasks.create_task(_obey(channel, plane, reloader, stopping)),
            ]
            channel.send(Busy(first.number, []))
            channel.send(Serving())
            await stopping.wait()
            for task in beside:
                task.cancel()
    except GatewayError as error:
        channel.send(Failed(error.message))
        return 1
    finally:
        channel.close()
    return 0


async def _obey(
    channel: Channel[ToWorker],
    plane: Dataplane,
    reloader: _ParentReloader | None,
    stopping: asyncio.Event,
) -> None:
    """Take the parent's messages until it is gone; tell it what is busy whenever that changes."""
    number = 0
    async with asyncio.TaskGroup() as tasks:
        telling: asyncio.Task[None] | None = None
        while (message := await channel.receive()) is not None:
            if isinstance(message, Publish):
                number = message.number
                plane.publish(message.table)
                channel.send(Busy(number, list(plane.busy())))
                if telling is not None:
                    telling.cancel()
                telling = tasks.create_task(_tell_busy(channel, plane, number))
            elif isinstance(message, ReloadDone) and reloader is not None:
                reloader.done(message)
        if telling is not None:
            telling.cancel()
        stopping.set()


async def _tell_busy(channel: Channel[ToWorker], plane: Dataplane, number: int) -> None:
    while plane.busy():
        await plane.drained()
        channel.send(Busy(number, list(plane.busy())))


class _ParentReloader:
    """ports.Reloader that asks the parent."""

    def __init__(self, channel: Channel[ToWorker]) -> None:
        self._channel = channel
        self._number = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    async def reload(self, request: bytes, deadline_at: float) -> bytes:
        loop = asyncio.get_running_loop()
        self._number += 1
        number = self._number
        answer: asyncio.Future[bytes] = loop.create_future()
        self._waiting[number] = answer
        try:
            self._channel.send(Reload(number, request, max(0.0, deadline_at - loop.time())))
            return await answer
        finally:
            del self._waiting[number]

    async def refresh(self, name: str) -> None:
        self._channel.send(Refresh(name))

    def done(self, message: ReloadDone) -> None:
        """The parent has answered."""
        answer = self._waiting.get(message.number)
        if answer is None or answer.done():
            return
        if message.error:
            answer.set_exception(raised(message))
        else:
            answer.set_result(message.body)
