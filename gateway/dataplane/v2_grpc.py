"""The Open Inference Protocol V2 over gRPC: `inference.GRPCInferenceService`.

What asks a model passes through as bytes, the version pinned by appending it (codecs.oip_scan).
What asks a server is answered from the routing table. Each message of a stream takes the way of a
ModelInfer of its own (v2_stream).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, cast

from google.protobuf.message import DecodeError, Message

from gateway import __version__
from gateway.codecs import oip_admin
from gateway.codecs.oip_errors import Flavour, reworded
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_scan import (
    OipFields,
    feeding,
    pin_of,
    pin_version,
    read_fed,
    route_fields,
    scan,
    version_of,
)
from gateway.codecs.pb import oip_pb2
from gateway.codecs.proto_feed import FieldFeed
from gateway.core.queueing import PRIORITY, priority_of
from gateway.dataplane import v2_own
from gateway.dataplane.grpc_parts import (
    Asked,
    Reply,
    forwarded,
    handled,
    replied,
    replying,
    returnable,
)
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.rescue import GrpcError, v2_grpc_answer
from gateway.dataplane.seen import Seen
from gateway.dataplane.v2_loads import Loads
from gateway.dataplane.v2_stats import all_statistics, model_statistics
from gateway.dataplane.v2_stream import Stream as InferStream
from gateway.domain.errors import GatewayError, InvalidRequest, NotFound
from gateway.domain.names import Version
from gateway.ports import Reloader, UpstreamRequest
from gateway.wire.exchange import Data
from gateway.wire.fields import Pairs
from gateway.wire.grpc import GrpcCall, Stream, Unary

_CUDA = (OipMethod.CUDA_SHARED_MEMORY_STATUS, OipMethod.CUDA_SHARED_MEMORY_REGISTER)
_REGISTER = (OipMethod.SYSTEM_SHARED_MEMORY_REGISTER, OipMethod.CUDA_SHARED_MEMORY_REGISTER)
_STATUS = (OipMethod.SYSTEM_SHARED_MEMORY_STATUS, OipMethod.CUDA_SHARED_MEMORY_STATUS)


class V2Grpc:
    """grpc_parts.GrpcDialect, and the methods that are not passed on."""

    protocol = "v2-grpc"
    passed_on = (OipMethod.MODEL_INFER, OipMethod.MODEL_METADATA, OipMethod.MODEL_CONFIG)
    """Statistics are of one model or of all, and of one version or of all: read whole."""

    def __init__(
        self, plane: Dataplane, reloader: Reloader | None, is_draining: Callable[[], bool]
    ) -> None:
        self.transport = plane.v2_grpc
        self._plane = plane
        self._is_draining = is_draining
        self._loads = Loads(plane, reloader)
        self._flavour = Flavour(plane.settings.v2_flavour)
        self.handlers: Mapping[str, Unary | Stream] = {
            method.path: Unary(partial(self._handle, method))
            for method in OipMethod
            if not method.is_streaming and method not in self.passed_on
        } | {OipMethod.MODEL_STREAM_INFER.path: Stream(self._stream)}

    def scan(self, method: object, body: Data, at: int) -> Asked:
        """See GrpcDialect."""
        return _asked(route_fields(cast(OipMethod, method), body, at))

    def feeding(self, method: object) -> FieldFeed:
        """See GrpcDialect."""
        return feeding(cast(OipMethod, method))

    def read_fed(self, method: object, feed: FieldFeed) -> Asked:
        """See GrpcDialect."""
        return _asked(read_fed(cast(OipMethod, method), feed))

    def pin(self, version: Version) -> bytes:
        """See GrpcDialect."""
        return pin_of(version)

    def error(self, asked: Asked | None, error: GatewayError) -> GrpcError:
        """See GrpcDialect. In the words of the flavour."""
        if asked is not None:
            error = reworded(self._flavour, error, asked.model, asked.version)
        return v2_grpc_answer(error)

    async def _handle(self, method: OipMethod, body: bytes, call: GrpcCall) -> bytes:
        seen = Seen(self._plane, self.protocol, method.path)
        return await handled(self._reply(method, body, call, seen), seen, v2_grpc_answer, call)

    async def _reply(self, method: OipMethod, body: bytes, call: GrpcCall, seen: Seen) -> Reply:
        if method is not OipMethod.MODEL_STATISTICS:
            answer = await self._own(method, _parsed(method, body))
            return Reply(0, answer.SerializeToString())
        fields = scan(method, body)
        seen.model = fields.model
        if not fields.model:
            return Reply(0, await all_statistics(self._plane, self.transport))
        return await self._statistics(fields, call, seen)

    async def _statistics(self, fields: OipFields, call: GrpcCall, seen: Seen) -> Reply:
        timeout_s, metadata = call.time_remaining(), forwarded(call.head).pairs
        model, version = fields.model, fields.version
        try:
            told = await model_statistics(
                self._plane, self.transport, model, version, timeout_s, seen=seen, metadata=metadata
            )
        except GatewayError as error:
            new = reworded(self._flavour, error, model, version)
            if new is error:
                raise
            raise new from error
        if seen.asked is not None:
            return replied(told, seen)
        return Reply(told.status, told.body, told.message, returnable(told.headers).pairs)

    async def _stream(self, requests: AsyncIterator[bytes], call: GrpcCall) -> None:
        await InferStream(self._message, self._plane.settings.stream_window).serve(requests, call)

    async def _message(self, body: bytes, call: GrpcCall, metadata: Pairs) -> Reply:
        """One message of a stream, admitted, routed, counted and observed like any ModelInfer."""
        seen = Seen(self._plane, self.protocol, OipMethod.MODEL_STREAM_INFER.path)
        return await replying(self._infer(body, call, metadata, seen), seen, v2_grpc_answer)

    async def _infer(self, body: bytes, call: GrpcCall, metadata: Pairs, seen: Seen) -> Reply:
        fields = scan(OipMethod.MODEL_INFER, body)
        seen.model = fields.model
        timeout_s = _shortest(call.time_remaining(), fields.timeout_us)
        return await self._ask(OipMethod.MODEL_INFER, body, fields, timeout_s, metadata, seen)

    async def _ask(
        self,
        method: OipMethod,
        body: bytes,
        fields: OipFields,
        timeout_s: float | None,
        metadata: Pairs,
        seen: Seen,
    ) -> Reply:
        def pin(version: Version) -> UpstreamRequest:
            return UpstreamRequest(method.path, pin_version(method, body, version), metadata)

        priority = priority_of(dict(metadata).get(PRIORITY))
        transport, model, version = self.transport, fields.model, fields.version
        try:
            answer = await self._plane.ask(
                transport, model, version, None, timeout_s, pin, seen, metadata, priority
            )
        except GatewayError as error:
            new = reworded(self._flavour, error, fields.model, fields.version)
            if new is error:
                raise
            raise new from error
        return replied(answer, seen)

    # ---- of the gateway --------------------

    async def _own(self, method: OipMethod, request: Any) -> Message:
        table, flavour = self._plane.table, self._flavour
        match method:
            case OipMethod.SERVER_LIVE:
                return oip_pb2.ServerLiveResponse(live=True)
            case OipMethod.SERVER_READY:
                ready = v2_own.is_ready(table) and not self._is_draining()
                return oip_pb2.ServerReadyResponse(ready=ready)
            case OipMethod.SERVER_METADATA:
                return oip_admin.server_metadata_proto(v2_own.SERVER_NAME, __version__)
            case OipMethod.MODEL_READY:
                version = version_of(request.version)
                error = v2_own.model_ready(table, request.name, version, flavour)
                if isinstance(error, NotFound) and flavour is Flavour.KSERVE:
                    raise error
                return oip_pb2.ModelReadyResponse(ready=error is None)
            case OipMethod.REPOSITORY_INDEX:
                entries = v2_own.index(table, only_ready=request.ready)
                return oip_admin.repository_index_proto(entries)
            case OipMethod.REPOSITORY_MODEL_LOAD:
                await self._loads.load(request.model_name, request.parameters)
                return oip_pb2.RepositoryModelLoadResponse()
            case OipMethod.REPOSITORY_MODEL_UNLOAD:
                raise v2_own.refuse_unload()
            case OipMethod.TRACE_SETTING:
                return self._trace_settings(request)
            case OipMethod.LOG_SETTINGS:
                return _log_settings(request)
            case _:
                return _shared_memory(method, request)

    def _trace_settings(self, request: Any) -> Message:
        if request.model_name:
            v2_own.check_known(self._plane.table, request.model_name, self._flavour)
        if request.settings:
            raise v2_own.refuse_settings("trace")
        answer = oip_pb2.TraceSettingResponse()
        for key, value in v2_own.TRACE_SETTINGS.items():
            answer.settings[key].value.extend(value if isinstance(value, list) else [value])
        return answer


def _log_settings(request: Any) -> Message:
    if request.settings:
        raise v2_own.refuse_settings("log")
    answer = oip_pb2.LogSettingsResponse()
    for key, value in v2_own.LOG_SETTINGS.items():
        if isinstance(value, bool):
            answer.settings[key].bool_param = value
        elif isinstance(value, int):
            answer.settings[key].uint32_param = value
        else:
            answer.settings[key].string_param = value
    return answer


def _shared_memory(method: OipMethod, request: Any) -> Message:
    kind = "cuda" if method in _CUDA else "system"
    if method in _REGISTER:
        raise v2_own.refuse_shared_memory(kind)
    if method in _STATUS and request.name:
        raise v2_own.refuse_region(kind, request.name)
    # Nothing is registered, so that it is unregistered is true; callers clean up before they begin.
    answer: Message = getattr(oip_pb2, method.response_name)()
    return answer


def _parsed(method: OipMethod, body: bytes) -> Any:
    try:
        return getattr(oip_pb2, method.request_name).FromString(body)
    except DecodeError as error:
        raise InvalidRequest(
            f"The message is no {method.request_name}, or was cut off", reason="bad_message"
        ) from error


def _shortest(left_s: float | None, timeout_us: int | None) -> float | None:
    """The caller's deadline: gRPC's, or Triton's `timeout` parameter where that is shorter (0 sets
    none)."""
    if not timeout_us:
        return left_s
    return timeout_us / 1e6 if left_s is None else min(left_s, timeout_us / 1e6)


def _asked(fields: OipFields) -> Asked:
    """Triton's `timeout` parameter is a deadline; 0 sets none."""
    timeout_us = fields.timeout_us
    return Asked(fields.model, fields.version, None, timeout_us / 1e6 if timeout_us else None)
