"""A worker process: one data plane that the parent tells what to do. `python -m gateway worker`.

Not for people. It exits when its parent is gone, however that went, after draining.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import cast

from gateway.core.autoscale import Demand
from gateway.dataplane.fronts import OpenFronts, Upstreams, background, serving
from gateway.dataplane.messages import (
    Accept,
    Busy,
    Called,
    Channel,
    Counted,
    Demanded,
    Failed,
    Leave,
    Leaving,
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
from gateway.telemetry import LogFormat, Metrics, configure_logging
from gateway.wire.listener import Listener
from gateway.wire.memory import keep_freed_memory, spare_what_is_there


def main(argv: Sequence[str], upstreams: Upstreams) -> int:
    """Run one worker over the socket `--fd N`; returns the exit code. `upstreams` makes the clients
    to replicas, which this room may not name itself."""
    parser = argparse.ArgumentParser(prog="gateway worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="socket to the parent")
    fd = parser.parse_args(argv).fd
    # Ctrl-C and SIGHUP are for the parent. Whoever means all processes of this name means it too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    keep_freed_memory()
    run = _run(socket.socket(fileno=fd), upstreams)
    if sys.platform != "win32":
        import uvloop

        return uvloop.run(run)
    return asyncio.run(run)


async def _run(sock: socket.socket, upstreams: Upstreams) -> int:
    sock.setblocking(False)
    channel: Channel[ToWorker] = await Channel.over(sock, ToWorker)
    start, first = await channel.receive(), await channel.receive()
    if not isinstance(start, Start) or not isinstance(first, Publish):
        return 1
    configure_logging(cast(LogFormat, start.log_format))
    directory = Path(start.metrics_dir) if start.metrics_dir else None
    http, grpc = upstreams()
    plane = Dataplane(
        start.settings, http=http, grpc=grpc, metrics=Metrics(directory, start.process)
    )
    # Before the first connection comes in: a worker without a table would know no model.
    plane.publish(first.table)
    worker = _Worker(channel, plane, Doors(start.sockets))
    spare_what_is_there()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.leave)
    try:
        await worker.serve(start, first)
    except GatewayError as error:
        channel.send(Failed(error.message))
        return 1
    finally:
        channel.close()
    return 0


_COUNTS_S = 0.2
"""Between two tellings of what rollouts have answered and of what is asked of scaled models:
shorter than the lifecycle's looks. A message is about a kilobyte."""


class Doors:
    """The listening sockets of all slots, handed down by the parent, who keeps them too."""

    def __init__(self, sockets: Sequence[Sequence[int]]) -> None:
        self._held = [[socket.socket(fileno=fd) for fd in slot] for slot in sockets]
        self._open: dict[int, list[socket.socket]] = {}

    async def accept(self, slots: Iterable[int], listener: Listener) -> None:
        """Accept on the sockets of these slots, and no others."""
        wanted = set(slots)
        for slot in self._open.keys() - wanted:
            for sock in self._open.pop(slot):
                listener.leave(sock)
        # Copies, as the listener closes what it leaves.
        opened = {s: [sock.dup() for sock in self._held[s]] for s in wanted - self._open.keys()}
        self._open |= opened
        for sock in chain.from_iterable(opened.values()):
            await listener.start(sock)

    def let_go(self) -> None:
        """Hold nothing any more: else what nobody accepts from would look like somebody who will
        answer, once the parent is gone."""
        for slot in self._held:
            for sock in slot:
                sock.close()
        self._held.clear()


class _Worker:
    """What a worker is told, and does."""

    def __init__(self, channel: Channel[ToWorker], plane: Dataplane, doors: Doors) -> None:
        self._channel = channel
        self._plane = plane
        self._doors = doors
        self._reloader = _ParentReloader(channel)
        self._stopping = asyncio.Event()
        self._has_successor = False

    def leave(self) -> None:
        """Somebody has sent a SIGTERM to this process alone."""
        self._channel.send(Leaving())
        self._has_successor = True
        self._stopping.set()

    async def serve(self, start: Start, first: Publish) -> None:
        """Answer until told to leave, or until the parent is gone; then drain."""
        reloader = self._reloader if start.takes_reloads else None
        async with background() as tasks:
            async with serving(self._plane, (), reloader) as fronts:
                await self._doors.accept([start.slot], fronts.listener)
                obeying = tasks.create_task(self._obey(fronts))
                self._channel.send(Busy(first.number, []))
                self._channel.send(Serving())
                await self._stopping.wait()
                fronts.has_successor = self._has_successor
                self._doors.let_go()
            obeying.cancel()

    async def _obey(self, fronts: OpenFronts) -> None:
        """Take the parent's messages until it is gone; tell it what is busy whenever that
        changes."""
        async with asyncio.TaskGroup() as tasks:
            telling: asyncio.Task[None] | None = None
            counting = tasks.create_task(self._tell_counts())
            calling = tasks.create_task(self._tell_calls())
            while (message := await self._channel.receive()) is not None:
                match message:
                    case Publish():
                        self._plane.publish(message.table)
                        self._say_busy(message.number)
                        if telling is not None:
                            telling.cancel()
                        telling = tasks.create_task(self._tell_busy(message.number))
                    case Accept() if not self._stopping.is_set():
                        await self._doors.accept(message.slots, fronts.listener)
                    case Leave():
                        self._has_successor = True
                        self._stopping.set()
                    case ReloadDone():
                        self._reloader.done(message)
            if telling is not None:
                telling.cancel()
            counting.cancel()
            calling.cancel()
            self._stopping.set()

    async def _tell_counts(self) -> None:
        """While there are rollouts, what their two sides have answered; while there are replicas
        that do not answer well, which; while there are scaled models, what is asked of them."""
        plane, told = self._plane, dict[str, tuple[str, str]]()
        asked: dict[str, Demand] = {}
        while True:
            await asyncio.sleep(_COUNTS_S)
            windows, standings = plane.split.windows(), plane.replicas.standings(plane.loop.time())
            if windows or standings != told:
                self._channel.send(Counted(dict(windows), standings, dict(plane.split.shadows())))
                told = standings
            before, asked = asked, plane.demands.all()
            changed = {n: (*d,) for n, d in asked.items() if before.get(n, Demand()) != d}
            if changed:
                self._channel.send(Demanded(changed))

    async def _tell_calls(self) -> None:
        while True:
            self._channel.send(Called(list(await self._plane.called())))

    def _say_busy(self, number: int) -> None:
        self._channel.send(Busy(number, list(self._plane.busy())))

    async def _tell_busy(self, number: int) -> None:
        while self._plane.busy():
            await self._plane.drained()
            self._say_busy(number)


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
