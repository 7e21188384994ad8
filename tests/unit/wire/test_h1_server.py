"""HTTP/1.1 over real sockets: our server against raw bytes."""

from __future__ import annotations

import asyncio

import pytest

from gateway.wire.settings import ServerWireSettings
from tests.parts.wire_h1 import LOOPS, TEXT, Counts, Front, asked, run, said, served, until


@LOOPS
def test_pipelined_requests_are_answered_in_order_whatever_they_are(loop_factory):
    async def main():
        front = Front()
        async with served(front) as address:
            data = b"".join(
                (
                    asked(body=b"one", last=False),
                    asked("/pieces", last=False),
                    asked(extra="Transfer-Encoding: chunked\r\n", last=False),
                    b"3\r\nabc\r\n0\r\n\r\n",
                    asked("/none", last=False),
                    asked("/known", method="HEAD", last=False),
                    asked(body=b"last"),
                )
            )
            whole = await said(address, data)
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            for at in range(len(data)):
                writer.write(data[at : at + 1])
                await asyncio.sleep(0)
            cut = await reader.read(-1)
            writer.close()
        return whole, cut, front

    whole, cut, front = run(loop_factory, main)
    ours = [line for line in whole.split(b"\r\n") if not line.startswith(b"date")]
    assert ours == [line for line in cut.split(b"\r\n") if not line.startswith(b"date")]
    assert whole.count(b"HTTP/1.1 200 OK") == 5
    assert whole.count(b"HTTP/1.1 204 No Content") == 1
    assert b"4\r\none,\r\n3\r\ntwo\r\n0\r\n\r\n" in whole
    assert whole.endswith(b"\r\n\r\nlast")
    assert b"abcdef" not in whole, "HEAD has no body"
    assert len(front.heads) == 12


@LOOPS
def test_the_same_head_is_the_same_object(loop_factory):
    async def main():
        front = Front()
        async with served(front) as address:
            await said(address, asked("/same", body=b"1"))
            await said(address, asked("/same", body=b"2"))
        return front.heads

    first, second = run(loop_factory, main)
    assert first is second


CASES: dict[str, tuple[bytes, bytes, list[str]]] = {
    "a body that is announced": (
        asked(extra="Content-Length: 5\r\nExpect: 100-continue\r\n"), b"HTTP/1.1 100 Continue", [],
    ),
    "both framings": (
        asked(extra="Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), b"HTTP/1.1 400",
        ["bad_request"],
    ),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", b"HTTP/1.1 400", ["bad_request"]),
    "a long line": (b"GET /" + b"a" * 20_000, b"HTTP/1.1 414", ["head_too_large"]),
    "a large field": (
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000, b"HTTP/1.1 431", ["head_too_large"],
    ),
    "a bad chunk": (
        asked(extra="Transfer-Encoding: chunked\r\n") + b"x\r\n", b"HTTP/1.1 400", ["bad_request"],
    ),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"", ["bad_request"]),
    "HTTP/1.0": (b"GET /pieces HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK", []),
}  # fmt: skip


@pytest.mark.parametrize(("data", "start", "causes"), CASES.values(), ids=CASES.keys())
async def test_what_comes_is_answered_or_refused_and_counted(data, start, causes):
    front, counts = Front(), Counts()
    async with served(front, counts=counts) as address:
        answer = await said(address, data, eof=True)
    assert answer.startswith(start)
    assert counts.causes == causes
    assert counts.open == 0


async def test_a_refused_body_is_not_read_and_the_answer_arrives():
    front = Front()
    async with served(front) as address:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(asked("/refuse", extra="Content-Length: 100000000\r\n", last=False))
        writer.write(b"x" * 100_000)
        answer = await reader.read(-1)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer
    assert answer.endswith(b"too large")


