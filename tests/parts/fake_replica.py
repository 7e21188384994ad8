"""Small real servers that stand for a replica: TensorFlow Serving's REST and gRPC, scripted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
from aiohttp import web

from gateway.codecs.tfs_methods import Method
from gateway.codecs.tfs_scan import scan
from gateway.core.route import ModelRoute, RoutingTable, Target
from gateway.dataplane import Dataplane, DataplaneSettings
from gateway.dataplane.front import GatewayFront
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint
from gateway.telemetry import Metrics
from gateway.upstream import GrpcUpstream, HttpUpstream
from gateway.wire.listener import Listener
from tests.parts.wire_replica import WireReplica


@dataclass
class Got:
    """One request as the replica got it."""

    target: str
    headers: dict
    body: bytes


@dataclass
class FakeReplica:
    """Answers what its hooks say; counts what it got and what was cancelled."""

    id: str
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("", "", ""))
    got: list[Got] = field(default_factory=list)
    cancelled: int = 0
    http_status: int = 200
    http_body: bytes | None = None
    http_headers: dict = field(default_factory=dict)
    grpc_status: grpc.StatusCode | None = None
    grpc_message: str = ""
    delay_s: float = 0.0
    gate: asyncio.Event | None = None
    on_http: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None
    stop: Callable[[], Awaitable[None]] | None = None

    def target(self) -> Target:
        return Target(self.id, self.endpoint)

    async def _pause(self) -> None:
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def http(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        target = f"{request.method} {request.raw_path}"
        self.got.append(Got(target, {k.lower(): v for k, v in request.headers.items()}, body))
        if self.on_http is not None:
            return await self.on_http(request)
        await self._pause()
        said = f'{{"by": "{self.id}"}}'.encode() if self.http_body is None else self.http_body
        headers = {"content-type": "application/json", **self.http_headers}
        return web.Response(status=self.http_status, body=said, headers=headers)

    async def grpc(self, method: Method, body: bytes, context) -> bytes:
        metadata = dict(context.invocation_metadata())
        metadata["left_s"] = context.time_remaining()
        self.got.append(Got(method.path, metadata, body))
        await self._pause()
        if self.grpc_status is not None:
            await context.abort(self.grpc_status, self.grpc_message, (("x-replica", self.id),))
        context.set_trailing_metadata((("x-replica", self.id),))
        return b"answer of " + self.id.encode() + b" v%d" % (scan(method, body).version or 0)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, replica: FakeReplica) -> None:
        self._replica = replica

    def service(self, details):
        method = next((m for m in Method if m.path == details.method), None)
        if method is None:
            return None

        async def handle(body, context):
            return await self._replica.grpc(method, body, context)

        return grpc.unary_unary_rpc_method_handler(handle)


@asynccontextmanager
async def fake_replica(id: str, **script) -> AsyncIterator[FakeReplica]:
    """A running replica on free ports; `replica.stop()` breaks all of its connections."""
    replica = FakeReplica(id, **script)
    loop = asyncio.get_running_loop()
    http = web.Server(
        lambda request: replica.http(request),
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,
        request_factory=lambda m, p, pr, w, t: web.BaseRequest(
            m, p, pr, w, t, loop, client_max_size=2**30
        ),
    )
    listener = await loop.create_server(http, "127.0.0.1", 0)
    server = grpc.aio.server(
        handlers=(_Handlers(replica),), options=[("grpc.max_receive_message_length", -1)]
    )
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    http_port = listener.sockets[0].getsockname()[1]
    address = f"127.0.0.1:{grpc_port}"
    replica.endpoint = Endpoint(f"127.0.0.1:{http_port}", address, address)
    stopped = False

    async def stop() -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            listener.close()
            await http.shutdown(0.01)
            await server.stop(0)

    replica.stop = stop
    try:
        yield replica
    finally:
        await stop()


def table(
    *replicas: FakeReplica | WireReplica | Target,
    model: str = "m",
    versions: tuple[int, ...] = (1,),
    live: int | None = None,
    generation: int = 1,
    **fields,
) -> RoutingTable:
    """A table with one model whose versions are all on all replicas."""
    targets = tuple(r if isinstance(r, Target) else r.target() for r in replicas)
    live = max(versions) if live is None and versions else live
    fields.setdefault("labels", {"stable": live} if live is not None else {})
    fields.setdefault(
        "statuses",
        tuple(VersionStatus(v, VersionState.READY) for v in sorted(versions, reverse=True)),
    )
    route = ModelRoute(
        model, live=live, targets=dict.fromkeys(versions, targets) if targets else {}, **fields
    )
    return RoutingTable(generation, {model: route})


@dataclass
class Gateway:
    """A data plane in this process with both of its fronts."""

    plane: Dataplane
    http: str
    grpc: str
    channel: grpc.aio.Channel

    async def predict(self, body: bytes, method: Method = Method.PREDICT, **options) -> bytes:
        return await self.channel.unary_unary(method.path)(body, **options)


@asynccontextmanager
async def running_gateway(
    settings: DataplaneSettings | None = None, reloader=None
) -> AsyncIterator[Gateway]:
    """A gateway on free ports; afterwards nothing of it is in flight any more."""
    metrics = Metrics()
    plane = Dataplane(
        settings or DataplaneSettings(drain_s=0.2),
        http=HttpUpstream(),
        grpc=GrpcUpstream(),
        metrics=metrics,
    )
    front = GatewayFront(plane, reloader)
    listener = Listener(front)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(plane.aclose)
        addresses = []
        for _ in range(2):
            sock = socket.create_server(("127.0.0.1", 0))
            addresses.append(f"127.0.0.1:{sock.getsockname()[1]}")
            await listener.start(sock)
        stack.push_async_callback(listener.stop, plane.settings.drain_s)
        stack.callback(front.drain)
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(addresses[1], options=[("grpc.enable_retries", 0)])
        )
        yield Gateway(plane, *addresses, channel)
    assert not plane.held_bytes
    assert not plane.in_flight.by_model
    assert not plane.in_flight.by_replica
    assert all(not queued for queued, _ in plane.turns().values())
    assert all(not state.turns.active for state in plane.states.values())


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until `condition()` holds; fails when it does not in time."""
    loop = asyncio.get_running_loop()
    end_at = loop.time() + seconds
    while not condition():
        assert loop.time() < end_at, "it did not happen in time"
        await asyncio.sleep(0.01)
