"""HTTP/1.1 over real sockets: our client against our server, and against raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.wire.exchange import WireError
from gateway.wire.fields import Fields
from tests.parts.wire_h1 import LOOPS, TEXT, Answer, Counts, Front, ask, clients, run, served, until


@LOOPS
def test_client_and_server_understand_each_other(loop_factory):
    async def main():
        front, counts = Front(), Counts()
        async with served(front, counts=counts) as address, clients() as client:
            assert (await ask(client, address, body=b"x" * 300_000)).body == b"x" * 300_000
            assert (await ask(client, address, "/pieces")).body == b"one,two"
            assert (await ask(client, address, "/known", method="HEAD")).body == b""
            assert (await ask(client, address, "/none")).head.status == 204
            sink = Answer()
            exchange = client.request(address, "POST", "/", TEXT, None, sink)
            exchange.write(b"first,")
            exchange.write(b"second")
            exchange.end()
            assert (await sink.done).body == b"first,second"
            sink = Answer()
            exchange = client.request(address, "POST", "/", TEXT, None, sink, length=5)
            exchange.write(b"abcde")
            exchange.end()
            assert (await sink.done).body == b"abcde"
            assert counts.open == 1, "one connection did it all"
        assert counts.open == 0

    run(loop_factory, main)


@asynccontextmanager
async def scripted(answer: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[str]:
    """A server that reads a head and then does as told."""

    async def serve(reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()


GIVEN: dict[str, tuple[bytes, bool, int, bytes]] = {
    "with a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", False, 200, b"abc"),
    "chunked, with a trailer": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        False, 200, b"abc",
    ),
    "until it closes": (b"HTTP/1.1 200 OK\r\n\r\nabc", True, 200, b"abc"),
    "after interim ones": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", False, 404, b"",
    ),
    "without a body": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", False, 304, b""),
}  # fmt: skip


@pytest.mark.parametrize(("data", "closes", "status", "body"), GIVEN.values(), ids=GIVEN.keys())
async def test_answers_of_every_framing(data, closes, status, body):
    def answer(writer):
        writer.write(data)
        if closes:
            writer.close()

    async with scripted(answer) as address, clients() as client:
        given = await ask(client, address)
    assert (given.head.status, given.body) == (status, body)


FAILED = {
    "garbage": (b"hello world\r\n\r\n", "bad_answer"),
    "an endless head": (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000, "bad_answer"),
    "a short body": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "reset"),
    "a cut chunked body": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", "reset",
    ),
    "a bad chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "bad_answer",
    ),
    "nothing": (b"", "reset"),
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "bad_answer"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), FAILED.values(), ids=FAILED.keys())
async def test_what_is_no_whole_answer_fails(data, reason):
    def answer(writer):
        writer.write(data)
        writer.close()

    async with scripted(answer) as address, clients() as client:
        with pytest.raises(WireError) as failed:
            await ask(client, address)
    assert failed.value.reason == reason
    assert failed.value.sent


async def test_a_server_that_is_not_there_refuses_unsent(unused_tcp_port):
    async with clients() as client:
        with pytest.raises(WireError) as failed:
            await ask(client, f"127.0.0.1:{unused_tcp_port}")
    assert failed.value.reason == "connect_refused"
    assert not failed.value.sent


async def test_requests_beyond_the_connections_wait_their_turn():
    front, counts = Front(), Counts()
    async with served(front, counts=counts) as address, clients(max_connections=2) as client:
        sinks = [Answer() for _ in range(5)]
        for sink in sinks:
            client.request(address, "POST", "/hold", TEXT, b"", sink)
        for _ in sinks:
            await until(lambda: front.held)
            assert counts.open <= 2
            front.held.pop(0).respond(200, TEXT, b"")
        for sink in sinks:
            await sink.done


async def test_cancelling_closes_the_connection_and_says_nothing_more():
    front = Front()
    async with served(front) as address, clients() as client:
        sink = Answer()
        exchange = client.request(address, "POST", "/hold", TEXT, b"", sink)
        await front.began.wait()
        exchange.cancel()
        await until(lambda: front.gone)
        assert sink.calls == []
        assert (await ask(client, address, body=b"again")).body == b"again"


async def test_an_address_that_leaves_is_let_go_when_it_is_done():
    front, counts = Front(), Counts()
    async with served(front, counts=counts) as address, clients() as client:
        sink = Answer()
        client.request(address, "POST", "/hold", TEXT, b"", sink)
        await ask(client, address, body=b"x")
        client.keep(set())
        await front.began.wait()
        front.held[0].respond(200, TEXT, b"done")
        assert (await sink.done).body == b"done"
        await until(lambda: not counts.open)


async def test_an_address_that_is_dropped_fails_what_is_under_way_there_and_nothing_else():
    front, counts, other_front = Front(), Counts(), Front()
    async with (
        served(front, counts=counts) as address,
        served(other_front) as other,
        clients(max_connections=1) as client,
    ):
        sink, waits, elsewhere = Answer(), Answer(), Answer()
        client.request(address, "POST", "/hold", TEXT, b"", sink)
        client.request(address, "POST", "/hold", TEXT, b"", waits)
        client.request(other, "POST", "/hold", TEXT, b"", elsewhere)
        await front.began.wait()
        await other_front.began.wait()
        client.drop(address)
        client.drop("127.0.0.1:1")
        with pytest.raises(WireError) as failed:
            await sink.done
        with pytest.raises(WireError) as unsent:
            await waits.done
        assert (failed.value.reason, failed.value.sent) == ("reset", True)
        assert (unsent.value.reason, unsent.value.sent) == ("connect_refused", False)
        await until(lambda: not counts.open)
        other_front.held[0].respond(200, TEXT, b"done")
        assert (await elsewhere.done).body == b"done"
        assert (await ask(client, address, body=b"again")).body == b"again"


async def test_back_pressure_holds_a_fast_server_and_a_fast_client():
    front = Front()
    async with served(front) as address, clients(write_high_bytes=1000) as client:
        sink = Answer()
        exchange = client.request(address, "POST", "/hold", TEXT, None, sink, length=1 << 30)
        written = 0
        await front.began.wait()
        for _ in range(2000):
            if exchange.is_congested:
                break
            exchange.write(b"x" * 65536)
            written += 65536
            await asyncio.sleep(0)
        assert exchange.is_congested, "nobody reads the body"
        assert written < 1 << 26
        exchange.cancel()
        sink = Answer()
        exchange = client.request(address, "POST", "/hold", TEXT, b"", sink)
        exchange.pause()
        await until(lambda: not len(front.held) < 2)
        exchange.pause()
        held = front.held[-1]
        held.start(200, TEXT, None)
        for _ in range(2000):
            if held.is_congested:
                break
            held.write(b"x" * 65536)
            await asyncio.sleep(0)
        assert held.is_congested, "the client takes nothing"
        assert len(sink.body) < 1 << 20
        exchange.resume()
        await until(lambda: front.writable)
        held.end()
        await sink.done


def test_a_target_or_field_cannot_break_out_of_its_line():
    async def main():
        async with clients() as client:
            for path, fields in (
                ("/a b", ()),
                ("/a\r\nX: y", ()),
                ("/", Fields([("a", "b\r\nc")])),
            ):
                with pytest.raises(ValueError, match="may not"):
                    client.request(
                        "127.0.0.1:1", "GET", path, (fields,) if fields else (), b"", None
                    )

    asyncio.run(main())
