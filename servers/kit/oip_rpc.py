"""The Open Inference Protocol V2 over gRPC: every method of inference.GRPCInferenceService.

Served by path beside TensorFlow Serving's methods, bytes in and out. A stream is a sequence of
independent requests: up to `STREAM_WINDOW` of them are on their way at once, and answered in their
own order, as Triton does for models that answer each request once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from time import perf_counter

import grpc
from google.protobuf.message import DecodeError

from gateway.codecs import oip_admin, oip_proto, oip_stats
from gateway.codecs.oip_errors import Flavour, grpc_code
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_scan import scan, version_of
from gateway.codecs.pb import oip_pb2
from gateway.codecs.proto_walk import varint
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES, truncate_message
from gateway.domain.errors import DeadlineExceeded, GatewayError
from servers.kit import logs, oip_checks, oip_views
from servers.kit.oip_service import OipService, shared_memory_refused

Context = grpc.aio.ServicerContext[bytes, bytes]

STREAM_WINDOW = 16
"""Requests of one stream on their way at once. Enough to fill a batch; each holds its tensors."""
STRICT_ERRORS = "triton_grpc_error"
"""Request metadata: an error ends the stream with its status instead of going in band."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_INFERS = (OipMethod.MODEL_INFER, OipMethod.MODEL_STREAM_INFER)
_INFER_RESPONSE = b"\x12"
"""The tag of ModelStreamInferResponse.infer_response, which a ready-made answer follows."""
_LOAD_S = 24 * 3600.0
"""Deadline of a load that brings none: it waits for the model, which may take long."""


class _Call:
    """One request on its way."""

    __slots__ = ("body", "deadline_at", "id", "model")

    def __init__(self, body: bytes, deadline_at: float) -> None:
        self.body = body
        self.deadline_at = deadline_at
        self.id = ""
        self.model = ""
        """Its model once that is known to be one of ours: the label of its metrics."""


