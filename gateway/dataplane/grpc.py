"""gRPC: TensorFlow Serving's services in, the same out; V2's service is v2_grpc's.

Calls that a replica answers pass through (grpc_caller.py); those that the gateway answers itself
are coroutines over messages. Methods that TensorFlow Serving does not have are UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

from gateway.codecs.proto_feed import FieldFeed
from gateway.codecs.tfs_methods import Method
from gateway.codecs.tfs_scan import SpecFields, feeding, pin_of, pin_version, read_fed, scan
from gateway.codecs.tfs_status import status_proto
from gateway.core.route import statuses
from gateway.dataplane import reflection
from gateway.dataplane.grpc_caller import GrpcCaller
from gateway.dataplane.grpc_parts import (
    Asked,
    GrpcDialect,
    Reply,
    forwarded,
    handled,
    priority_asked,
    replied,
)
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.rescue import GrpcError, grpc_answer
from gateway.dataplane.seen import Seen
from gateway.dataplane.v2_grpc import V2Grpc
from gateway.domain.errors import DeadlineExceeded, GatewayError, Unimplemented
from gateway.domain.names import Version
from gateway.ports import Reloader, UpstreamRequest
from gateway.wire.exchange import Data, ServerExchange
from gateway.wire.grpc import GrpcCall, GrpcMethods, Unary, read_head
from gateway.wire.grpc_health import Health

_RELOAD_TIMEOUT_S = 600.0
"""A reload waits until models are AVAILABLE; without a deadline of the caller's it ends after
this."""

_PASSED_ON = (Method.PREDICT, Method.CLASSIFY, Method.REGRESS, Method.GET_MODEL_METADATA)
"""MultiInference names its model in each of its tasks, so it is read whole."""

_HEALTH_NAMES = (
    "",
    "PredictionService",
    "ModelService",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "grpc.health.v1.Health",
    "inference.GRPCInferenceService",
)
"""TensorFlow Serving's (`--enable_grpc_healthcheck_service`) beside the full ones, V2's among
them. SERVING means that the fronts take requests; whether a model can answer is said by
GetModelStatus."""


class TfsGrpc:
    """grpc_parts.GrpcDialect, and the methods that are not passed on."""

    protocol = "grpc"

    def __init__(self, plane: Dataplane, reloader: Reloader | None) -> None:
        self.transport = plane.grpc
        self._plane = plane
        self._reloader = reloader
        self.handlers = {
            method.path: Unary(partial(self._handle, method))
            for method in Method
            if method not in _PASSED_ON
        }

    def scan(self, method: object, body: Data, at: int) -> Asked:
        """See GrpcDialect."""
        return _asked(scan(cast(Method, method), body, at))

    def feeding(self, method: object) -> FieldFeed:
        """See GrpcDialect."""
        return feeding(cast(Method, method))

    def read_fed(self, method: object, feed: FieldFeed) -> Asked:
        """See GrpcDialect."""
        return _asked(read_fed(cast(Method, method), feed))

    def pin(self, version: Version) -> bytes:
        """See GrpcDialect."""
        return pin_of(version)

    def error(self, asked: Asked | None, error: GatewayError) -> GrpcError:
        """See GrpcDialect."""
        return grpc_answer(error)

    async def _handle(self, method: Method, body: bytes, call: GrpcCall) -> bytes:
        seen = Seen(self._plane, self.protocol, method.path)
        return await handled(self._reply(method, body, call, seen), seen, grpc_answer, call)

    async def _reply(self, method: Method, body: bytes, call: GrpcCall, seen: Seen) -> Reply:
        timeout_s = call.time_remaining()
        if method is Method.HANDLE_RELOAD_CONFIG:
            return await self._reload(body, timeout_s)
        spec = scan(method, body)
        seen.model = spec.name
        if method is Method.GET_MODEL_STATUS:
            # A label is ignored: the original looks at the version only.
            found = statuses(self._plane.table, spec.name, spec.version)
            return Reply(0, status_proto(found).SerializeToString())
        metadata, priority = forwarded(call.head).pairs, priority_asked(call.head)

        def pin(version: Version) -> UpstreamRequest:
            return UpstreamRequest(method.path, pin_version(method, body, version), metadata)

        answer = await self._plane.ask(
            self.transport,
            spec.name,
            spec.version,
            spec.label,
            timeout_s,
            pin,
            seen,
            metadata,
            priority,
        )
        return replied(answer, seen)

    async def _reload(self, body: bytes, timeout_s: float | None) -> Reply:
        if self._reloader is None:
            raise Unimplemented(
                "This gateway takes no model configuration over gRPC; use `gateway deploy model`",
                reason="reload_not_offered",
            )
        limit_s = _RELOAD_TIMEOUT_S if timeout_s is None else min(timeout_s, _RELOAD_TIMEOUT_S)
        deadline_at = self._plane.loop.time() + limit_s
        try:
            async with asyncio.timeout_at(deadline_at):
                return Reply(0, await self._reloader.reload(body, deadline_at))
        except TimeoutError:
            raise DeadlineExceeded(
                "The models had not become available by the deadline; loading goes on",
                reason="call",
            ) from None


def _asked(spec: SpecFields) -> Asked:
    return Asked(spec.name, spec.version, spec.label)


class GrpcFront:
    """Answers calls, whichever service they are for."""

    def __init__(
        self, plane: Dataplane, reloader: Reloader | None, is_draining: Callable[[], bool]
    ) -> None:
        self._plane = plane
        self.health = Health(_HEALTH_NAMES)
        self.health.say(True)
        tfs, v2 = TfsGrpc(plane, reloader), V2Grpc(plane, reloader, is_draining)
        self._passed_on: dict[str, tuple[GrpcDialect, object]] = {
            **{method.path: (tfs, method) for method in _PASSED_ON},
            **{method.path: (v2, method) for method in v2.passed_on},
        }
        self._others = GrpcMethods(
            {
                **self.health.handlers(),
                **reflection.handlers(),
                **tfs.handlers,
                **v2.handlers,
            },
            plane.tasks,
            plane.settings.max_body_bytes,
        )

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        """See exchange.Front."""
        head = read_head(exchange.head)
        passed_on = self._passed_on.get(head.path)
        if passed_on is None or head.refusal is not None:
            self._others.begin(exchange, body)
            return
        dialect, method = passed_on
        GrpcCaller(self._plane, dialect, method, exchange, head).begin(body)

    def drain(self) -> None:
        """From now on health is NOT_SERVING; watchers are told, and their streams end."""
        self.health.say(False)
        self.health.end()
