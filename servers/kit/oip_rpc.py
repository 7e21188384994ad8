"""The Open Inference Protocol V2 over gRPC: every method of inference.GRPCInferenceService.

Served by path beside TensorFlow Serving's methods, bytes in and out; streams are `oip_stream`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import perf_counter

from google.protobuf.message import DecodeError

from gateway.codecs import oip_admin, oip_proto, oip_stats
from gateway.codecs.oip_errors import Flavour, grpc_code
from gateway.codecs.oip_forms import InferForms
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_scan import scan, version_of
from gateway.codecs.pb import oip_pb2
from gateway.codecs.proto_walk import varint
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES, truncate_message
from gateway.domain.errors import DeadlineExceeded, GatewayError
from gateway.wire.fields import Fields
from gateway.wire.grpc import GrpcCall, Stream, Unary
from servers.kit import logs, oip_checks, oip_views
from servers.kit.oip_service import OipService
from servers.kit.oip_stream import Call, InferStreams
from servers.kit.reports import load_fields
from servers.kit.rpc_failed import Failed
from servers.kit.runtime import Arrays
from servers.kit.timing import timing_fields

_INFERS = (OipMethod.MODEL_INFER, OipMethod.MODEL_STREAM_INFER)
_LOAD_S = 24 * 3600.0
"""Deadline of a load that brings none: it waits for the model, which may take long."""


class OipRpc:
    """All V2 methods over one OipService."""

    def __init__(self, oip: OipService) -> None:
        self._oip = oip
        self._service = oip.service
        self._forms = InferForms()

    def handlers(self) -> Mapping[str, Unary | Stream]:
        """By full method path."""
        return {
            method.path: Stream(InferStreams(self._answered, self._service).serve)
            if method.is_streaming
            else Unary(partial(self._unary, method))
            for method in _SERVE
        }

    # ---- one request --------------------

    async def _unary(self, method: OipMethod, body: bytes, call: GrpcCall) -> bytes:
        remaining = call.time_remaining()
        if remaining is None:
            is_load = method is OipMethod.REPOSITORY_MODEL_LOAD
            remaining = _LOAD_S if is_load else self._service.timeout_s
        ours = Call(body, asyncio.get_running_loop().time() + remaining)
        try:
            answer = await self._answered(method, ours)
        except Failed as failed:
            await call.abort(failed.code, truncate_message(failed.message), failed.trailers)
        else:
            return answer
        finally:
            said = load_fields(self._service.in_flight).pairs
            call.set_trailing_metadata((*said, *timing_fields(ours.spent).pairs))

    async def answered_infer(self, body: bytes, deadline_at: float) -> tuple[bytes, Fields]:
        """ModelInfer's answer, counted and measured, and where its time went.

        Raises:
            Failed: whatever went wrong.
        """
        call = Call(body, deadline_at)
        answer = await self._answered(OipMethod.MODEL_INFER, call)
        return answer, timing_fields(call.spent)

    async def _answered(self, method: OipMethod, call: Call) -> bytes:
        """The answer, counted and measured.

        Raises:
            Failed: whatever went wrong.
        """
        begun = perf_counter()
        failed: Failed | None = None
        answer = b""
        self._service.enter()
        try:
            if method in _INFERS:
                self._service.admit()
            answer = await _SERVE[method](self, call)
        except DecodeError as error:
            failed = Failed(
                3, f"The request is no valid {method.request_name}: {error}", "bad_message"
            )
        except GatewayError as error:
            failed = Failed(grpc_code(error), error.message, error.reason)
        except Exception as error:  # noqa: BLE001  the front's one place for bugs
            logs.bug("request.crashed", error, method=method.path)
            failed = Failed(13, f"{type(error).__name__}: {error}", "bug")
        finally:
            self._service.leave()
        if call.model:
            code = GRPC_CODE_NAMES[failed.code if failed else 0]
            took_s = perf_counter() - begun
            self._service.metrics.observe(call.model, "ModelInfer", "GRPC", code, took_s)
        if failed is not None:
            raise failed
        return answer

    async def infer(self, call: Call) -> bytes:
        """ModelInfer."""
        return await self._infer(call, None)

    async def _infer(self, call: Call, parameters: Mapping[str, bool] | None) -> bytes:
        oip, off_loop, body = self._oip, self._service.off_loop, call.body
        form = self._forms.find(body)
        if form is not None:
            asked = form.said
            servable = oip.find(asked.model, version_of(asked.version))
            call.model = servable.name
            if len(body) <= self._service.offload_bytes:
                inputs: Arrays = form.arrays(body)
            else:
                inputs = await off_loop(len(body), lambda: form.arrays(body))
        else:
            routed = scan(OipMethod.MODEL_INFER, body)
            call.id = routed.id
            servable = oip.find(routed.model, routed.version)
            call.model = servable.name
            asked = await off_loop(len(body), lambda: oip_proto.decode_infer_bytes(body))
            inputs = asked.inputs
            if not self._forms.is_useless:
                self._forms.learn_request(body, asked)
        made = await oip.infer(servable, asked, inputs, call.deadline_at, form)
        call.spent = made.spent
        size = oip_views.size(made.outputs)
        if size <= self._service.offload_bytes:
            return servable.infer_answers.encode(asked.id, made.outputs, parameters)
        return await off_loop(
            size,
            lambda: oip_proto.encode_infer_bytes(
                servable.name, servable.version, asked.id, made.outputs, parameters=parameters
            ),
        )

    async def stream_infer(self, call: Call) -> bytes:
        """One request of a stream. Each is its own last answer."""
        return await self._infer(call, {"triton_final_response": True})

    # ---- what is here --------------------

    async def live(self, call: Call) -> bytes:
        return oip_pb2.ServerLiveResponse(live=True).SerializeToString()

    async def ready(self, call: Call) -> bytes:
        return oip_pb2.ServerReadyResponse(ready=self._oip.is_ready()).SerializeToString()

    async def model_ready(self, call: Call) -> bytes:
        request = oip_pb2.ModelReadyRequest.FromString(call.body)
        version = version_of(request.version)
        if self._oip.flavour is Flavour.KSERVE:
            self._oip.find(request.name, version)
        is_ready = self._oip.is_model_ready(request.name, version)
        return oip_pb2.ModelReadyResponse(ready=is_ready).SerializeToString()

    async def server_metadata(self, call: Call) -> bytes:
        return oip_admin.server_metadata_proto(
            oip_views.NAME, oip_views.VERSION, oip_views.EXTENSIONS
        ).SerializeToString()

    async def metadata(self, call: Call) -> bytes:
        request = oip_pb2.ModelMetadataRequest.FromString(call.body)
        servable = self._oip.find(request.name, version_of(request.version))
        _, signature = oip_checks.signature_of(servable.signatures, servable.name)
        versions = self._oip.ready_versions(request.name)
        platform = oip_views.platform_of(self._service.manager.runtime)
        return oip_admin.model_metadata_proto(
            request.name, versions, platform, signature
        ).SerializeToString()

    async def config(self, call: Call) -> bytes:
        request = oip_pb2.ModelConfigRequest.FromString(call.body)
        servable = self._oip.find(request.name, version_of(request.version))
        _, signature = oip_checks.signature_of(servable.signatures, servable.name)
        versions = self._oip.ready_versions(request.name)
        shown = oip_views.config_of(servable, self._service.manager.runtime, versions)
        return oip_admin.config_proto(shown, signature).SerializeToString()

    async def statistics(self, call: Call) -> bytes:
        request = oip_pb2.ModelStatisticsRequest.FromString(call.body)
        counted = self._oip.counted(request.name, version_of(request.version))
        return oip_stats.statistics_proto(
            oip_views.stats_of(one) for one in counted
        ).SerializeToString()

    # ---- repository --------------------

    async def index(self, call: Call) -> bytes:
        request = oip_pb2.RepositoryIndexRequest.FromString(call.body)
        self._oip.check_repository(request.repository_name)
        entries = oip_admin.index_entries(self._oip.index(request.ready), only_ready=request.ready)
        return oip_admin.repository_index_proto(entries).SerializeToString()

    async def load(self, call: Call) -> bytes:
        request = oip_pb2.RepositoryModelLoadRequest.FromString(call.body)
        repository, name = self._meant(request)
        try:
            async with asyncio.timeout_at(call.deadline_at):
                await self._oip.load(repository, name, dict(request.parameters))
        except TimeoutError:
            raise DeadlineExceeded(f"'{name[:128]}' is still loading", reason="call") from None
        return self._done(name)

    async def unload(self, call: Call) -> bytes:
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

    async def trace(self, call: Call) -> bytes:
        request = oip_pb2.TraceSettingRequest.FromString(call.body)
        if request.model_name:
            self._oip.check_configured(request.model_name)
        given = {name: list(said.value) for name, said in request.settings.items()}
        answer = oip_pb2.TraceSettingResponse()
        for name, value in self._oip.settings.set_trace(request.model_name, given).items():
            answer.settings[name].value.extend([value] if isinstance(value, str) else value)
        return answer.SerializeToString()

    async def logging(self, call: Call) -> bytes:
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

    async def system_regions(self, call: Call) -> bytes:
        request = oip_pb2.SystemSharedMemoryStatusRequest.FromString(call.body)
        if request.name:
            raise oip_views.no_region(False, request.name)
        return b""  # a response without regions

    async def cuda_regions(self, call: Call) -> bytes:
        request = oip_pb2.CudaSharedMemoryStatusRequest.FromString(call.body)
        if request.name:
            raise oip_views.no_region(True, request.name)
        return b""

    async def shared_memory(self, call: Call) -> bytes:
        raise oip_views.shared_memory_refused()


_SERVE: dict[OipMethod, Callable[[OipRpc, Call], Awaitable[bytes]]] = {
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
