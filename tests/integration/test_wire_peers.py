"""Other people's clients against the wire: curl, wrk, h2load, Node's and Go's HTTP/2 clients."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from gateway.wire.tls import CertificateFiles
from tests.parts.both_loops import on_both_loops
from tests.parts.certificates import self_signed
from tests.parts.go_peers import go_peer
from tests.parts.need import need
from tests.parts.peer_front import MIB, PeerServer, pattern, peer_server, run_peer
from tests.parts.waiting import until

pytestmark = pytest.mark.slow

PEERS = Path(__file__).parents[1] / "peers"
HELD = 20

Serve = Callable[..., AbstractAsyncContextManager[PeerServer]]


@asynccontextmanager
async def opened() -> AsyncIterator[dict[str, Serve]]:
    yield {"serve": peer_server}


both = on_both_loops(opened, "serve")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


def tls_of(certificate: tuple[Path, Path], is_tls: bool) -> ssl.SSLContext | None:
    return CertificateFiles(*certificate).context if is_tls else None


# ---- curl --------------------

CURL = {
    "h1": (False, ["--http1.1"]),
    "h1-tls": (True, ["--http1.1"]),
    "h2c": (False, ["--http2-prior-knowledge"]),
    "h2-tls": (True, ["--http2"]),
}
by_curl = pytest.mark.parametrize("mode", CURL)


class Curl:
    """curl, speaking one way to one server."""

    def __init__(self, server: PeerServer, mode: str, ca: Path, folder: Path) -> None:
        self._server = server
        self._command = ["curl", "-sS", "--max-time", "50", "--cacert", str(ca), *CURL[mode][1]]
        self.folder = folder

    async def __call__(self, path: str, *more: str) -> str:
        return await run_peer(*self._command, *more, self._server.url + path)

    async def body(self, path: str, *more: str) -> bytes:
        """The answer's body, which must come with 200."""
        file = self.folder / "answer"
        assert await self(path, "-o", str(file), "-w", "%{http_code}", *more) == "200"
        return file.read_bytes()

    async def head(self, path: str, *more: str) -> str:
        """The answer's head, and its trailers."""
        return await self(path, "-o", "/dev/null", "-D", "-", *more)


@asynccontextmanager
async def curled(
    serve: Serve, mode: str, certificate: tuple[Path, Path], folder: Path
) -> AsyncIterator[tuple[Curl, PeerServer]]:
    need(shutil.which("curl") is not None, "apt-get install curl")
    async with serve(tls_of(certificate, CURL[mode][0])) as server:
        yield Curl(server, mode, certificate[0], folder), server
        assert server.causes == []
        assert set(server.opened_of) == {mode[:2]}


@by_curl
@both
async def test_curl_small(serve, mode, certificate, tmp_path):
    async with curled(serve, mode, certificate, tmp_path) as (curl, _):
        assert await curl.body("/bytes/1000") == pattern(1000)
        assert await curl.body("/echo", "-d", "hello") == b"hello"
        head = await curl.head("/bytes/1234", "-I")
        assert re.search(r"^content-length: 1234\r$", head, re.M)
        head = await curl.head("/", "-X", "OPTIONS")
        assert re.match(r"HTTP/\S+ 204", head)
        assert "allow: GET, HEAD, POST, OPTIONS" in head
        head = await curl.head("/", "-X", "OPTIONS", "--request-target", "*")
        assert re.match(r"HTTP/\S+ 204", head)


