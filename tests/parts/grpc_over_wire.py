"""gRPC methods served by the wire on a port, for clients of gRPC's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.wire.grpc import Direct, GrpcMethods, Stream, Unary
from gateway.wire.h2_server import H2ServerConnection
from gateway.wire.settings import ServerWireSettings
from gateway.wire.tasks import Tasks


class NoWatch:
    """exchange.Watch, deaf."""

    def opened(self, protocol: str) -> None: ...

    def closed(self, protocol: str) -> None: ...

    def refused(self, cause: str) -> None: ...


@dataclass
class Methods:
    """What is served, and what became of it."""

    address: str = ""
    cancelled: list[str] = field(default_factory=list)
    metadata: list[tuple] = field(default_factory=list)
    left_s: list[float | None] = field(default_factory=list)
    bugs: list[Exception] = field(default_factory=list)
    connections: list[H2ServerConnection] = field(default_factory=list)
    running: int = 0
    most: int = 0
    written: int = 0
    """Answers that `many` has got rid of."""

    async def echo(self, message, call):
        self.metadata.append(call.metadata)
        self.left_s.append(call.time_remaining())
        call.set_trailing_metadata((("x-text", "words"), ("x-raw-bin", "AAH/")))
        return message

    async def wait(self, message, call):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(float(message))
        except asyncio.CancelledError:
            self.cancelled.append("wait")
            raise
        finally:
            self.running -= 1
        return message

    async def fail(self, message, call):
        await call.abort(int(message), "näh: 100 %\n", (("x-why", "so"),))

    async def crash(self, message, call):
        raise RuntimeError("secret")

    async def many(self, requests, call):
        """So many answers as asked for, of so many bytes (each at least its number)."""
        async for message in requests:
            count, size = (int(part) for part in (message + b" 0").split()[:2])
            for n in range(count):
                await call.write((b"%d" % n).ljust(size))
                self.written = n + 1

    async def total(self, requests, call):
        await call.write(b"%d" % sum([int(message) async for message in requests]))

    async def chat(self, requests, call):
        try:
            async for message in requests:
                if message == b"fail":
                    await call.abort(9, "enough")
                await call.write(message)
        except asyncio.CancelledError:
            self.cancelled.append("chat")
            raise

    def direct(self, exchange, message, call):
        call.reply(message)

    def handlers(self):
        return {
            "/s/Echo": Unary(self.echo), "/s/Wait": Unary(self.wait), "/s/Fail": Unary(self.fail),
            "/s/Crash": Unary(self.crash), "/s/Many": Stream(self.many),
            "/s/Total": Stream(self.total), "/s/Chat": Stream(self.chat),
            "/s/Direct": Direct(self.direct),
        }  # fmt: skip


@asynccontextmanager
async def grpc_over_wire(max_message_bytes: int = 64 << 20) -> AsyncIterator[Methods]:
    """`Methods` on a free port."""
    methods = Methods()
    loop = asyncio.get_running_loop()
    async with Tasks(methods.bugs.append) as tasks:
        front = GrpcMethods(methods.handlers(), tasks, max_message_bytes)

        def connected() -> H2ServerConnection:
            made = H2ServerConnection(front, ServerWireSettings(), NoWatch())
            methods.connections.append(made)
            return made

        server = await loop.create_server(connected, "127.0.0.1", 0)
        methods.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield methods
        finally:
            server.close()
            for connection in methods.connections:
                connection.close()
            await asyncio.sleep(0)