class _Failed(Exception):
    """A request's error as code, words and reason."""

    def __init__(self, code: int, message: str, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason


class OipRpc:
    """All V2 methods over one OipService."""

    def __init__(self, oip: OipService) -> None:
        self._oip = oip
        self._service = oip.service

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]:
        """By full method path."""
        return {
            method.path: grpc.stream_stream_rpc_method_handler(self._stream)
            if method.is_streaming
            else grpc.unary_unary_rpc_method_handler(partial(self._unary, method))
            for method in _SERVE
        }

    # ---- one request --------------------

    async def _unary(self, method: OipMethod, body: bytes, context: Context) -> bytes:
        loop = asyncio.get_running_loop()
        remaining = context.time_remaining()
        if remaining is None:
            is_load = method is OipMethod.REPOSITORY_MODEL_LOAD
            remaining = _LOAD_S if is_load else self._service.timeout_s
        call = _Call(body, loop.time() + remaining)
        try:
            return await self._answered(method, call)
        except _Failed as failed:
            context.set_trailing_metadata((("x-gateway-reason", failed.reason),))
            await context.abort(_CODES[failed.code], truncate_message(failed.message))
            raise AssertionError("abort raises") from None

    async def _answered(self, method: OipMethod, call: _Call) -> bytes:
        """The answer, counted and measured.

        Raises:
            _Failed: whatever went wrong.
        """
        begun = perf_counter()
        failed: _Failed | None = None
        answer = b""
        self._service.enter()
        try:
            if method in _INFERS:
                self._service.admit()
            answer = await _SERVE[method](self, call)
        except DecodeError as error:
            failed = _Failed(
                3, f"The request is no valid {method.request_name}: {error}", "bad_message"
            )
        except GatewayError as error:
            failed = _Failed(grpc_code(error), error.message, error.reason)
        except Exception as error:  # noqa: BLE001  the front's one place for bugs
            logs.bug("request.crashed", error, method=method.path)
            failed = _Failed(13, f"{type(error).__name__}: {error}", "bug")
        finally:
            self._service.leave()
        if call.model:
            code = GRPC_CODE_NAMES[failed.code if failed else 0]
            took_s = perf_counter() - begun
            self._service.metrics.observe(call.model, "ModelInfer", "GRPC", code, took_s)
        if failed is not None:
            raise failed
        return answer

    async def infer(self, call: _Call) -> bytes:
        """ModelInfer."""
        return await self._infer(call, None)

    async def _infer(self, call: _Call, parameters: Mapping[str, bool] | None) -> bytes:
        oip, off_loop = self._oip, self._service.off_loop
        asked_for = scan(OipMethod.MODEL_INFER, call.body)
        call.id = asked_for.id
        servable = oip.find(asked_for.model, asked_for.version)
        call.model = servable.name
        asked = await off_loop(len(call.body), lambda: oip_proto.decode_infer_bytes(call.body))
        made = await oip.infer(servable, asked, call.deadline_at)
        return await off_loop(
            oip_views.size(made.outputs),
            lambda: oip_proto.encode_infer_bytes(
                servable.name, servable.version, asked.id, made.outputs, parameters=parameters
            ),
        )

    # ---- a stream of them --------------------

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        remaining = context.time_remaining()
        until = None if remaining is None else asyncio.get_running_loop().time() + remaining
        stream = _Stream(until, _is_strict(context))
        ended: _Failed | None = None
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(stream, requests, tasks))
            guard = tasks.create_task(self._end_when_draining(stream, reading))
            try:
                while (one := await stream.window.get()) is not None:
                    answer = await one
                    if isinstance(answer, _Failed):
                        ended = answer
                        break
                    await context.write(answer)
                    stream.slots.release()
            finally:
                for task in (reading, guard, *stream.left()):
                    task.cancel()
        ended = ended or stream.ended
        if ended is not None:
            context.set_trailing_metadata((("x-gateway-reason", ended.reason),))
            await context.abort(_CODES[ended.code], truncate_message(ended.message))

    async def _read(
        self, stream: _Stream, requests: AsyncIterator[bytes], tasks: asyncio.TaskGroup
    ) -> None:
        try:
            async for body in requests:
                await stream.slots.acquire()
                stream.window.put_nowait(tasks.create_task(self._one(stream, body)))
        finally:
            stream.window.put_nowait(None)

    async def _end_when_draining(self, stream: _Stream, reading: asyncio.Task[None]) -> None:
        """Answer what has come and take no more: an idle stream must not hold up the end."""
        await self._service.draining.wait()
        stream.ended = _Failed(14, "this server is shutting down", "draining")
        reading.cancel()

    async def _one(self, stream: _Stream, body: bytes) -> bytes | _Failed:
        """One request's answer as the stream carries it; `_Failed` ends the stream."""
        loop = asyncio.get_running_loop()
        until = stream.until if stream.until is not None else loop.time() + self._service.timeout_s
        call = _Call(body, until)
        try:
            answer = await self._answered(OipMethod.MODEL_STREAM_INFER, call)
        except _Failed as failed:
            if stream.is_strict:
                return failed
            # The id tells the caller which of its requests this is.
            told = oip_pb2.ModelStreamInferResponse(error_message=truncate_message(failed.message))
            told.infer_response.id = call.id
            return told.SerializeToString()
        return _INFER_RESPONSE + varint(len(answer)) + answer

    async def stream_infer(self, call: _Call) -> bytes:
        """One request of a stream. Each is its own last answer."""
        return await self._infer(call, {"triton_final_response": True})

    # ---- what is here --------------------

    async def live(self, call: _Call) -> bytes:
        return oip_pb2.ServerLiveResponse(live=True).SerializeToString()

    async def ready(self, call: _Call) -> bytes:
        return oip_pb2.ServerReadyResponse(ready=self._oip.is_ready()).SerializeToString()

    async def model_ready(self, call: _Call) -> bytes:
        request = oip_pb2.ModelReadyRequest.FromString(call.body)
        version = version_of(request.version)
        if self._oip.flavour is Flavour.KSERVE:
            self._oip.find(request.name, version)
        is_ready = self._oip.is_model_ready(request.name, version)
        return oip_pb2.ModelReadyResponse(ready=is_ready).SerializeToString()

    async def server_metadata(self, call: _Call) -> bytes:
        return oip_admin.server_metadata_proto(
            oip_views.NAME, oip_views.VERSION, oip_views.EXTENSIONS
        ).SerializeToString()

    async def metadata(self, call: _Call) -> bytes:
        request = oip_pb2.ModelMetadataRequest.FromString(call.body)
        servable = self._oip.find(request.name, version_of(request.version))
        _, signature = oip_checks.signature_of(servable.signatures, servable.name)
        versions = self._oip.ready_versions(request.name)
        platform = oip_views.platform_of(self._service.manager.runtime)
        return oip_admin.model_metadata_proto(
            request.name, versions, platform, signature
        ).SerializeToString()

    async def config(self, call: _Call) -> bytes:
        request = oip_pb2.ModelConfigRequest.FromString(call.body)
        servable = self._oip.find(request.name, version_of(request.version))
        _, signature = oip_checks.signature_of(servable.signatures, servable.name)
        versions = self._oip.ready_versions(request.name)
        shown = oip_views.config_of(servable, self._service.manager.runtime, versions)
        return oip_admin.config_proto(shown, signature).SerializeToString()

    async def statistics(self, call: _Call) -> bytes:
        request = oip_pb2.ModelStatisticsRequest.FromString(call.body)
        counted = self._oip.counted(request.name, version_of(request.version))
        return oip_stats.statistics_proto(
            oip_views.stats_of(one) for one in counted
        ).SerializeToString()

    # ---- repository --------------------

    async def index(self, call: _Call) -> bytes:
        request = oip_pb2.RepositoryIndexRequest.FromString(call.body)
        self._oip.check_repository(request.repository_name)
        entries = oip_admin.index_entries(self._oip.index(request.ready), only_ready=request.ready)
        return oip_admin.repository_index_proto(entries).SerializeToString()

    async def load(self, call: _Call) -> bytes:
        request = oip_pb2.RepositoryModelLoadRequest.FromString(call.body)
        repository, name = self._meant(request)
        try:
            async with asyncio.timeout_at(call.deadline_at):
                await self._oip.load(repository, name, dict(request.parameters))
        except TimeoutError:
            raise DeadlineExceeded(f"'{name[:128]}' is still loading", reason="call") from None
        return self._done(name)

    async def unload(self, call: _Call) -> bytes:
        request = oip_pb2.RepositoryModelUnloadRequest.FromString(call.body)
        repository, name = self._meant(request)
        await self._oip.unload(repository, name)
        return self._done(name)

    def _meant(
        self, request: oip_pb2.RepositoryModelLoadRequest | oip_pb2.RepositoryModelUnloadRequest
    ) -> tuple[str, str]:
        """Repository and model. KServe's has the model where Triton's has the repository."""
        if self._oip.flavour is Flavour.KSERVE and not request.model_name:
            return "", request.repository_name
        return request.repository_name, request.model_name

    def _done(self, name: str) -> bytes:
        """A load's or unload's answer: Triton's is empty, KServe's has the name and `true`."""
        if self._oip.flavour is Flavour.TRITON:
            return b""
        said = name.encode()
        return b"\x0a" + varint(len(said)) + said + b"\x10\x01"

    # ---- settings --------------------

    async def trace(self, call: _Call) -> bytes:
        request = oip_pb2.TraceSettingRequest.FromString(call.body)
        if request.model_name:
            self._oip.check_configured(request.model_name)
        given = {name: list(said.value) for name, said in request.settings.items()}
        answer = oip_pb2.TraceSettingResponse()
        for name, value in self._oip.settings.set_trace(request.model_name, given).items():
            answer.settings[name].value.extend([value] if isinstance(value, str) else value)
        return answer.SerializeToString()

    async def logging(self, call: _Call) -> bytes:
        request = oip_pb2.LogSettingsRequest.FromString(call.body)
        given: dict[str, object] = {}
        for name, said in request.settings.items():
            kind = said.WhichOneof("parameter_choice")
            given[name] = None if kind is None else getattr(said, kind)
        answer = oip_pb2.LogSettingsResponse()
        for name, value in self._oip.settings.set_log(given).items():
            said_now = answer.settings[name]
            if isinstance(value, bool):
                said_now.bool_param = value
            elif isinstance(value, int):
                said_now.uint32_param = value
            else:
                said_now.string_param = value
        return answer.SerializeToString()

    # ---- not offered --------------------

    async def system_regions(self, call: _Call) -> bytes:
        request = oip_pb2.SystemSharedMemoryStatusRequest.FromString(call.body)
        if request.name:
            raise oip_views.no_region(False, request.name)
        return b""  # a response without regions

    async def cuda_regions(self, call: _Call) -> bytes:
        request = oip_pb2.CudaSharedMemoryStatusRequest.FromString(call.body)
        if request.name:
            raise oip_views.no_region(True, request.name)
        return b""

    async def shared_memory(self, call: _Call) -> bytes:
        raise shared_memory_refused()