@by_curl
@both
async def test_curl_large_bodies_both_ways(serve, mode, certificate, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(pattern(4 * MIB))
    async with curled(serve, mode, certificate, tmp_path) as (curl, _):
        assert await curl.body("/echo", "--data-binary", f"@{large}") == large.read_bytes()
        chunked = ("-H", "Transfer-Encoding: chunked") if mode.startswith("h1") else ()
        assert await curl.body("/echo", "-T", str(large), *chunked) == large.read_bytes()
        assert await curl.body(f"/stream/{4 * MIB}") == pattern(4 * MIB)


@by_curl
@both
async def test_curl_expects_100_continue(serve, mode, certificate, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(pattern(2 * MIB))
    expect = ("-H", "Expect: 100-continue", "--expect100-timeout", "30")
    async with curled(serve, mode, certificate, tmp_path) as (curl, server):
        sent = await curl.body("/echo", *expect, "--data-binary", f"@{large}")
        assert sent == large.read_bytes()
        assert server.front.seen["expects"] == 1
        # Over HTTP/2, curl 7.88 takes a refusal of what it expects for no answer, whoever refuses.
        if mode.startswith("h1"):
            told = await curl(
                "/refuse", *expect, "--data-binary", f"@{large}",
                "-o", "/dev/null", "-w", "%{http_code} %{size_upload}",
            )  # fmt: skip
            assert told == "413 0"


@by_curl
@both
async def test_curl_trailers(serve, mode, certificate, tmp_path):
    async with curled(serve, mode, certificate, tmp_path) as (curl, _):
        grpc = ("-H", "content-type: application/grpc", "-H", "te: trailers")
        head = await curl.head("/unary", *grpc, "-d", "hello")
        assert "content-type: application/grpc" in head
        # HTTP/1.1 answers have none.
        assert ("grpc-status: 0" in head) == mode.startswith("h2")


# Without h2c: curl 7.88 breaks on the second request over such a connection, whoever serves it.
@pytest.mark.parametrize("mode", ["h1", "h1-tls", "h2-tls"])
@both
async def test_curl_many_requests_on_one_connection(serve, mode, certificate, tmp_path):
    async with curled(serve, mode, certificate, tmp_path) as (curl, server):
        more = [a for n in range(1, 30) for a in ("-o", "/dev/null", f"{server.url}/bytes/{n}")]
        told = await curl(
            "/bytes/0", *more, "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n"
        )
        assert told.split("\n") == ["200 1", *["200 0"] * 29, ""]
        assert server.opened_of.total() == 1


@both
async def test_curl_is_told_when_its_connection_ends(serve, certificate, tmp_path):
    async with curled(serve, "h1", certificate, tmp_path) as (curl, server):
        asking = asyncio.ensure_future(curl.head("/hold"))  # noqa: TID251 - awaited below
        await until(lambda: server.front.held)
        stopping = asyncio.ensure_future(server.listener.stop(30.0))  # noqa: TID251 - the same
        await until(lambda: server.listener.is_stopped)
        await asyncio.sleep(0)
        server.front.release.set()
        assert "connection: close" in await asking
        await stopping


# ---- wrk and h2load --------------------


WRK = {
    "get": ("/bytes/100", ()),
    "post": ("/echo", ("-s", str(PEERS / "post.lua"))),
    "short": ("/bytes/100", ("-H", "Connection: close")),
}


@pytest.mark.parametrize("mode", WRK)
@both
async def test_wrk(serve, mode):
    need(shutil.which("wrk") is not None, "apt-get install wrk")
    path, more = WRK[mode]
    async with serve() as server:
        told = await run_peer(
            "wrk", "-t1", "-c16", "-d1s", "--timeout", "30s", *more, server.url + path
        )
        assert "Socket errors" not in told, told
        assert "Non-2xx" not in told, told
        assert "wrong answers: 0" in told or mode != "post"
        requests = int(re.search(r"(\d+) requests in", told)[1])
        assert requests > 16
        # Those under way when wrk goes are not counted by it.
        assert 0 <= server.front.seen.total() - requests <= 16
        if mode == "short":
            assert server.opened_of["h1"] >= requests
        else:
            assert server.opened_of["h1"] <= 17  # one to look
        assert server.causes == []


H2LOAD = {
    "h2c": (False, ["-m", "20"]),
    "h2-tls": (True, ["-m", "20"]),
    "h1": (False, ["--h1"]),
    "small-windows": (False, ["-m", "20", "-w", "10", "-W", "12"]),
}


@pytest.mark.parametrize("path", ["/echo", "/unary"])
@pytest.mark.parametrize("mode", H2LOAD)
@both
async def test_h2load(serve, mode, path, certificate, tmp_path):
    need(shutil.which("h2load") is not None, "apt-get install nghttp2-client")
    is_tls, flags = H2LOAD[mode]
    body = tmp_path / "body"
    body.write_bytes(b"\0\0\0\x0b\xb3" + pattern(2995))
    grpc = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    async with serve(tls_of(certificate, is_tls)) as server:
        told = await run_peer(
            "h2load", "-n", "1000", "-c", "4", *flags, *grpc, "-d", str(body), server.url + path
        )
        assert "1000 succeeded, 0 failed, 0 errored, 0 timeout" in told, told
        assert "status codes: 1000 2xx" in told, told
        data = re.search(r"headers.*?, [^,]*\((\d+)\) data", told)
        assert data, told
        if mode != "h1":  # there it counts the framing too
            assert int(data[1]) == 3000 * 1000
        assert server.front.seen.total() == 1000
        assert server.opened_of.total() == 4
        assert server.causes == []


# ---- Node and Go --------------------


def node(*arguments: str) -> list[str]:
    need(shutil.which("node") is not None, "apt-get install nodejs")
    return ["node", str(PEERS / "client.mjs"), *arguments]


@pytest.mark.parametrize("is_tls", [False, True], ids=["h2c", "tls"])
@both
async def test_node(serve, is_tls, certificate):
    async with serve(tls_of(certificate, is_tls)) as server:
        assert await run_peer(*node(server.url, "--ca", str(certificate[0]))) == "ok\n"
        assert server.opened_of == {"h2": 1}
        assert server.causes == []


@pytest.mark.parametrize("mode", ["h2c", "h2-tls", "h1", "h1-tls"])
@both
async def test_go(serve, mode, certificate):
    client = go_peer("client")
    is_tls = mode.endswith("tls")
    flags = ["--http1"] if mode.startswith("h1") else []
    async with serve(tls_of(certificate, is_tls)) as server:
        told = await run_peer(client, "--url", server.url, "--ca", str(certificate[0]), *flags)
        assert told == "ok\n"
        assert set(server.opened_of) == {mode[:2]}
        # While Go dials for a request it takes a connection that has become free meanwhile; what
        # it dialled stays idle, or is still in its handshake when the program ends.
        spare = {"tls_handshake"} if mode == "h1-tls" else set()
        assert set(server.causes) <= spare


@pytest.mark.parametrize("peer", ["node", "go-h2c", "go-h1"])
@both
async def test_a_server_that_drains_answers_what_is_under_way(serve, peer):
    async with serve() as server:
        hold = ("--hold", str(HELD))
        if peer == "node":
            command = node(server.url, *hold)
        else:
            http1 = ["--http1"] if peer == "go-h1" else []
            command = [go_peer("client"), "--url", server.url, *http1, *hold]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_peer(*command))
            await until(lambda: server.front.held == HELD)
            tasks.create_task(server.listener.stop(30.0))
            await until(lambda: server.listener.is_stopped)
            server.front.release.set()
        assert server.front.held == HELD
        assert server.causes == []
