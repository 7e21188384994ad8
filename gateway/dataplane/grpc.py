"""The gRPC front: TensorFlow Serving's services in, the same out; V2's service is v2_grpc's.

Messages are bytes on both sides; only the ModelSpec is read (codecs.tfs_scan). gRPC's deadline is
ours, and a caller who cancels cancels the call to the replica. Methods that TensorFlow Serving does
not have are UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc
import grpc.aio

from gateway.codecs.tfs_methods import Method
from gateway.codecs.tfs_scan import pin_version, scan
from gateway.codecs.tfs_status import status_proto
from gateway.core.route import statuses
from gateway.dataplane import reflection
from gateway.dataplane.grpc_parts import CANCELLED, Context, Reply, forwarded, replied, send
from gateway.dataplane.health import HealthService
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.rescue import grpc_answer, rescued
from gateway.dataplane.seen import Seen
from gateway.dataplane.v2_grpc import V2Grpc
from gateway.domain.errors import DeadlineExceeded, GatewayError, Unimplemented
from gateway.domain.names import Version
from gateway.ports import Reloader, UpstreamRequest

_RELOAD_TIMEOUT_S = 600.0
"""A reload waits until models are AVAILABLE; without a deadline of the caller's it ends after
this."""


class GrpcFront(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers gRPC on one address."""

    def __init__(self, plane: Dataplane, reloader: Reloader | None = None) -> None:
        self._plane = plane
        self._reloader = reloader
        self.health = HealthService()
        self._server: grpc.aio.Server | None = None
        self._handlers = dict(self.health.handlers)
        self._handlers |= reflection.handlers()
        self._handlers |= V2Grpc(plane, reloader, lambda: self.health.is_draining).handlers
        for method in Method:
            self._handlers[method.path] = grpc.unary_unary_rpc_method_handler(
                partial(self._handle, method)
            )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a method, or None, which gRPC answers with UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method)

    async def start(self, address: str, *, reuse_port: bool) -> int:
        """Serve on `address`; returns the port. Raises RuntimeError when it cannot be bound."""
        self._server = grpc.aio.server(
            handlers=(self,),
            options=[
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.max_receive_message_length", self._plane.settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", self._plane.settings.max_header_bytes),
            ],
        )
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        """Take no new calls; let those under way finish within `drain_s`."""
        self.health.drain()
        if self._server is not None:
            await self._server.stop(self._plane.settings.drain_s)

    async def _handle(self, method: Method, body: bytes, context: Context) -> bytes:
        seen = Seen(self._plane, "grpc", CANCELLED)
        try:
            reply = await rescued(self._reply(method, body, context, seen), partial(_error, seen))
            seen.code = reply.code_name
        finally:
            seen.finish(method.path)
        return await send(reply, context)

    async def _reply(self, method: Method, body: bytes, context: Context, seen: Seen) -> Reply:
        timeout_s: float | None = context.time_remaining()
        if method is Method.HANDLE_RELOAD_CONFIG:
            return await self._reload(body, timeout_s, seen)
        spec = scan(method, body)
        seen.model = spec.name
        if method is Method.GET_MODEL_STATUS:
            # A label is ignored: the original looks at the version only.
            found = statuses(self._plane.table, spec.name, spec.version)
            return Reply(0, status_proto(found).SerializeToString())
        plane = self._plane
        with plane.admit(spec.name, spec.version, spec.label, timeout_s, seen.started_at) as ask:
            seen.ask = ask
            metadata = forwarded(context)

            def pin(version: Version) -> UpstreamRequest:
                return UpstreamRequest(method.path, pin_version(method, body, version), metadata)

            return replied(await plane.answer(plane.grpc, ask, pin), ask)

    async def _reload(self, body: bytes, timeout_s: float | None, seen: Seen) -> Reply:
        if self._reloader is None:
            raise Unimplemented(
                "This gateway takes no model configuration over gRPC; use `gateway deploy model`",
                reason="reload_not_offered",
            )
        limit_s = _RELOAD_TIMEOUT_S if timeout_s is None else min(timeout_s, _RELOAD_TIMEOUT_S)
        deadline_at = seen.started_at + limit_s
        try:
            async with asyncio.timeout_at(deadline_at):
                return Reply(0, await self._reloader.reload(body, deadline_at))
        except TimeoutError:
            raise DeadlineExceeded(
                "The models had not become available by the deadline; loading goes on",
                reason="call",
            ) from None


def _error(seen: Seen, error: GatewayError) -> Reply:
    seen.reason = error.reason
    answer = grpc_answer(error)
    return Reply(answer.code, b"", answer.details, answer.trailers)
