"""The gRPC front: TensorFlow Serving's PredictionService and ModelService, and the health service;
V2's methods are in `oip_rpc`, and reflection describes them.

Methods are served by their paths with bytes in and out (`gateway.codecs.tfs_methods`); messages are
this project's wire-compatible ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]

from gateway.codecs import oip_methods, tfs_metadata, tfs_status, tfs_tensors
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES, grpc_code, truncate_message
from gateway.codecs.tfs_examples import serialized_examples
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import (
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    Unimplemented,
)
from gateway.domain.tensors import CLASSIFY_METHOD, REGRESS_METHOD
from servers.kit import inference, logs, oip_reflection
from servers.kit.oip_rpc import OipRpc
from servers.kit.oip_service import OipService
from servers.kit.runtime import Arrays
from servers.kit.servable import Servable
from servers.kit.service import Answer, Service

if TYPE_CHECKING:
    _Generic = grpc.GenericRpcHandler[bytes, bytes]
else:
    _Generic = grpc.GenericRpcHandler  # generic in its stubs only

Context = grpc.aio.ServicerContext[bytes, bytes]

HEALTH_NAMES = (
    "",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "PredictionService",
    "ModelService",
    oip_methods.SERVICE,
)
"""The full names, and the short ones that TensorFlow Serving registers."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_API = {
    Method.PREDICT: "Predict",
    Method.CLASSIFY: "Classify",
    Method.REGRESS: "Regress",
    Method.MULTI_INFERENCE: "MultiInference",
    Method.GET_MODEL_METADATA: "GetModelMetadata",
    Method.GET_MODEL_STATUS: "GetModelStatus",
    Method.HANDLE_RELOAD_CONFIG: "HandleReloadConfigRequest",
}
_ALWAYS = {Method.GET_MODEL_STATUS, Method.HANDLE_RELOAD_CONFIG}
"""Answered however busy the server is, and while it drains: the gateway steers by them."""
RELOAD_LIMIT_S = 24 * 3600.0
"""Deadline of a reload that brings none: it waits for models to load, which may take long."""


class _Refused(Exception):
    """A status with a code that no error of ours has (UNKNOWN, FAILED_PRECONDITION)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Call:
    """One request on its way."""

    __slots__ = ("body", "deadline_at", "model")

    def __init__(self, body: bytes, deadline_at: float) -> None:
        self.body = body
        self.deadline_at = deadline_at
        self.model = ""
        """Its model once that is known to be one of ours: the label of its metrics."""


class _ByPath(_Generic):
    """Handlers by full method path."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._handlers = handlers

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(details.method)


