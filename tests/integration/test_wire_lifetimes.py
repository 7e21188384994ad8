"""How connections begin, rest, grow old and end, on both protocols: our clients on a listener."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from gateway.wire import h2_frames as h2
from gateway.wire.exchange import RequestHead
from gateway.wire.fields import Fields
from gateway.wire.h1_client import Http1Client
from gateway.wire.h2_client import Http2Client
from gateway.wire.listener import Listener
from gateway.wire.settings import ClientWireSettings, ServerWireSettings
from tests.parts.h2_peer import HELLO, REQUEST, Watched, frames_of, headers
from tests.parts.h2_sockets import Answer
from tests.parts.waiting import until

TEXT = (Fields([("content-type", "text/plain")]),)

ASKED = headers(1, *REQUEST[:2], (":path", "/hold"), ends=True)

both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
both_protocols = pytest.mark.parametrize(
    "protocol", [Http1Client, Http2Client], ids=["HTTP/1.1", "HTTP/2"]
)


class Front:
    """`/hold` is kept, all else is greeted."""

    def __init__(self):
        self.heads: list[RequestHead] = []
        self.held = []
        self.gone: list[str] = []

    def begin(self, exchange, body):
        self.heads.append(exchange.head)
        exchange.sink = self
        if exchange.head.path == "/hold":
            self.held.append(exchange)
        else:
            exchange.respond(200, TEXT, b"hello")

    def on_data(self, data): ...
    def on_end(self, trailers): ...
    def on_writable(self): ...

    def on_gone(self, cause):
        self.gone.append(cause)


class Counted(Watched):
    """Counts all connections that there have been."""

    def __init__(self):
        super().__init__()
        self.ever = 0

    def opened(self, protocol):
        super().opened(protocol)
        self.ever += 1


class Served:
    """A listener, a client of it, and what they know."""

    def __init__(self, client, settings):
        self.front, self.watch = Front(), Counted()
        self.listener = Listener(self.front, settings, watch=self.watch)
        self.client = client
        self.address = ""

    def ask(self, path="/", method="GET") -> Answer:
        answer = Answer()
        self.client.request(self.address, method, path, (), b"", answer)
        return answer


@asynccontextmanager
async def served(protocol, **settings):
    client = protocol()
    one = Served(client, ServerWireSettings(**settings))
    sock = socket.create_server(("127.0.0.1", 0))
    one.address = "{}:{}".format(*sock.getsockname())
    await one.listener.start(sock)
    try:
        yield one
    finally:
        await client.aclose()
        await one.listener.stop(0)
    assert one.watch.open == one.listener.connections == 0


@both_loops
@both_protocols
def test_head_and_options(run, protocol):
    async def main():
        async with served(protocol) as one:
            head = await one.ask(method="HEAD").wait()
            assert (head.body, head.head.get("content-length")) == (b"", "5")
            for path in ("*", "/a"):
                options = await one.ask(path, "OPTIONS").wait()
                assert (options.head.status, options.body) == (200, b"hello")
            assert (await one.ask().wait()).body == b"hello"
            seen = [(head.method, head.path) for head in one.front.heads]
            assert seen == [("HEAD", "/"), ("OPTIONS", "*"), ("OPTIONS", "/a"), ("GET", "/")]
            assert one.watch.ever == 1

    run(main())


@both_loops
def test_an_idle_connection_of_http_1_1_is_let_go(run):
    async def main():
        async with served(Http1Client, keepalive_s=0.1) as one:
            reader, writer = await asyncio.open_connection(*one.address.split(":"))
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
            said = await reader.read()
            assert said.count(b"HTTP/1.1 200 OK") == 2
            assert b"connection: close" not in said
            assert one.watch.causes == []
            writer.close()
            await writer.wait_closed()

    run(main())


@both_loops
@pytest.mark.parametrize("first", [b"", ASKED], ids=["idle", "waited for"])
def test_a_silent_connection_of_http_2_is_asked_whether_it_lives(run, first):
    """A caller of plain bytes: it answers twice, and the third time it does not."""

    async def main():
        interval_s = 0.1 if first else 0.01  # that of idle ones is ten times as long
        async with served(Http2Client, ping_interval_s=interval_s, ping_timeout_s=1.5) as one:
            host, _, port = one.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(HELLO + h2.SETTINGS_ACK + first)
            for _ in range(2):
                ping = await _next_ping(reader)
                assert one.watch.open == 1
                writer.write(h2.ping(ping, is_ack=True))
            await _next_ping(reader)
            (goaway,) = frames_of(await reader.read())
            assert (goaway.kind, goaway.code) == (h2.GOAWAY, h2.NO_ERROR)
            assert one.watch.causes == ["ping_timeout"]
            assert one.front.gone == (["ping_timeout"] if first else [])
            writer.close()
            await writer.wait_closed()

    run(main())


async def _next_ping(reader: asyncio.StreamReader) -> bytes:
    while True:
        high, low, kind, flags, _ = h2.unpack_head(await reader.readexactly(9))
        payload = await reader.readexactly(high << 8 | low)
        if kind == h2.PING and not flags & h2.ACK:
            return payload


@both_loops
def test_a_silent_server_of_http_2_is_asked_and_left(run):
    async def main():
        async def silent(reader, writer):
            writer.write(h2.settings_frame({}))
            with suppress(ConnectionError):
                while await reader.read(1000):
                    pass
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        client = Http2Client(ClientWireSettings(ping_interval_s=0.05, ping_timeout_s=0.05))
        async with server:
            answer = Answer()
            address = "{}:{}".format(*server.sockets[0].getsockname())
            client.request(address, "POST", "/", (), b"", answer)
            await answer.wait()
            assert (answer.error.reason, answer.error.sent) == ("reset", True)
            assert "ping_timeout" in answer.error.message
            await client.aclose()

    run(main())


@both_loops
@both_protocols
def test_a_stop_answers_what_is_under_way_and_takes_nothing_new(run, protocol):
    async def main():
        async with served(protocol) as one:
            await one.ask().wait()
            held = one.ask("/hold")
            await until(lambda: one.front.held)
            async with asyncio.TaskGroup() as tasks:
                stopping = tasks.create_task(one.listener.stop(30))
                await until(lambda: one.listener.is_stopped)
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(*one.address.split(":"))
                assert not stopping.done()
                one.front.held[0].respond(200, TEXT, b"the last")
                assert (await held.wait()).body == b"the last"
            assert one.listener.connections == 0
            if protocol is Http1Client:
                assert held.head.get("connection") == "close"
            late = (await one.ask().wait()).error
            assert (late.reason, late.sent) == ("connect_refused", False)
            assert one.watch.causes == []

    run(main())


@both_loops
@both_protocols
def test_a_stop_ends_what_takes_longer_than_it_may(run, protocol):
    async def main():
        async with served(protocol) as one:
            held = one.ask("/hold")
            await until(lambda: one.front.held)
            await one.listener.stop(0.05)
            assert (await held.wait()).error.sent
            assert len(one.front.gone) == 1

    run(main())


@both_loops
@both_protocols
def test_connections_grow_old_and_nobody_notices(run, protocol):
    """A caller who always asks is moved from one connection to the next without a failure."""

    async def main():
        often = {"max_connection_age_s": 0.05, "head_timeout_s": 0.1}  # how often it looks
        async with served(protocol, **often) as one:
            answers = 0
            while one.watch.ever < 4:
                answer = await one.ask().wait()
                assert answer.error is None
                assert answer.body == b"hello"
                answers += 1
            assert answers > 10
            assert one.watch.causes == []

    run(main())


@both_loops
@both_protocols
def test_an_old_connection_has_the_time_of_grace(run, protocol):
    async def main():
        often = {"max_connection_age_s": 0.01, "age_grace_s": 30.0, "head_timeout_s": 0.1}
        async with served(protocol, **often) as one:
            held = one.ask("/hold")
            await until(lambda: one.front.held)
            (connection,) = one.listener._connections
            if protocol is Http1Client:
                await until(lambda: connection.is_closing)
            # It has been told to end when another request does not go over it any more.
            while one.watch.ever == 1:
                assert (await one.ask().wait()).error is None
            one.front.held[0].respond(200, TEXT, b"in time")
            assert (await held.wait()).body == b"in time"

    run(main())


@both_loops
@both_protocols
def test_an_old_connection_has_no_more_than_that(run, protocol):
    async def main():
        often = {"max_connection_age_s": 0.01, "age_grace_s": 0.05, "head_timeout_s": 0.1}
        async with served(protocol, **often) as one:
            held = one.ask("/hold")
            assert (await held.wait()).error.sent
            assert one.front.gone == ["retired"]
            assert one.watch.causes == []

    run(main())
