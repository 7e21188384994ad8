"""Other people's servers as processes or threads, for our clients; and a streamed request."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import grpc.aio

from gateway.wire.exchange import Client, ClientExchange, Data, ResponseHead, WireError
from gateway.wire.fields import Fields, Pairs
from tests.parts.go_peers import go_peer
from tests.parts.need import need
from tests.parts.peer_front import pattern

Context = grpc.aio.ServicerContext[bytes, bytes]
PEERS = Path(__file__).parents[1] / "peers"


def node_server(*flags: str) -> list[str]:
    """The command that starts Node's."""
    need(shutil.which("node") is not None, "apt-get install nodejs")
    return ["node", str(PEERS / "server.mjs"), *flags]


def go_server(*flags: str) -> list[str]:
    """The command that starts Go's."""
    return [go_peer("server"), *flags]


@asynccontextmanager
async def peer(command: list[str]) -> AsyncIterator[str]:
    """The address of a server that runs meanwhile."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        assert line, f"{command[0]} did not start"
        yield line.decode().strip()
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class _Handler(BaseHTTPRequestHandler):
    """`/bytes/N` with its length, `/stream/N` until the end, `/chunked/N`, and `/echo`."""

    def do_GET(self) -> None:
        kind, _, size = self.path[1:].partition("/")
        body = pattern(int(size or 0))
        self.send_response(200)
        if kind == "bytes":
            self.send_header("Content-Length", str(len(body)))
        elif kind == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            half = len(body) // 2
            body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:half], body[half:]))
            body += b"0\r\n\r\n"
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def python_server(version: str) -> Iterator[str]:
    """http.server as `HTTP/1.0` or `HTTP/1.1`, in threads."""
    handler = type("Handler", (_Handler,), {"protocol_version": version})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class GrpcServer:
    """grpcio's asyncio server with a few methods of bytes."""

    def __init__(self) -> None:
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.server = grpc.aio.server(options=limits)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.held = 0
        self.cancelled = 0
        self.release = asyncio.Event()
        methods = {
            name: grpc.unary_unary_rpc_method_handler(getattr(self, f"_{name.lower()}"))
            for name in ("Echo", "Fail", "Hold", "Zipped")
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", methods),))

    async def _echo(self, message: bytes, context: Context) -> bytes:
        asked = [str(v) for k, v in context.invocation_metadata() or () if k == "x-asked"]
        context.set_trailing_metadata((("x-tail", ",".join(asked)), ("x-raw-bin", b"\0\xff")))
        return message

    async def _fail(self, message: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "näh: 100 %", (("x-why", "so"),))

    async def _hold(self, message: bytes, context: Context) -> bytes:
        self.held += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return message

    async def _zipped(self, message: bytes, context: Context) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        return message


@asynccontextmanager
async def grpc_server() -> AsyncIterator[GrpcServer]:
    served = GrpcServer()
    await served.server.start()
    try:
        yield served
    finally:
        await served.server.stop(0)


class Upload:
    """AnswerSink of a request whose body is written piece by piece, as fast as it is taken."""

    def __init__(self, client: Client, address: str, path: str, body: bytes, piece: int) -> None:
        self._left = [body[at : at + piece] for at in range(0, len(body), piece)][::-1]
        self._has_ended = False
        self.was_congested = False
        self.head: ResponseHead | None = None
        self.trailers: Pairs = ()
        self.body = bytearray()
        self.error: WireError | None = None
        self.done = asyncio.Event()
        self._exchange: ClientExchange = client.request(
            address, "POST", path, (Fields((("te", "trailers"),)),), None, self
        )
        self._go_on()

    def _go_on(self) -> None:
        while self._left and not self._exchange.is_congested:
            self._exchange.write(self._left.pop())
        self.was_congested = self.was_congested or self._exchange.is_congested
        if not self._left and not self._has_ended:
            self._has_ended = True
            self._exchange.end()

    def on_writable(self) -> None:
        self._go_on()

    def on_whole(self, head: ResponseHead, body: Data, trailers: Pairs) -> None:
        self.on_head(head)
        self.on_data(body)
        self.on_end(trailers)

    def on_head(self, head: ResponseHead) -> None:
        self.head = head

    def on_data(self, data: Data) -> None:
        self.body += data

    def on_end(self, trailers: Pairs) -> None:
        self.trailers = trailers
        self.done.set()

    def on_failed(self, error: WireError) -> None:
        self.error = error
        self.done.set()

    async def wait(self) -> Upload:
        async with asyncio.timeout(60):
            await self.done.wait()
        return self
