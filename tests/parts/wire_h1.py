"""A front that echoes, a sink that listens, raw bytes: what tests of HTTP/1.1 are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from gateway.wire.fields import Fields
from gateway.wire.h1_client import Http1Client
from gateway.wire.h1_server import H1ServerConnection
from gateway.wire.settings import ClientWireSettings, ServerWireSettings

TEXT = (Fields([("content-type", "text/plain")]),)
LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


class Counts:
    def __init__(self):
        self.causes = []
        self.open = 0

    def opened(self, protocol):
        self.open += 1

    def closed(self, protocol):
        self.open -= 1

    def refused(self, cause):
        self.causes.append(cause)


class Collect:
    """Takes a whole body, then answers with it."""

    def __init__(self, exchange, front):
        self.exchange, self.front, self.body = exchange, front, b""

    def on_data(self, data):
        self.body += bytes(data)

    def on_end(self, trailers):
        self.exchange.respond(200, TEXT, self.body)

    def on_gone(self, cause):
        self.front.gone.append(cause)

    def on_writable(self):
        self.front.writable += 1


class Front:
    """Echoes bodies; some paths do other things."""

    def __init__(self):
        self.heads, self.gone, self.held, self.writable = [], [], [], 0
        self.began = asyncio.Event()

    def begin(self, exchange, body):
        self.heads.append(exchange.head)
        self.began.set()
        exchange.sink = Collect(exchange, self)
        match exchange.head.path:
            case "/refuse":
                exchange.respond(413, TEXT, b"too large")
            case "/hold":
                self.held.append(exchange)
            case "/pieces":
                exchange.start(200, TEXT, None)
                for piece in (b"one,", b"", b"two"):
                    exchange.write(piece)
                exchange.end()
            case "/known":
                exchange.start(200, TEXT, 6)
                exchange.write(b"abcdef")
                exchange.end()
            case "/abort":
                exchange.start(200, TEXT, 10)
                exchange.write(b"abc")
                exchange.abort()
            case "/none":
                exchange.respond(204, (), b"")
            case "/bug":
                raise RuntimeError("a bug")
            case _ if body is None:
                exchange.accept_body()
            case _:
                exchange.respond(200, TEXT, body)


@asynccontextmanager
async def served(front, settings=None, counts=None) -> AsyncIterator[str]:
    connections = set()
    counts = counts or Counts()

    def made():
        connection = H1ServerConnection(
            front, settings or ServerWireSettings(), counts, on_lost=connections.discard
        )
        connections.add(connection)
        return connection

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    front.connections = connections
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
        for connection in list(connections):
            connection.close()
        await until(lambda: not connections)


async def said(address, data, *, eof=False) -> bytes:
    """Everything that a server says to these bytes until it closes."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    if eof:
        writer.write_eof()
    try:
        async with asyncio.timeout(30):
            return await reader.read(-1)
    finally:
        writer.close()
        await writer.wait_closed()


async def until(is_so: Callable[[], object]) -> None:
    """Let the loop go on until something is true."""
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - what is looked at sets no event
            await asyncio.sleep(0.001)


def run(loop_factory, main):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())


def asked(path="/", extra="", body=b"", method="POST", last=True):
    close = "Connection: close\r\n" if last else ""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n{close}{length}{extra}\r\n".encode() + body


class Answer:
    """An AnswerSink that says how it ended."""

    def __init__(self):
        self.done = asyncio.get_running_loop().create_future()
        self.calls, self.body, self.head, self.trailers = [], b"", None, ()

    def on_whole(self, head, body, trailers):
        self.calls.append("whole")
        self.head, self.body, self.trailers = head, bytes(body), trailers
        self.done.set_result(self)

    def on_head(self, head):
        self.calls.append("head")
        self.head = head

    def on_data(self, data):
        self.body += bytes(data)

    def on_end(self, trailers):
        self.calls.append("end")
        self.trailers = trailers
        self.done.set_result(self)

    def on_failed(self, error):
        self.calls.append("failed")
        self.done.set_exception(error)

    def on_writable(self):
        self.calls.append("writable")


async def ask(client, address, path="/", body=b"", method="POST", **more):
    sink = Answer()
    client.request(address, method, path, TEXT, body, sink, **more)
    async with asyncio.timeout(30):
        return await sink.done


@asynccontextmanager
async def clients(**settings) -> AsyncIterator[Http1Client]:
    client = Http1Client(ClientWireSettings(**settings))
    try:
        yield client
    finally:
        await client.aclose()