class _Stream:
    """One ModelStreamInfer on its way."""

    def __init__(self, until: float | None, is_strict: bool) -> None:
        self.until = until
        self.is_strict = is_strict
        self.slots = asyncio.Semaphore(STREAM_WINDOW)
        self.window: asyncio.Queue[asyncio.Task[bytes | _Failed] | None] = asyncio.Queue()
        """Bounded by `slots`."""
        self.ended: _Failed | None = None

    def left(self) -> list[asyncio.Task[bytes | _Failed]]:
        """Requests that nobody will wait for."""
        found = [self.window.get_nowait() for _ in range(self.window.qsize())]
        return [one for one in found if one is not None]


def _is_strict(context: Context) -> bool:
    said = dict(context.invocation_metadata() or ())
    return str(said.get(STRICT_ERRORS, "")).lower() == "true"


_SERVE: dict[OipMethod, Callable[[OipRpc, _Call], Awaitable[bytes]]] = {
    OipMethod.SERVER_LIVE: OipRpc.live,
    OipMethod.SERVER_READY: OipRpc.ready,
    OipMethod.MODEL_READY: OipRpc.model_ready,
    OipMethod.SERVER_METADATA: OipRpc.server_metadata,
    OipMethod.MODEL_METADATA: OipRpc.metadata,
    OipMethod.MODEL_INFER: OipRpc.infer,
    OipMethod.MODEL_STREAM_INFER: OipRpc.stream_infer,
    OipMethod.MODEL_CONFIG: OipRpc.config,
    OipMethod.MODEL_STATISTICS: OipRpc.statistics,
    OipMethod.REPOSITORY_INDEX: OipRpc.index,
    OipMethod.REPOSITORY_MODEL_LOAD: OipRpc.load,
    OipMethod.REPOSITORY_MODEL_UNLOAD: OipRpc.unload,
    OipMethod.SYSTEM_SHARED_MEMORY_STATUS: OipRpc.system_regions,
    OipMethod.SYSTEM_SHARED_MEMORY_REGISTER: OipRpc.shared_memory,
    OipMethod.SYSTEM_SHARED_MEMORY_UNREGISTER: OipRpc.shared_memory,
    OipMethod.CUDA_SHARED_MEMORY_STATUS: OipRpc.cuda_regions,
    OipMethod.CUDA_SHARED_MEMORY_REGISTER: OipRpc.shared_memory,
    OipMethod.CUDA_SHARED_MEMORY_UNREGISTER: OipRpc.shared_memory,
    OipMethod.TRACE_SETTING: OipRpc.trace,
    OipMethod.LOG_SETTINGS: OipRpc.logging,
}
