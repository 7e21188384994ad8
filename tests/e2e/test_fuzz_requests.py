"""Mutated HTTP, JSON and protobuf requests of all four protocols against a living gateway, and
against the model server behind it directly.

Whatever comes in, the answer is a well-formed one of the protocol: a success, or an error that
blames the request. No process ends, no in-flight count is left over, and memory ends within
`_GROWTH_BYTES` of what it was after the first tenth. A failing case is printed with its replay:

    FUZZ_SEED=1 FUZZ_CASE=17 pytest tests/e2e/test_fuzz_requests.py -m "not long"
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import psutil
import pytest

from tests.parts import fuzz_seeds
from tests.parts.fuzzing import Request, case
from tests.parts.gateway_process import GatewayProcess, gateway_process

onnx = pytest.importorskip("onnx")
from tests.parts import tiny_onnx  # noqa: E402 (needs onnx)

pytestmark = [pytest.mark.e2e, pytest.mark.onnx, pytest.mark.slow]

_GROWTH_BYTES = 128 << 20
"""What a process may hold at the end beyond what it held after the first tenth. A leak of 2 KiB in
each of 100,000 requests would be 200 MB; allocators keep some tens of MB for bodies once seen."""

_AT_ONCE = 16
_ANSWER_S = 20.0
_RAW_S = 0.2
"""How long damaged bytes on a socket wait for an answer: many are the beginning of a request."""

_BLAMES_REQUEST = {200, 400, 404, 405, 408, 411, 413, 414, 415, 417, 431, 501, 504}
"""504 because cases shorten their own deadline."""

_CODES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass
class Fuzz:
    """One run: where it shoots, and what it found."""

    targets: list[tuple[str, str]]
    """HTTP and gRPC addresses; the gateway comes first and gets three of four requests."""
    seed: int
    seeds: list[Request]
    failures: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    async def run(self, numbers: Iterator[int]) -> None:
        """Send the cases of `numbers`, some at once."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._work(numbers))

    async def _work(self, numbers: Iterator[int]) -> None:
        channels = {address: grpc.aio.insecure_channel(address) for _, address in self.targets}
        connections: dict[str, Connection] = {http: Connection(http) for http, _ in self.targets}
        try:
            for number in numbers:
                request = case(self.seeds, self.seed, number)
                http, rpc = self.targets[0 if number % 4 else -1]
                try:
                    async with asyncio.timeout(_ANSWER_S):
                        if request.kind == "grpc":
                            wrong = await self._call(channels[rpc], request)
                        elif request.kind == "raw":
                            wrong = await self._damaged(http, request)
                        else:
                            wrong = await self._http(connections[http], request)
                except (OSError, EOFError, TimeoutError) as error:
                    connections[http].drop()
                    wrong = f"no answer: {error!r}"
                if wrong:
                    self._failed(number, http, request, wrong)
                if len(self.failures) >= 20:
                    return
        finally:
            for channel in channels.values():
                await channel.close()
            for connection in connections.values():
                connection.drop()

    def _failed(self, number: int, address: str, request: Request, wrong: str) -> None:
        shown = f"{request.method} {request.path[:200]} {request.headers} {request.body[:400]!r}"
        where = "gateway" if address == self.targets[0][0] else "server"
        replay = f"FUZZ_SEED={self.seed} FUZZ_CASE={number}"
        self.failures.append(f"{replay} ({where}, {request.kind}): {wrong}\n  {shown}")

    async def _http(self, connection: Connection, request: Request) -> str:
        status, headers, body = await connection.ask(request)
        self.answers[f"HTTP {status}"] += 1
        if status not in _BLAMES_REQUEST:
            return f"HTTP {status}: {body[:300]!r}"
        if request.method == "HEAD" or status == 200 or not body:
            return ""
        if not headers.get("content-type", "").startswith("application/json"):
            # Not even HTTP to the parser: an error without a dialect.
            return "" if status in (400, 405) else f"HTTP {status} is not JSON: {body[:300]!r}"
        try:
            error = json.loads(body)
        except ValueError:
            return f"HTTP {status} is broken JSON: {body[:300]!r}"
        is_error = isinstance(error, dict) and set(error) == {"error"}
        return "" if is_error and isinstance(error["error"], str) else f"{status}: {body[:300]!r}"

    async def _damaged(self, address: str, request: Request) -> str:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        got = b""
        try:
            writer.write(request.body)
            async with asyncio.timeout(_RAW_S):
                got = await reader.read(4096)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        self.answers["raw"] += 1
        found = re.match(rb"HTTP/\d\.\d (\d{3}) ", got)
        if got and (found is None or int(found[1]) not in _BLAMES_REQUEST):
            return f"damaged bytes gave {got[:300]!r}"
        return ""

    async def _call(self, channel: grpc.aio.Channel, request: Request) -> str:
        code, details = grpc.StatusCode.OK, ""
        try:
            if request.is_stream:
                call = channel.stream_stream(request.path)(iter([request.body, request.body]))
                async for _ in call:
                    pass
            else:
                await channel.unary_unary(request.path)(request.body, timeout=_ANSWER_S)
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
        self.answers[f"gRPC {code.name}"] += 1
        return "" if code in _CODES else f"gRPC {code.name}: {details[:300]}"


