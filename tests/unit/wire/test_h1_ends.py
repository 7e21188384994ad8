"""How exchanges over HTTP/1.1 end when something is not as it should be."""

from __future__ import annotations

import asyncio

import pytest

from gateway.wire.exchange import WireError
from gateway.wire.fields import Fields
from gateway.wire.settings import ServerWireSettings
from tests.parts.wire_h1 import (
    TEXT,
    Answer,
    Counts,
    Front,
    ask,
    asked,
    clients,
    said,
    served,
    until,
)


class Told(Front):
    """Does with an exchange what a test says."""

    def __init__(self, deed):
        super().__init__()
        self.deed = deed

    def begin(self, exchange, body):
        if exchange.head.path == "/told":
            exchange.sink = self
            self.deed(exchange)
        else:
            super().begin(exchange, body)

    def on_data(self, data):
        raise RuntimeError("a bug")

    def on_end(self, trailers): ...

    def on_gone(self, cause):
        self.gone.append(cause)


def _streamed(status, length, *pieces):
    def deed(exchange):
        exchange.start(status, TEXT, length)
        for piece in pieces:
            exchange.write(piece)
        exchange.end()

    return deed


TOLD = asked("/told", last=False)
NEXT = asked(body=b"next")


@pytest.mark.parametrize(
    "deed",
    [
        lambda exchange: exchange.respond(204, (), b"not to be sent"),
        lambda exchange: exchange.respond(304, (), b"not to be sent"),
        _streamed(204, None, b"not to be sent"),
        _streamed(304, 14, b"not to be sent"),
    ],
)
async def test_an_answer_that_has_no_body_gets_none(deed):
    async with served(Told(deed)) as address:
        answer = await said(address, TOLD + NEXT)
    assert b"not to be sent" not in answer
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"\r\n\r\nnext")


@pytest.mark.parametrize("pieces", [(b"abc",), (b"abc", b"def"), ()])
async def test_an_answer_of_another_length_than_was_said_is_the_last(pieces):
    async with served(Told(_streamed(200, 4, *pieces))) as address:
        answer = await said(address, TOLD + NEXT)
    assert answer.count(b"HTTP/1.1") == 1, "the next answer would be taken for this one's rest"


async def test_a_paused_body_whose_request_is_answered_is_dropped():
    def deed(exchange):
        exchange.accept_body()
        exchange.pause()
        exchange.respond(400, TEXT, b"no")
        exchange.pause()

    first = asked("/told", extra="Content-Length: 50000\r\n", last=False)
    async with served(Told(deed)) as address:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(first)
        await reader.readuntil(b"no")
        writer.write(b"x" * 50_000 + NEXT)
        answer = await reader.read(-1)
        writer.close()
    assert answer.endswith(b"next")


async def test_a_body_that_is_to_be_dropped_has_to_come_in_time():
    counts = Counts()
    settings = ServerWireSettings(body_timeout_s=0.05)
    async with served(Front(), settings, counts) as address:
        answer = await said(address, asked("/refuse", extra="Content-Length: 9\r\n", last=False))
    assert answer.endswith(b"too large")
    assert counts.causes == ["body_timeout"]


async def test_an_answer_below_the_high_mark_that_is_not_taken_is_let_go_too():
    counts = Counts()
    settings = ServerWireSettings(write_timeout_s=0.1, write_high_bytes=1 << 30)
    front = Told(lambda exchange: exchange.respond(200, TEXT, b"x" * 30_000_000))
    async with served(front, settings, counts) as address:
        host, port = address.split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(asked("/told"))
        await until(lambda: counts.open == 1)
        await until(lambda: counts.open == 0)
        writer.transport.abort()
    assert counts.causes == ["write_timeout"]


async def test_one_empty_line_before_a_request_is_ignored_and_no_more():
    counts = Counts()
    async with served(Front(), counts=counts) as address:
        answer = await said(address, b"\r\n" + asked(last=False) + b"\r\n" + asked(body=b"next"))
        assert answer.endswith(b"next")
        assert await said(address, b"\r\n\r\n" + asked()) == b""
    assert counts.causes == ["bad_request"]


async def test_a_bug_of_a_sink_costs_its_connection_and_is_logged(caplog):
    front = Told(lambda exchange: exchange.accept_body())
    async with served(front) as address:
        assert await said(address, asked("/told", extra="Content-Length: 9\r\n") + b"abc") == b""
    assert "request.bug" in caplog.text
    assert front.gone == ["bug"]


async def test_pipelined_requests_behind_the_last_one_do_not_cost_its_answer():
    async with served(Front()) as address:
        answer = await said(address, asked(body=b"last") + asked(body=b"x" * 50_000) * 20)
    assert answer.endswith(b"\r\n\r\nlast")


async def test_tiny_chunks_are_handed_on_together():
    pieces = []

    class Counted(Told):
        def on_data(self, data):
            pieces.append(data)

        def on_end(self, trailers):
            self.exchange.respond(200, TEXT, b"".join(pieces))

    front = Counted(lambda exchange: (setattr(front, "exchange", exchange), exchange.accept_body()))
    head = asked("/told", extra="Transfer-Encoding: chunked\r\n")
    async with served(front) as address:
        answer = await said(address, head + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
    assert answer.endswith(b"x" * 5000)
    assert len(pieces) < 100


# ---- client --------------------


async def test_an_answer_without_a_body_needs_no_length_to_leave_its_connection_usable():
    counts = Counts()
    async with served(Front(), counts=counts) as address, clients() as client:
        first = await ask(client, address, "/none")
        again = await ask(client, address, "/none")
        assert (first.head.status, again.head.status) == (204, 204)
        assert first.head.get("connection") is None
        assert counts.open == 1


async def test_an_answer_that_its_own_client_cuts_off_is_not_complete():
    async def serve(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with clients() as client:
        sink = Answer()
        client.request(f"{host}:{port}", "GET", "/", (), b"", sink)
        await until(lambda: sink.body)
        await client.aclose()
        with pytest.raises(WireError) as failed:
            await sink.done
    server.close()
    assert failed.value.reason == "reset"


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:x", "127.0.0.1:99999", "a" * 70 + ":1"])
async def test_an_address_that_is_none_fails_unsent(address):
    async with clients() as client:
        with pytest.raises(WireError) as failed:
            await ask(client, address)
    assert (failed.value.reason, failed.value.sent) == ("connect_refused", False)


async def test_ipv6_addresses_are_written_in_brackets():
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.read(-1)
        writer.close()

    try:
        server = await asyncio.start_server(serve, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    port = server.sockets[0].getsockname()[1]
    async with clients() as client:
        assert (await ask(client, f"[::1]:{port}")).head.status == 200
    server.close()


async def test_fields_are_sent_as_they_are_given():
    front = Front()
    fields = (Fields([("x-a", "1")]), Fields([("x-b", "é")]))
    async with served(front) as address, clients() as client:
        sink = Answer()
        client.request(address, "POST", "/?q=%20", fields, b"abc", sink)
        await sink.done
    (head,) = front.heads
    assert head.fields == (("x-a", "1"), ("x-b", "é"), ("content-length", "3"))
    assert (head.method, head.path, head.authority) == ("POST", "/?q=%20", address)