class Rpc:
    """All methods over one Service."""

    def __init__(self, service: Service, oip: OipService) -> None:
        self.service = service
        self._oip = OipRpc(oip)
        self.health = health_aio.HealthServicer()

    async def start(self, address: str, max_message: int) -> tuple[grpc.aio.Server, int]:
        """Listen on `host:port`; returns the server and the port it got.

        Raises:
            OSError: the port is taken, or the address is not one of this machine.
        """
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message),
                ("grpc.max_send_message_length", max_message),
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if port == 0:
            raise OSError(f"cannot listen on {address}")
        await server.start()
        return server, port

    async def say(self, is_serving: bool) -> None:
        """Set every health name."""
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if is_serving else kinds.NOT_SERVING
        for name in HEALTH_NAMES:
            await self.health.set(name, status)

    def _handlers(self) -> _ByPath:
        ours = {
            method.path: grpc.unary_unary_rpc_method_handler(partial(self._call, method))
            for method in _SERVE
        }
        return _ByPath({**ours, **self._oip.handlers(), **oip_reflection.handlers()})

    async def _call(self, method: Method, body: bytes, context: Context) -> bytes:
        loop = asyncio.get_running_loop()
        began = loop.time()
        begun = perf_counter()
        remaining = context.time_remaining()
        if remaining is None:
            is_reload = method is Method.HANDLE_RELOAD_CONFIG
            remaining = RELOAD_LIMIT_S if is_reload else self.service.timeout_s
        code, message, answer = 0, "", b""
        call = _Call(body, began + remaining)
        self.service.enter()
        try:
            if method not in _ALWAYS:
                self.service.admit()
            answer = await _SERVE[method](self, call)
        except DecodeError as error:
            code, message = 3, f"The request is no valid {_API[method]} message: {error}"
        except _Refused as error:
            code, message = error.code, error.message
        except GatewayError as error:
            code, message = grpc_code(error), error.message
            context.set_trailing_metadata((("x-gateway-reason", error.reason),))
        except Exception as error:  # noqa: BLE001  the front's one place for bugs
            logs.bug("request.crashed", error, method=method.path)
            code, message = 13, f"{type(error).__name__}: {error}"
        finally:
            self.service.leave()
        if call.model:
            name = GRPC_CODE_NAMES[code]
            took_s = perf_counter() - begun
            self.service.metrics.observe(call.model, _API[method], "GRPC", name, took_s)
        if code:
            await context.abort(_CODES[code], truncate_message(message))
        return answer

    def _find(self, call: _Call, spec: tfs_pb2.ModelSpec) -> Servable:
        choice = spec.WhichOneof("version_choice")
        version = spec.version.value if choice == "version" else None
        label = spec.version_label if choice == "version_label" else None
        servable = self.service.manager.find(spec.name, version, label)
        call.model = servable.name
        return servable

    async def predict(self, call: _Call) -> bytes:
        off_loop, size = self.service.off_loop, len(call.body)
        request = await off_loop(size, lambda: tfs_pb2.PredictRequest.FromString(call.body))
        _check_spec(request)
        servable = self._find(call, request.model_spec)
        given = await off_loop(
            size, lambda: {n: tfs_tensors.to_array(t) for n, t in request.inputs.items()}
        )
        made = await self.service.predict(
            servable,
            request.model_spec.signature_name,
            given,
            request.output_filter,
            call.deadline_at,
        )
        return await off_loop(_size(made.outputs), lambda: _prediction(made))

    async def classify(self, call: _Call) -> bytes:
        request = tfs_pb2.ClassificationRequest.FromString(call.body)
        _check_spec(request)
        made, examples = await self._infer(call, request.model_spec, CLASSIFY_METHOD, request.input)
        answer = tfs_pb2.ClassificationResponse(
            result=inference.classification(made.outputs, len(examples))
        )
        _fill_spec(answer.model_spec, made)
        return answer.SerializeToString()

    async def regress(self, call: _Call) -> bytes:
        request = tfs_pb2.RegressionRequest.FromString(call.body)
        _check_spec(request)
        made, examples = await self._infer(call, request.model_spec, REGRESS_METHOD, request.input)
        answer = tfs_pb2.RegressionResponse(
            result=inference.regression(made.outputs, len(examples))
        )
        _fill_spec(answer.model_spec, made)
        return answer.SerializeToString()

    async def _infer(
        self, call: _Call, spec: tfs_pb2.ModelSpec, method: str, source: tfs_pb2.Input
    ) -> tuple[Answer, list[bytes]]:
        servable = self._find(call, spec)
        examples = serialized_examples(source)
        made = await self.service.infer(
            servable, spec.signature_name, method, examples, call.deadline_at
        )
        return made, examples

    async def multi_inference(self, call: _Call) -> bytes:
        """Several signatures of one model over the same examples (multi_inference.cc)."""
        request = tfs_pb2.MultiInferenceRequest.FromString(call.body)
        names = {task.model_spec.name for task in request.tasks}
        if not request.tasks:
            raise InvalidRequest("Inference request must have at least one task", reason="no_task")
        if len(names) > 1 or "" in names:
            raise InvalidRequest(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
                reason="bad_tasks",
            )
        signatures = [task.model_spec.signature_name for task in request.tasks]
        if len(set(signatures)) < len(signatures):
            raise InvalidRequest(
                f"Duplicate evaluation of signature: {_repeated(signatures)}", reason="bad_tasks"
            )
        answer = tfs_pb2.MultiInferenceResponse()
        for task in request.tasks:
            method = task.method_name
            if method not in (CLASSIFY_METHOD, REGRESS_METHOD):
                raise Unimplemented(
                    f"Unsupported signature method_name: {method}", reason="bad_task"
                )
            made, examples = await self._infer(call, task.model_spec, method, request.input)
            result = answer.results.add()
            _fill_spec(result.model_spec, made)
            if method == CLASSIFY_METHOD:
                made_classes = inference.classification(made.outputs, len(examples))
                result.classification_result.CopyFrom(made_classes)
            else:
                result.regression_result.CopyFrom(inference.regression(made.outputs, len(examples)))
        return answer.SerializeToString()

    async def metadata(self, call: _Call) -> bytes:
        request = tfs_pb2.GetModelMetadataRequest.FromString(call.body)
        tfs_metadata.check_metadata_request(request)
        servable = self._find(call, request.model_spec)
        answer = tfs_metadata.metadata_proto(servable.name, servable.version, servable.signatures)
        return answer.SerializeToString()

    async def status(self, call: _Call) -> bytes:
        request = tfs_pb2.GetModelStatusRequest.FromString(call.body)
        _check_spec(request)
        spec = request.model_spec
        # As the original, only has_version() counts here; a label is ignored.
        has_version = spec.WhichOneof("version_choice") == "version"
        version = spec.version.value if has_version else None
        statuses = self.service.manager.statuses(spec.name, version)
        return tfs_status.status_proto(statuses).SerializeToString()

    async def reload(self, call: _Call) -> bytes:
        request = tfs_pb2.ReloadConfigRequest.FromString(call.body)
        try:
            async with asyncio.timeout_at(call.deadline_at):
                code, message = await self.service.reload(request)
        except TimeoutError:
            raise DeadlineExceeded(
                "The configuration was taken; its models are still loading", reason="call"
            ) from None
        if code:
            raise _Refused(code, message)
        answer = tfs_pb2.ReloadConfigResponse()
        answer.status.error_code = 0
        return answer.SerializeToString()


