"""The wire's clients against other people's servers: Go's, Node's, grpcio's, Python's own."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.wire.exchange import Client, WireError
from gateway.wire.fields import Fields
from gateway.wire.grpc_client import unary
from gateway.wire.grpc_text import Code
from gateway.wire.h1_client import Http1Client
from gateway.wire.h2_client import Http2Client
from gateway.wire.settings import ClientWireSettings
from gateway.wire.whole import Whole, whole
from tests.parts.both_loops import on_both_loops
from tests.parts.certificates import self_signed, trusting
from tests.parts.peer_front import MIB, pattern
from tests.parts.peer_servers import (
    Upload,
    go_server,
    grpc_server,
    node_server,
    peer,
    python_server,
)
from tests.parts.waiting import until

pytestmark = pytest.mark.slow

FIELDS = (Fields((("te", "trailers"), ("x-a", "b"))),)
LARGE = pattern(4 * MIB)


class Asking:
    """One client and one server."""

    def __init__(self, client: Client, address: str) -> None:
        self.client = client
        self.address = address

    async def __call__(self, path: str, body: bytes = b"", method: str = "GET") -> Whole:
        until_s = asyncio.get_running_loop().time() + 60.0
        return await whole(
            self.client, self.address, method, path, FIELDS, body,
            max_bytes=64 * MIB, deadline_at=until_s,
        )  # fmt: skip

    async def failure(self, path: str) -> WireError:
        with pytest.raises(WireError) as raised:
            await self(path)
        return raised.value

    @property
    def connections(self) -> int:
        return int(repr(self.client).split(", ")[1].split()[0])


@asynccontextmanager
async def asking(kind: str, address: str, **more: object) -> AsyncIterator[Asking]:
    settings = ClientWireSettings(max_connections=8)
    made = (Http1Client if kind == "h1" else Http2Client)(settings, **more)
    try:
        yield Asking(made, address)
    finally:
        await made.aclose()


@asynccontextmanager
async def opened() -> AsyncIterator[dict[str, Callable[..., object]]]:
    yield {"asked": asking}


both = on_both_loops(opened, "asked")
SERVERS = {
    "go-h1": ("h1", go_server),
    "go-h2c": ("h2", go_server),
    "node-h1": ("h1", lambda: node_server("--http1")),
    "node-h2c": ("h2", node_server),
}
on_servers = pytest.mark.parametrize("server", SERVERS)
on_h2_servers = pytest.mark.parametrize("server", ["go-h2c", "node-h2c"])


@asynccontextmanager
async def served(asked, server) -> AsyncIterator[tuple[Asking, str]]:
    kind, command = SERVERS[server]
    async with peer(command()) as address, asked(kind, address) as ask:
        yield ask, kind


@on_servers
@both
async def test_small_answers_of_every_form(asked, server):
    async with served(asked, server) as (ask, _):
        for path in ("/bytes/1000", "/stream/1000"):
            answer = await ask(path)
            assert (answer.head.status, answer.body) == (200, pattern(1000))
        head = await ask("/bytes/1234", method="HEAD")
        assert (head.head.content_length, head.body) == (1234, b"")
        assert (await ask("/echo", b"hello", "POST")).body == b"hello"
        assert (await ask("/refuse")).head.status == 413
        assert (await ask("/bytes/0")).body == b""
        assert ask.connections == 1


@on_servers
@both
async def test_large_bodies_both_ways(asked, server):
    async with served(asked, server) as (ask, _):
        answer = await ask("/echo", LARGE, "POST")
        assert answer.body == LARGE
        assert ("x-tail", "true") in answer.trailers
        assert (await ask(f"/stream/{4 * MIB}")).body == LARGE


@on_servers
@both
async def test_a_body_that_is_written_as_fast_as_it_is_taken(asked, server):
    async with served(asked, server) as (ask, _):
        upload = await Upload(ask.client, ask.address, "/echo", LARGE, 50_000).wait()
        assert upload.error is None
        assert upload.body == LARGE
        assert ("x-tail", "true") in upload.trailers
        assert upload.was_congested
        assert (await ask("/bytes/5")).body == pattern(5)


@on_servers
@both
async def test_many_requests_at_once(asked, server):
    """More than the server takes at once over HTTP/2, and than there may be connections."""

    async def insist(path: str) -> Whole:
        while True:
            try:
                return await ask(path)
            except WireError as error:
                # Before its first SETTINGS a server's limit is not known, and it may refuse.
                if error.sent:
                    raise

    async with served(asked, server) as (ask, _):
        async with asyncio.TaskGroup() as tasks:
            given = [tasks.create_task(insist(f"/bytes/{n * 331}")) for n in range(200)]
        assert all(g.result().body == pattern(n * 331) for n, g in enumerate(given))
        assert ask.connections <= 8


@on_servers
@both
async def test_an_answer_that_breaks_off(asked, server):
    async with served(asked, server) as (ask, _):
        assert (await ask("/bytes/5")).body == pattern(5)
        error = await ask.failure("/break")
        assert (error.reason, error.sent) == ("reset", True)
        assert (await ask("/bytes/5")).body == pattern(5)


@pytest.mark.parametrize("server", ["go-h1", "node-h1"])
@both
async def test_a_connection_that_the_server_closes_is_not_used_again(asked, server):
    async with served(asked, server) as (ask, _):
        for _ in range(3):
            assert (await ask("/close")).body == b"closed"
            await until(lambda: ask.connections == 0)
        assert (await ask("/bytes/5")).body == pattern(5)


@on_h2_servers
@both
async def test_a_server_that_leaves_answers_what_it_has(asked, server):
    """GOAWAY in mid-flight: what it will not look at may be sent elsewhere."""
    async with served(asked, server) as (ask, _):
        assert (await ask("/bytes/1")).body == pattern(1)
        is_node = server == "node-h2c"
        async with asyncio.TaskGroup() as tasks:
            held = [tasks.create_task(ask("/hold")) for _ in range(3)]
            await asyncio.sleep(0)
            leaving = tasks.create_task(ask("/goaway" if is_node else "/leave"))
            await asyncio.sleep(0)
            late = [tasks.create_task(ask.failure("/hold")) for _ in range(3 * is_node)]
        assert [h.result().body for h in held] == [b"held"] * 3
        assert leaving.result().body == b"leaving"
        for error in (task.result() for task in late):
            assert (error.reason, error.sent) == ("reset", False)
        if is_node:
            assert (await ask("/bytes/5")).body == pattern(5)
        else:
            error = await ask.failure("/bytes/5")
            assert (error.reason, error.sent) == ("connect_refused", False)


@both
async def test_a_refused_stream_was_not_acted_upon(asked):
    async with served(asked, "node-h2c") as (ask, _):
        error = await ask.failure("/refused")
        assert (error.reason, error.sent) == ("reset", False)
        assert (await ask("/bytes/5")).body == pattern(5)


@pytest.mark.parametrize("kind", ["h1", "h2"])
@both
async def test_tls(asked, kind, tmp_path):
    cert, key = self_signed(tmp_path)
    tls = trusting(cert, "h2" if kind == "h2" else "http/1.1")
    async with (
        peer(go_server("--cert", str(cert), "--key", str(key))) as address,
        asked(kind, address, ssl=tls) as ask,
    ):
        assert (await ask("/echo", LARGE, "POST")).body == LARGE
        assert (await ask("/stream/3000000")).body == pattern(3_000_000)
        assert ask.connections == 1


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@both
async def test_pythons_own_server(asked, version):
    with python_server(version) as address:
        async with asked("h1", address) as ask:
            for size in (0, 1, 100_000):
                assert (await ask(f"/bytes/{size}")).body == pattern(size)
            assert (await ask("/echo", LARGE, "POST")).body == LARGE
            head = await ask("/bytes/99", method="HEAD")
            assert (head.head.content_length, head.body) == (99, b"")
            if version == "HTTP/1.0":
                assert (await ask("/stream/100000")).body == pattern(100_000)
                await until(lambda: ask.connections == 0)
            else:
                for _ in range(3):
                    assert (await ask("/chunked/100000")).body == pattern(100_000)
                assert ask.connections == 1


# ---- grpcio --------------------


@both
async def test_grpcio_unary(asked):
    async with grpc_server() as server, asked("h2", server.address) as ask:
        for message in (b"", b"hello", LARGE):
            answer = await unary(
                ask.client, server.address, "/s/Echo", message,
                metadata=(("x-asked", "yes"),), max_bytes=8 * MIB, timeout_s=60.0,
            )  # fmt: skip
            assert (answer.code, answer.message) == (Code.OK, message)
            assert ("x-tail", "yes") in answer.trailers
            assert ("x-raw-bin", "AP8") in [(n, v.rstrip("=")) for n, v in answer.trailers]
        failed = await unary(ask.client, server.address, "/s/Fail", b"")
        assert (failed.code, failed.details) == (Code.NOT_FOUND, "näh: 100 %")
        assert ("x-why", "so") in failed.trailers
        unknown = await unary(ask.client, server.address, "/s/Nope", b"")
        assert unknown.code == Code.UNIMPLEMENTED


@both
async def test_grpcio_answers_that_are_compressed(asked):
    async with grpc_server() as server, asked("h2", server.address) as ask:
        message = gzip.compress(b"not to be mistaken") + bytes(5000)
        answer = await unary(
            ask.client, server.address, "/s/Zipped", message,
            metadata=(("grpc-accept-encoding", "identity, gzip"),),
        )  # fmt: skip
        assert (answer.code, answer.message) == (Code.OK, message)


@both
async def test_grpcio_is_told_of_a_deadline_that_passed(asked):
    async with grpc_server() as server, asked("h2", server.address) as ask:
        soon = asyncio.get_running_loop().time() + 0.2
        with pytest.raises(TimeoutError):
            await unary(ask.client, server.address, "/s/Hold", b"", deadline_at=soon)
        await until(lambda: server.cancelled == 1)


@both
async def test_grpcio_that_stops_answers_what_it_has(asked):
    async with grpc_server() as server, asked("h2", server.address) as ask:
        async with asyncio.TaskGroup() as tasks:
            held = [
                tasks.create_task(unary(ask.client, server.address, "/s/Hold", b"%d" % n))
                for n in range(20)
            ]
            await until(lambda: server.held == 20)
            tasks.create_task(server.server.stop(30))
            await until(lambda: ask.connections and _is_leaving(ask.client))
            server.release.set()
        assert [h.result().message for h in held] == [b"%d" % n for n in range(20)]
        with pytest.raises(WireError) as raised:
            await unary(ask.client, server.address, "/s/Echo", b"")
        assert (raised.value.reason, raised.value.sent) == ("connect_refused", False)


def _is_leaving(client: Http2Client) -> bool:
    places = client._places.values()
    return all(c.side.is_leaving for place in places for c in place.connections)