async def test_a_small_refused_body_leaves_the_connection_usable():
    front = Front()
    async with served(front) as address:
        first = asked("/refuse", extra="Content-Length: 1000\r\n", last=False)
        answer = await said(address, first + b"x" * 1000 + asked(body=b"next"))
    assert b"HTTP/1.1 413" in answer
    assert answer.endswith(b"next")


async def test_a_caller_that_leaves_is_told_of():
    front = Front()
    async with served(front) as address:
        host, port = address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(asked("/hold", last=False))
        await front.began.wait()
        writer.transport.abort()
        await until(lambda: front.gone)
        front.held[0].respond(200, TEXT, b"too late")
    assert front.gone == ["closed"]


async def test_a_caller_that_stops_sending_counts_as_gone():
    front = Front()
    async with served(front) as address:
        assert await said(address, asked("/hold", last=False), eof=True) == b""
    assert front.gone == ["closed"]


async def test_an_answer_that_breaks_off_is_seen_to_be_incomplete():
    front = Front()
    async with served(front) as address:
        answer = await said(address, asked("/abort", last=False))
    assert b"content-length: 10" in answer
    assert answer.endswith(b"abc")


async def test_a_bug_of_the_front_closes_the_connection_and_is_logged(caplog):
    front = Front()
    async with served(front) as address:
        assert await said(address, asked("/bug", last=False)) == b""
    assert "request.bug" in caplog.text


@pytest.mark.parametrize(
    ("settings", "data", "cause", "start"),
    [
        (ServerWireSettings(head_timeout_s=0.05), b"GET / HT", "head_timeout", b"HTTP/1.1 408"),
        (
            ServerWireSettings(body_timeout_s=0.05),
            asked(extra="Content-Length: 9\r\n", last=False) + b"x", "body_timeout", b"",
        ),
        (ServerWireSettings(keepalive_s=0.05), asked(last=False), None, b"HTTP/1.1 200"),
    ],
)  # fmt: skip
async def test_who_is_silent_too_long_is_let_go(settings, data, cause, start):
    front, counts = Front(), Counts()
    async with served(front, settings, counts) as address:
        answer = await said(address, data)
    assert answer.startswith(start)
    assert counts.causes == ([cause] if cause else [])


async def test_a_head_that_comes_byte_by_byte_is_timed_from_its_first_byte():
    counts = Counts()
    async with served(Front(), ServerWireSettings(head_timeout_s=0.1), counts) as address:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))

        async def trickle():
            while True:
                writer.write(b"a")
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as tasks:
            trickling = tasks.create_task(trickle())
            answer = await reader.read(-1)
            trickling.cancel()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert counts.causes == ["head_timeout"]


async def test_a_reader_who_does_not_read_is_let_go_and_memory_stays_bounded():
    front, counts = Front(), Counts()
    settings = ServerWireSettings(write_timeout_s=0.1, write_high_bytes=1000)
    async with served(front, settings, counts) as address:
        host, port = address.split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(asked("/hold", last=False))
        await front.began.wait()
        exchange = front.held[0]
        exchange.start(200, TEXT, None)
        async with asyncio.timeout(30):
            while not front.gone:
                if not exchange.is_congested:
                    exchange.write(b"x" * 100_000)
                await asyncio.sleep(0)
        writer.transport.abort()
    assert counts.causes == ["write_timeout"]


async def test_draining_closes_idle_connections_and_answers_busy_ones_for_the_last_time():
    front = Front()
    async with served(front) as address:
        host, port = address.split(":")
        idle, idle_writer = await asyncio.open_connection(host, int(port))
        busy, busy_writer = await asyncio.open_connection(host, int(port))
        busy_writer.write(asked("/hold", last=False))
        await front.began.wait()
        for connection in list(front.connections):
            connection.drain()
        assert await idle.read(-1) == b""
        front.held[0].respond(200, TEXT, b"bye")
        answer = await busy.read(-1)
        idle_writer.close()
        busy_writer.close()
    assert b"connection: close" in answer
    assert answer.endswith(b"bye")
