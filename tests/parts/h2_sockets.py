"""HTTP/2 over real sockets: an echo, and answers that can be awaited."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager

from gateway.wire.fields import Fields
from gateway.wire.h2_client import Http2Client
from gateway.wire.h2_server import H2ServerConnection
from gateway.wire.settings import ClientWireSettings, ServerWireSettings
from tests.parts.h2_peer import Asked, Watched
from tests.parts.waiting import until

TEXT = Fields([("content-type", "text/plain")])
STATUS = Fields([("grpc-status", "0")])


class _Echo:
    """Sends pieces of a body back as they come, no faster than they are read."""

    def __init__(self, exchange):
        self.exchange = exchange
        exchange.start(200, (TEXT,), None)

    def on_data(self, data):
        self.exchange.write(data)
        if self.exchange.is_congested:
            self.exchange.pause()

    def on_end(self, trailers):
        self.exchange.end((STATUS,))

    def on_gone(self, cause):
        pass

    def on_writable(self):
        self.exchange.resume()


class _Buggy:
    """Fails where it may not."""

    def __init__(self, front):
        self.front = front

    def on_data(self, data):
        raise RuntimeError("a bug")

    on_end = on_data

    def on_gone(self, cause):
        self.front.gone.append(cause)

    def on_writable(self): ...


class EchoFront:
    """`/hold` is never answered, `/big` with more than a socket takes, `/early` before the request
    is complete, `/bug` fails; all else is echoed."""

    def __init__(self):
        self.held = []
        self.gone: list[str] = []

    def begin(self, exchange, body):
        if exchange.head.path == "/hold":
            exchange.sink = self
            self.held.append(exchange)
            exchange.accept_body()
        elif exchange.head.path == "/big":
            exchange.sink = self
            exchange.respond(200, (TEXT,), bytes(32 << 20))
        elif exchange.head.path == "/early":
            exchange.respond(200, (TEXT,), b"enough", (STATUS,))
        elif exchange.head.path == "/bug":
            exchange.sink = _Buggy(self)
            exchange.accept_body()
        elif body is None:
            exchange.sink = _Echo(exchange)
            exchange.accept_body()
        elif exchange.head.method == "GET":
            exchange.respond(200, (TEXT,), b"hello\n")
        else:
            exchange.respond(200, (TEXT,), body, (STATUS,))

    def on_data(self, data): ...
    def on_end(self, trailers): ...
    def on_writable(self): ...

    def on_gone(self, cause):
        self.gone.append(cause)


class Answer(Asked):
    """An answer to wait for."""

    def __init__(self):
        super().__init__()
        self.done = asyncio.Event()

    def on_whole(self, head, body, trailers):
        super().on_whole(head, body, trailers)
        self.done.set()

    def on_end(self, trailers):
        super().on_end(trailers)
        self.done.set()

    def on_failed(self, error):
        super().on_failed(error)
        self.done.set()

    async def wait(self) -> Answer:
        async with asyncio.timeout(30):
            await self.done.wait()
        return self


class Served:
    """A server on a port of its own."""

    def __init__(self, front, settings: ServerWireSettings | None = None):
        self.front = front
        self.settings = settings or ServerWireSettings()
        self.watch = Watched()
        self.connections: set[H2ServerConnection] = set()
        self.address = ""

    def _connection(self) -> H2ServerConnection:
        lost = self.connections.discard
        connection = H2ServerConnection(self.front, self.settings, self.watch, on_lost=lost)
        self.connections.add(connection)
        return connection

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None):
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._connection, "127.0.0.1", 0, ssl=tls)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for connection in list(self.connections):
                connection.close()
            await until(lambda: not self.connections)


@asynccontextmanager
async def served(front=None, settings=None, *, tls=None):
    async with Served(front or EchoFront(), settings).listening(tls) as server:
        yield server


@asynccontextmanager
async def client_of(settings: ClientWireSettings | None = None, *, tls=None):
    client = Http2Client(settings, ssl=tls)
    try:
        yield client
    finally:
        await client.aclose()


def ask(client, address, body=b"", path="/", method="POST") -> Answer:
    answer = Answer()
    answer.exchange = client.request(address, method, path, (TEXT,), body, answer)
    return answer
