"""The gRPC front: TensorFlow Serving's PredictionService and ModelService, and the health service;
V2's methods are in `oip_rpc`, and reflection describes them.

Methods are served by their paths with bytes in and out (`gateway.codecs.tfs_methods`); messages are
this project's wire-compatible ones.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter

from google.protobuf.message import DecodeError

from gateway.codecs import oip_methods
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES, grpc_code, truncate_message
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import (
    GatewayError,
)
from gateway.wire.exchange import Data, ServerExchange
from gateway.wire.grpc import (
    HEAD,
    OK_TRAILERS,
    GrpcCall,
    GrpcMethods,
    Unary,
    frame,
    read_head,
    status_fields,
    whole_message,
)
from gateway.wire.grpc_health import Health
from gateway.wire.tasks import Tasks
from servers.kit import eager, logs, oip_reflection
from servers.kit.eager import Reply
from servers.kit.oip_rpc import OipRpc
from servers.kit.oip_service import OipService
from servers.kit.reports import load_fields
from servers.kit.rpc_failed import Failed
from servers.kit.service import Service
from servers.kit.tfs_calls import SERVE, Call, TfsCalls
from servers.kit.timing import timing_fields

HEALTH_NAMES = (
    "",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "PredictionService",
    "ModelService",
    oip_methods.SERVICE,
)
"""The full names, and the short ones that TensorFlow Serving registers."""

_HEAD = (HEAD,)
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


_QUICK: dict[str, Method | OipMethod] = {
    Method.PREDICT.path: Method.PREDICT,
    OipMethod.MODEL_INFER.path: OipMethod.MODEL_INFER,
}


class Rpc:
    """All methods over one Service."""

    def __init__(self, service: Service, oip: OipService, max_message: int, tasks: Tasks) -> None:
        self.service = service
        self.health = Health(HEALTH_NAMES)
        self._oip = OipRpc(oip)
        self._max_message = max_message
        self._calls = TfsCalls(service)
        self._tasks = tasks
        ours = {method.path: Unary(partial(self._called, method)) for method in SERVE}
        self._methods = GrpcMethods(
            {
                **ours,
                **self._oip.handlers(),
                **oip_reflection.handlers(),
                **self.health.handlers(),
            },
            tasks,
            max_message,
        )

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        """A call has come; see `exchange.Front`. One to a method that predicts, whose message is
        here, is answered at once where that is possible."""
        method = _QUICK.get(exchange.head.path)
        if method is not None and body is not None:
            head = read_head(exchange.head)
            message = whole_message(body, self._max_message)
            if message is not None and head.refusal is None:
                work = self._replied(method, head.timeout_s, message)
                eager.answer(exchange, work, self._tasks)
                return
        self._methods.begin(exchange, body)

    async def _replied(
        self, method: Method | OipMethod, timeout_s: float | None, message: bytes
    ) -> Reply:
        if timeout_s is None:
            timeout_s = self.service.timeout_s
        until = asyncio.get_running_loop().time() + timeout_s
        try:
            if isinstance(method, Method):
                call = Call(message, until)
                answer = await self._answered(method, call)
                timing = timing_fields(call.spent)
            else:
                answer, timing = await self._oip.answered_infer(message, until)
        except Failed as failed:
            said = status_fields(failed.code, truncate_message(failed.message), failed.trailers)
            return 200, (HEAD, said, load_fields(self.service.in_flight)), b"", None
        load = load_fields(self.service.in_flight)
        return 200, _HEAD, frame(answer), (OK_TRAILERS, load, timing)

    async def _called(self, method: Method, body: bytes, call: GrpcCall) -> bytes:
        remaining = call.time_remaining()
        if remaining is None:
            is_reload = method is Method.HANDLE_RELOAD_CONFIG
            remaining = RELOAD_LIMIT_S if is_reload else self.service.timeout_s
        ours = Call(body, asyncio.get_running_loop().time() + remaining)
        try:
            answer = await self._answered(method, ours)
        except Failed as failed:
            await call.abort(failed.code, truncate_message(failed.message), failed.trailers)
        else:
            return answer
        finally:
            said = load_fields(self.service.in_flight).pairs
            call.set_trailing_metadata((*said, *timing_fields(ours.spent).pairs))

    async def _answered(self, method: Method, call: Call) -> bytes:
        """The answer, counted and measured.

        Raises:
            Failed: whatever went wrong.
        """
        begun = perf_counter()
        failed: Failed | None = None
        answer = b""
        self.service.enter()
        try:
            if method not in _ALWAYS:
                self.service.admit()
            answer = await SERVE[method](self._calls, call)
        except DecodeError as error:
            failed = Failed(3, f"The request is no valid {_API[method]} message: {error}")
        except Failed as error:
            failed = error
        except GatewayError as error:
            failed = Failed(grpc_code(error), error.message, error.reason)
        except Exception as error:  # noqa: BLE001  the front's one place for bugs
            logs.bug("request.crashed", error, method=method.path)
            failed = Failed(13, f"{type(error).__name__}: {error}")
        finally:
            self.service.leave()
        if call.model:
            name = GRPC_CODE_NAMES[failed.code if failed else 0]
            took_s = perf_counter() - begun
            self.service.metrics.observe(call.model, _API[method], "GRPC", name, took_s)
        if failed is not None:
            raise failed
        return answer