class Connection:
    """One kept-alive HTTP/1.1 connection; reads exactly what the answer announces."""

    def __init__(self, address: str) -> None:
        self._host, port = address.split(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        for attempt in (1, 2):
            fresh = self._streams is None
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port)
            reader, writer = self._streams
            try:
                writer.write(request.raw())
                status, headers = await _head(reader)
                break
            except (ConnectionError, EOFError):
                self.drop()
                if fresh or attempt == 2:
                    raise
        body = b""
        if request.method != "HEAD" and status not in (204, 304):
            body = await _body(reader, headers)
        if headers.get("connection", "").lower() == "close":
            self.drop()
        return status, headers, body

    def drop(self) -> None:
        """Forget the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.([01]) (\d{3}) [ -~]*", lines[0])
    assert found, lines[0]
    pairs = (line.split(": ", 1) for line in lines[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    if found[1] == "0":  # what could not be parsed is answered so
        headers["connection"] = "close"
    return int(found[2]), headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers["content-length"]))
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size + 2))
    await reader.readexactly(2)
    return b"".join(part[:-2] for part in parts)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    root = tmp_path_factory.mktemp("fuzz")
    tiny_onnx.affine(root / "affine" / "1", 1)
    tiny_onnx.identity(root / "texts" / "1", onnx.TensorProto.STRING)
    with gateway_process(root / "state", "--poll-s", "1", "--settle-s", "0") as running:
        running.cli("deploy", "model", "affine", "--source", str(root / "affine"))
        # V2's requests for this one are translated.
        texts = ("--source", str(root / "texts"), "--speaks", "tfs-grpc")
        running.cli("deploy", "model", "texts", *texts)
        yield running


def _processes(gateway: GatewayProcess) -> dict[str, psutil.Process]:
    assert gateway.process is not None
    found = {"gateway": psutil.Process(gateway.process.pid)}
    return found | {r["id"]: psutil.Process(r["pid"]) for r in gateway.get("replicas")}


def _in_flight(gateway: GatewayProcess) -> dict[str, float]:
    with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lines = [li for li in text.splitlines() if li.startswith("gateway_requests_in_flight{")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def _fuzz(gateway: GatewayProcess, count: int) -> None:
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    only = os.environ.get("FUZZ_CASE")
    replica = next(r for r in gateway.get("replicas", "affine"))
    everything = [
        *fuzz_seeds.tfs_rest(),
        *fuzz_seeds.tfs_grpc(),
        *fuzz_seeds.v2_rest(),
        *fuzz_seeds.v2_grpc(),
    ]
    targets = [(gateway.http, gateway.grpc), (replica["endpoint"], replica["grpc_endpoint"])]
    fuzz = Fuzz(targets, seed, everything)
    before = _processes(gateway)
    asyncio.run(fuzz.run(iter(range(count // 10) if only is None else [int(only)])))
    settled = {name: process.memory_info().rss for name, process in before.items()}
    if only is None:
        asyncio.run(fuzz.run(iter(range(count // 10, count))))
    print(dict(sorted(fuzz.answers.items())))
    assert not fuzz.failures, "\n".join(fuzz.failures)
    assert {n: p.pid for n, p in _processes(gateway).items()} == {
        n: p.pid for n, p in before.items()
    }, "a process ended"
    assert not any(_in_flight(gateway).values()), _in_flight(gateway)
    grown = {n: p.memory_info().rss - settled[n] for n, p in before.items()}
    print({n: f"{g / 2**20:+.1f} MiB" for n, g in grown.items()})
    assert max(grown.values()) < _GROWTH_BYTES, grown
    log = (gateway.state.parent / f"{gateway.state.name}.serve.log").read_text(errors="replace")
    assert "request.bug" not in log, log[log.index("request.bug") :][:3000]
    assert "Traceback" not in gateway.cli("logs", "affine").stdout
    with urllib.request.urlopen(f"http://{gateway.http}/v1/models/affine", timeout=10) as answer:
        assert b"AVAILABLE" in answer.read()


@pytest.mark.timeout(300)
def test_two_thousand_mutated_requests(fuzzed: GatewayProcess) -> None:
    _fuzz(fuzzed, 2_000)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_mutated_requests(fuzzed: GatewayProcess) -> None:
    _fuzz(fuzzed, 100_000)