def _check_spec(
    request: tfs_pb2.PredictRequest
    | tfs_pb2.ClassificationRequest
    | tfs_pb2.RegressionRequest
    | tfs_pb2.GetModelStatusRequest,
) -> None:
    if not request.HasField("model_spec"):
        raise InvalidRequest("Missing ModelSpec", reason="model_missing")


def _repeated(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _size(outputs: Arrays) -> int:
    # An object array's nbytes are pointers; strings are rarely short, so each counts for more.
    return sum(a.nbytes * (8 if a.dtype == object else 1) for a in outputs.values())


def _fill_spec(spec: tfs_pb2.ModelSpec, made: Answer) -> None:
    spec.name = made.servable.name
    spec.version.value = made.servable.version
    spec.signature_name = made.signature


def _prediction(made: Answer) -> bytes:
    answer = tfs_pb2.PredictResponse()
    _fill_spec(answer.model_spec, made)
    specs = made.servable.signatures[made.signature].outputs
    for name, array in made.outputs.items():
        answer.outputs[name].CopyFrom(tfs_tensors.to_proto(array, specs[name].dtype))
    return answer.SerializeToString()


_SERVE: dict[Method, Callable[[Rpc, _Call], Awaitable[bytes]]] = {
    Method.PREDICT: Rpc.predict,
    Method.CLASSIFY: Rpc.classify,
    Method.REGRESS: Rpc.regress,
    Method.MULTI_INFERENCE: Rpc.multi_inference,
    Method.GET_MODEL_METADATA: Rpc.metadata,
    Method.GET_MODEL_STATUS: Rpc.status,
    Method.HANDLE_RELOAD_CONFIG: Rpc.reload,
}
