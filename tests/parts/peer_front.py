"""A real listener whose front does what outside clients can check, and the running of such clients.

`/echo` sends the body back as it comes; `/unary` like a gRPC method, whole and with trailers;
`/bytes/N` N bytes of known length; `/stream/N` N bytes of unknown length; `/refuse` refuses bodies
unread; `/hold` answers when the test says so.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.wire.exchange import Data, ServerExchange
from gateway.wire.fields import Fields
from gateway.wire.listener import Listener
from gateway.wire.settings import ServerWireSettings
from gateway.wire.tasks import Awaited, Tasks

MIB = 1 << 20
BINARY = (Fields((("content-type", "application/octet-stream"),)),)
GRPC = (Fields((("content-type", "application/grpc"),)),)
TAIL = Fields((("grpc-status", "0"), ("x-tail", "true")))
ALLOW = (Fields((("allow", "GET, HEAD, POST, OPTIONS"),)),)
_PIECE = bytes(range(256)) * 256
_MOST_BYTES = 64 * MIB
_WAIT_S = 60.0


def pattern(size: int) -> bytes:
    """What `/bytes/N` and `/stream/N` answer."""
    return (_PIECE * (size // len(_PIECE) + 1))[:size]


class PeerFront:
    """exchange.Front. `seen` counts requests by what they were."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self.seen: Counter[str] = Counter()
        self.held = 0
        self.release = asyncio.Event()

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        head = exchange.head
        version = "h2" if head.is_h2 else "h1"
        self.seen[f"{version} {head.method} {head.path.partition('/')[2].partition('/')[0]}"] += 1
        if head.expects_continue:
            self.seen["expects"] += 1
        if head.path == "/refuse":
            exchange.respond(413, BINARY, b"too large")
        else:
            self._tasks.run(exchange, body, self._answer)

    async def _answer(self, call: Awaited) -> None:
        kind, _, size = call.head.path[1:].partition("/")
        if call.head.method == "OPTIONS":
            call.respond(204, ALLOW, b"")
        elif kind == "unary":
            until = asyncio.get_running_loop().time() + _WAIT_S
            call.respond(200, GRPC, await call.body(_MOST_BYTES, until), (TAIL,))
        elif kind == "bytes":
            call.respond(200, BINARY, pattern(int(size)))
        elif kind == "stream":
            await self._stream(call, int(size))
        elif kind == "hold":
            self.held += 1
            await self.release.wait()
            call.respond(200, BINARY, b"released")
        else:
            await self._echo(call)

    async def _echo(self, call: Awaited) -> None:
        pieces = call.chunks()
        first = await anext(pieces, b"")  # a body that is expected is asked for before the answer
        call.start(200, BINARY)
        await call.write(first)
        async for piece in pieces:
            await call.write(piece)
        call.end((TAIL,))

    async def _stream(self, call: Awaited, size: int) -> None:
        call.start(200, BINARY)
        for at in range(0, size, len(_PIECE)):
            await call.write(_PIECE[: size - at])
        call.end((TAIL,))


class PeerServer:
    """The listener, its front, and what the front's tasks and the wire complained about."""

    def __init__(self, tls: ssl.SSLContext | None, settings: ServerWireSettings | None) -> None:
        self.bugs: list[Exception] = []
        self.causes: list[str] = []
        self.tasks = Tasks(self.bugs.append)
        self.front = PeerFront(self.tasks)
        self.listener = Listener(self.front, settings, watch=self, tls=tls)
        self.opened_of: Counter[str] = Counter()
        self.address = ""
        self.url = ""

    def opened(self, protocol: str) -> None:
        self.opened_of[protocol] += 1

    def closed(self, protocol: str) -> None: ...

    def refused(self, cause: str) -> None:
        self.causes.append(cause)


@asynccontextmanager
async def peer_server(
    tls: ssl.SSLContext | None = None, settings: ServerWireSettings | None = None
) -> AsyncIterator[PeerServer]:
    """On a free port of 127.0.0.1. At the end nothing may be left, and nothing was a bug."""
    server = PeerServer(tls, settings)
    sock = socket.create_server(("127.0.0.1", 0))
    server.address = f"127.0.0.1:{sock.getsockname()[1]}"
    server.url = f"{'https' if tls else 'http'}://{server.address}"
    async with server.tasks:
        await server.listener.start(sock)
        try:
            yield server
        finally:
            await server.listener.stop(0.0)
    assert server.listener.connections == 0
    assert server.bugs == []


async def run_peer(*command: str, timeout_s: float = 60.0) -> str:
    """Run a program to its end; what it printed. It must exit with 0."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    said = out.decode("utf-8", "replace")
    assert process.returncode == 0, f"{command[0]}: {said[-2000:]}\n{err.decode()[-2000:]}"
    return said
