"""HTTP/2 over real sockets, on both event loops: our client against our server and raw bytes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest
import uvloop

from gateway.wire import h2_client
from gateway.wire import h2_frames as h2
from gateway.wire.settings import ClientWireSettings, ServerWireSettings
from tests.parts.h2_peer import HELLO, REQUEST, frames_of, headers
from tests.parts.h2_sockets import Answer, EchoFront, Served, ask, client_of, served
from tests.parts.waiting import until

pytestmark = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def test_client_and_server_understand_each_other(run):
    async def main():
        async with served() as server, client_of() as client:
            for size in (0, 1, 1000, 100_000, 5_000_000):
                answer = await ask(client, server.address, b"x" * size).wait()
                assert answer.error is None
                assert len(answer.body) == size
                assert answer.trailers == (("grpc-status", "0"),)
            answers = [ask(client, server.address, b"y" * (n * 500)) for n in range(300)]
            for n, answer in enumerate(answers):
                assert (await answer.wait()).body == b"y" * (n * 500)
            assert 1 <= len(server.connections) <= 4
            get = await ask(client, server.address, method="GET").wait()
            assert (get.body, get.head.get("content-length")) == (b"hello\n", "6")
        assert server.watch.open == 0
        assert server.watch.causes == []

    run(main())


def test_a_body_in_pieces_goes_no_faster_than_it_is_read(run):
    async def main():
        front = EchoFront()
        settings = ClientWireSettings(write_high_bytes=1 << 18)
        async with served(front) as server, client_of(settings) as client:
            answer = ask(client, server.address, None)
            answer.exchange.pause()
            sent = 0
            while not answer.exchange.is_congested:
                answer.exchange.write(b"x" * 65_536)
                sent += 65_536
                await asyncio.sleep(0)
            # Windows of both directions and what each side lets wait, and no more.
            assert sent < 16 << 20
            answer.exchange.resume()
            await until(lambda: answer.writable)
            answer.exchange.end()
            await answer.wait()
            assert len(answer.body) == sent

    run(main())


def test_another_connection_is_opened_when_one_is_full(run):
    async def main():
        settings = ClientWireSettings(h2_streams=2, h2_connections=3)
        async with served() as server, client_of(settings) as client:
            held = [ask(client, server.address, path="/hold") for _ in range(20)]
            await until(lambda: len(server.front.held) == 20)
            for _ in range(20):
                held.append(ask(client, server.address, path="/hold"))
                await until(lambda: len(server.front.held) == len(held))
            assert len(server.connections) == 3
            for exchange in list(server.front.held):
                exchange.respond(200, (), b"")
            for answer in held:
                assert (await answer.wait()).head.status == 200

    run(main())


def test_requests_beyond_the_servers_limit_wait_for_room(run):
    async def main():
        bounds = ServerWireSettings(max_streams=3)
        settings = ClientWireSettings(h2_connections=1)
        async with served(settings=bounds) as server, client_of(settings) as client:
            await ask(client, server.address).wait()  # the limit is known now
            answers = [ask(client, server.address, b"x" * 1000) for _ in range(100)]
            for answer in answers:
                assert (await answer.wait()).error is None
            assert server.watch.causes == []

    run(main())


def test_requests_that_wait_are_bounded_and_may_be_cancelled(run):
    async def main():
        settings = ClientWireSettings(h2_waiting=2)
        async with served() as server, client_of(settings) as client:
            first, second, third = (ask(client, server.address) for _ in range(3))
            assert third.error is None  # not before `request` has returned
            first.exchange.cancel()
            assert (await third.wait()).error.sent is False
            assert (await second.wait()).head.status == 200
            assert first.head is None

    run(main())


def test_who_cannot_be_reached_is_told_apart(run):
    async def main():
        async with client_of(ClientWireSettings(connect_timeout_s=20.0)) as client:
            async with served() as server:
                gone = server.address
            error = (await ask(client, gone).wait()).error
            assert (error.reason, error.sent) == ("connect_refused", False)
            error = (await ask(client, "nonsense").wait()).error
            assert (error.reason, error.sent) == ("connect_refused", False)
            # Asked again at once, it is tried again at once.
            again = Served(EchoFront())
            async with again.listening():
                assert (await ask(client, again.address).wait()).head.status == 200

    run(main())


def test_a_server_that_does_not_accept_is_not_waited_for(run):
    async def main():
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = f"127.0.0.1:{full.getsockname()[1]}"
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            async with client_of(ClientWireSettings(connect_timeout_s=0.1)) as client:
                error = (await ask(client, address).wait()).error
                assert (error.reason, error.sent) == ("connect_timeout", False)
            for filler in fillers:
                filler.close()

    run(main())


@pytest.mark.parametrize(
    ("says", "reason", "sent"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "bad_answer", False),
        (b"", "reset", True),
        (h2.settings_frame({}) + h2.rst_stream(1, 7), "reset", False),
        (h2.settings_frame({}) + h2.goaway(0, 0), "reset", False),
    ],
)
def test_servers_that_do_not_answer(run, says, reason, sent):
    async def main():
        async def answer(reader, writer):
            await reader.read(10)
            writer.write(says)
            if not says:
                writer.close()
            else:
                await reader.read()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, client_of() as client:
            error = (await ask(client, address).wait()).error
            assert (error.reason, error.sent) == (reason, sent)

    run(main())


def test_addresses_that_have_left_are_closed_when_they_are_done(run):
    async def main():
        async with served() as server, client_of() as client:
            held = ask(client, server.address, path="/hold")
            await until(lambda: server.front.held)
            client.keep(set())
            assert held.error is None
            server.front.held[0].respond(200, (), b"done")
            assert (await held.wait()).body == b"done"
            await until(lambda: not server.connections)
            assert repr(client) == "Http2Client(0 addresses, 0 connections)"
            assert (await ask(client, server.address).wait()).head.status == 200
            client.keep({server.address})
            assert len(server.connections) == 1
            client.keep(set())
            await until(lambda: not server.connections)

    run(main())


def test_an_address_that_is_dropped_fails_what_is_under_way_there_and_is_asked_anew(run):
    async def main():
        async with served() as server, served() as other, client_of() as client:
            held = ask(client, server.address, path="/hold")
            elsewhere = ask(client, other.address, path="/hold")
            await until(lambda: server.front.held and other.front.held)
            waits = ask(client, server.address, path="/hold")
            client.drop(server.address)
            client.drop("127.0.0.1:1")
            assert (await held.wait()).error.sent
            assert (await waits.wait()).error is not None
            await until(lambda: not server.connections)
            assert elsewhere.error is None
            other.front.held[0].respond(200, (), b"done")
            assert (await elsewhere.wait()).body == b"done"
            assert (await ask(client, server.address).wait()).head.status == 200

    run(main())


def test_an_answer_before_the_request_is_complete_arrives(run):
    async def main():
        async with served() as server, client_of() as client:
            for _ in range(50):
                answer = ask(client, server.address, None, "/early")
                answer.exchange.write(b"x" * 100_000)
                await answer.wait()
                assert answer.error is None
                assert (answer.body, answer.trailers) == (b"enough", (("grpc-status", "0"),))
            assert len(server.connections) == 1

    run(main())


def test_a_bug_of_the_servers_user_costs_one_connection(run, caplog):
    async def main():
        async with served() as server, client_of() as other, client_of() as client:
            await ask(other, server.address).wait()
            held = ask(client, server.address, path="/hold")
            await until(lambda: server.front.held)
            broken = ask(client, server.address, None, "/bug")
            broken.exchange.write(b"x")
            assert (await broken.wait()).error.sent
            assert (await held.wait()).error.sent
            assert sorted(server.front.gone) == ["bug", "bug"]
            # Answers that are made by tasks and timers still leave, on every connection.
            for one in (other, client):
                late = ask(one, server.address, path="/hold")
                await until(lambda: len(server.front.held) == 2)
                server.front.held.pop().respond(200, (), b"late")
                assert (await late.wait()).body == b"late"
        assert "request.bug" in caplog.text

    run(main())


def test_a_bug_of_the_clients_user_costs_one_connection(run, caplog):
    class Buggy(Answer):
        def on_whole(self, head, body, trailers):
            raise RuntimeError("a bug")

    async def main():
        async with served() as server, client_of() as client:
            held = ask(client, server.address, path="/hold")
            await until(lambda: server.front.held)
            client.request(server.address, "POST", "/", (), b"x", Buggy())
            assert (await held.wait()).error.reason == "reset"
            assert (await ask(client, server.address, b"again").wait()).body == b"again"
        assert "answer.bug" in caplog.text

    run(main())


def test_a_server_that_reads_nothing_does_not_hold_up_closing_the_client(run, monkeypatch):
    monkeypatch.setattr(h2_client, "_LOST_S", 0.05)

    async def main():
        async def deaf(reader, writer):
            writer.write(h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 1 << 30}))
            writer.write(h2.window_update(0, 1 << 30))
            writer.transport.pause_reading()
            deaf_ones.append(writer)

        deaf_ones = []
        server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1024)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = ClientWireSettings(write_high_bytes=1 << 30)  # so that it never counts as full
        async with server:
            async with client_of(settings) as client:
                answer = ask(client, address, None)
                await until(lambda: deaf_ones and client._places[address].connections)
                connection = client._places[address].connections[0]
                await until(lambda: connection.side.core.sender.window > 1 << 29)
                answer.exchange.write(bytes(64 << 20))
                await until(lambda: connection.side.core.sender.queued == 0)
            assert answer.error.reason == "reset"
            deaf_ones[0].transport.abort()

    run(main())


def test_closing_the_client_fails_what_is_under_way(run):
    async def main():
        async with served() as server:
            async with client_of() as client:
                held = ask(client, server.address, path="/hold")
                await until(lambda: server.front.held)
                waiting = ask(client, "127.0.0.1:1")
            assert held.error.reason == "reset"
            assert waiting.error.sent is False
            await until(lambda: server.front.gone)
            assert (await ask(client, server.address).wait()).error.sent is False

    run(main())


def test_cancelling_tells_the_server(run):
    async def main():
        async with served() as server, client_of() as client:
            held = ask(client, server.address, path="/hold")
            await until(lambda: server.front.held)
            held.exchange.cancel()
            await until(lambda: server.front.gone == ["reset"])
            assert held.error is None

    run(main())


def test_a_draining_server_answers_and_its_client_goes_elsewhere(run):
    async def main():
        async with served() as server, client_of() as client:
            held = ask(client, server.address, path="/hold")
            await until(lambda: server.front.held)
            (connection,) = server.connections
            assert not connection.is_idle
            connection.drain()
            await until(lambda: not client._places[server.address].connections[0].has_room)
            assert (await ask(client, server.address).wait()).head.status == 200
            server.front.held[0].respond(200, (), b"done")
            assert (await held.wait()).body == b"done"
            await until(lambda: connection not in server.connections)

    run(main())


def test_a_lost_server_fails_requests_and_the_next_one_reconnects(run):
    async def main():
        async with served() as server, client_of() as client:
            held = ask(client, server.address, path="/hold")
            await until(lambda: server.front.held)
            for connection in list(server.connections):
                connection._pipe.transport.abort()
            error = (await held.wait()).error
            assert (error.reason, error.sent) == ("reset", True)
            assert (await ask(client, server.address).wait()).head.status == 200

    run(main())


def test_a_caller_that_does_not_read_is_closed(run):
    async def main():
        settings = ServerWireSettings(write_timeout_s=0.2, write_high_bytes=1 << 16)
        async with served(settings=settings) as server:
            host, _, port = server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.transport.pause_reading()
            wide = h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 1 << 30})
            big = headers(1, *REQUEST[:2], (":path", "/big"), ends=True)
            writer.write(h2.PREFACE + wide + h2.window_update(0, 1 << 30) + big)
            await until(lambda: not server.connections)
            # Of the answer, then of the connection, or of both at once.
            assert set(server.watch.causes) == {"write_timeout"}
            assert server.front.gone == ["write_timeout"]
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()
            del reader

    run(main())


def test_a_silent_newcomer_is_closed(run):
    async def main():
        async with served(settings=ServerWireSettings(head_timeout_s=0.05)) as server:
            host, _, port = server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(HELLO[:10])
            raw = await reader.read()
            assert frames_of(raw)[-1].kind == h2.GOAWAY
            assert server.watch.causes == ["head_timeout"]
            writer.close()
            await writer.wait_closed()

    run(main())


def test_many_requests_in_one_read_are_answered_in_one_write(run):
    async def main():
        async with served() as server:
            host, _, port = server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(HELLO)
            await reader.readexactly(9)
            (connection,) = server.connections
            writes = []
            transport = connection._pipe.transport

            class Counting:
                def write(self, data):
                    writes.append(data)
                    transport.write(data)

                def __getattr__(self, name):
                    return getattr(transport, name)

            connection._pipe.transport = Counting()
            writer.write(b"".join(headers(n, *REQUEST, ends=True) for n in range(1, 41, 2)))
            await until(lambda: sum(map(len, writes)) > 20 * 40)
            assert len(writes) == 1
            writer.close()
            await writer.wait_closed()

    run(main())
