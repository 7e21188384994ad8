"""The agent's two doors: ModelService over gRPC, `GET /replica/status` over HTTP.

No predictions: callers talk to TensorFlow Serving itself. Both doors merge the manager's states
with TensorFlow Serving's own at the moment they are asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import grpc
from aiohttp import web
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]

from gateway.codecs import tfs_status
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_errors import grpc_code, truncate_message
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import DeadlineExceeded, GatewayError, InvalidRequest, Unavailable
from gateway.domain.models import VersionStatus
from servers.agent.runtime import AgentRuntime, merged
from servers.agent.shared import source_for
from servers.agent.tfs import Tfs
from servers.kit import logs
from servers.kit.service import Service

STATUS_PATH = "/replica/status"
HEALTH_NAMES = ("", "ModelService", "tensorflow.serving.ModelService")

_MAX_MESSAGE = 16 * 1024 * 1024
"""A configuration of a thousand models has about a megabyte."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_RELOAD_LIMIT_S = 24 * 3600.0
"""Deadline of a reload that brings none: it waits for models to load."""

if TYPE_CHECKING:
    _Generic = grpc.GenericRpcHandler[bytes, bytes]
else:
    _Generic = grpc.GenericRpcHandler  # generic in its stubs only

Context = grpc.aio.ServicerContext[bytes, bytes]


class Agent:
    """What both doors offer."""

    def __init__(self, service: Service, runtime: AgentRuntime, tfs: Tfs) -> None:
        self._service = service
        self._runtime = runtime
        self._tfs = tfs

    async def statuses(self, model: str, version: int | None = None) -> list[VersionStatus]:
        """Versions of one model, newest first. Raises NotFound as TensorFlow Serving does."""
        return merged(self._service.manager.statuses(model, version), await self._ask(model))

    async def overview(self) -> dict[str, list[VersionStatus]]:
        """Every model."""
        ours = self._service.manager.overview()
        return {name: merged(statuses, await self._ask(name)) for name, statuses in ours.items()}

    def source_reason(self, model: str) -> str:
        """Why a model's source cannot be read."""
        return self._service.manager.source_reason(model)

    async def reload(self, request: tfs_pb2.ReloadConfigRequest) -> tuple[int, str]:
        """Take a configuration whose base paths are source URIs; a gRPC code and its message."""
        for config in request.config.model_config_list.config:
            if config.name and config.base_path:
                config.base_path = source_for(config.name, config.base_path)
        code, message = await self._service.reload(request)
        if not code:
            await asyncio.to_thread(self._runtime.sync)  # labels may have changed alone
        return code, message

    async def watch(self, every_s: float = 1.0) -> None:
        """Tell TensorFlow Serving again when it has lost what it held: it was restarted."""
        while True:
            await asyncio.sleep(every_s)
            for model, versions in self._runtime.available().items():
                theirs = await self._ask(model)
                if theirs is not None and not versions <= theirs.keys():
                    logs.warn("tfs.came_back_empty", model=model, address=self._tfs.address)
                    try:
                        await asyncio.to_thread(self._runtime.sync)
                    except Unavailable as error:
                        logs.warn("tfs.silent", why=error.message)
                    break

    async def _ask(self, model: str) -> Mapping[int, VersionStatus] | None:
        try:
            return await asyncio.to_thread(self._tfs.statuses, model)
        except Unavailable:
            return None


class AgentRpc:
    """ModelService and the health service."""

    def __init__(self, agent: Agent, timeout_s: float) -> None:
        self._agent = agent
        self._timeout_s = timeout_s
        self._health = health_aio.HealthServicer()

    async def start(self, address: str) -> tuple[grpc.aio.Server, int]:
        """Listen; returns the server and its port. Raises OSError."""
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE),
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers((_ModelService(self),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if port == 0:
            raise OSError(f"cannot listen on {address}")
        await server.start()
        for name in HEALTH_NAMES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return server, port

    async def status(self, body: bytes, context: Context) -> bytes:
        """GetModelStatus."""

        async def answer() -> bytes:
            request = tfs_pb2.GetModelStatusRequest.FromString(body)
            if not request.HasField("model_spec"):
                raise InvalidRequest("Missing ModelSpec", reason="model_missing")
            spec = request.model_spec
            has_version = spec.WhichOneof("version_choice") == "version"
            version = spec.version.value if has_version else None
            statuses = await self._agent.statuses(spec.name, version)
            return tfs_status.status_proto(statuses).SerializeToString()

        return await _answered(answer, context, self._timeout_s)

    async def reload(self, body: bytes, context: Context) -> bytes:
        """HandleReloadConfigRequest."""

        async def answer() -> bytes:
            request = tfs_pb2.ReloadConfigRequest.FromString(body)
            code, message = await self._agent.reload(request)
            if code:
                await context.abort(_CODES[code], truncate_message(message))
            done = tfs_pb2.ReloadConfigResponse()
            done.status.error_code = 0
            return done.SerializeToString()

        return await _answered(answer, context, _RELOAD_LIMIT_S)


async def _answered(
    answer: Callable[[], Awaitable[bytes]], context: Context, limit_s: float
) -> bytes:
    remaining = context.time_remaining()
    try:
        async with asyncio.timeout(limit_s if remaining is None else remaining):
            return await answer()
    except TimeoutError:
        error: GatewayError = DeadlineExceeded(
            "The configuration was taken; its models are still loading", reason="call"
        )
    except DecodeError as broken:
        error = InvalidRequest(f"The request cannot be read: {broken}", reason="bad_message")
    except GatewayError as refused:
        error = refused
    context.set_trailing_metadata((("x-gateway-reason", error.reason),))
    await context.abort(_CODES[grpc_code(error)], truncate_message(error.message))
    raise AssertionError("abort raises")


class _ModelService(_Generic):
    def __init__(self, rpc: AgentRpc) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            Method.GET_MODEL_STATUS.path: grpc.unary_unary_rpc_method_handler(rpc.status),
            Method.HANDLE_RELOAD_CONFIG.path: grpc.unary_unary_rpc_method_handler(rpc.reload),
        }

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(details.method)


class AgentHttp:
    """`GET /replica/status`, in the kit's own form."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        if request.method != "GET" or request.path != STATUS_PATH:
            return web.Response(status=404)
        models = {
            name: {
                "reason": self._agent.source_reason(name),
                "versions": [_shown(status) for status in statuses],
            }
            for name, statuses in (await self._agent.overview()).items()
        }
        return web.json_response({"models": models}, dumps=json.dumps)


def _shown(status: VersionStatus) -> dict[str, object]:
    return {
        "version": status.version,
        "state": status.state.value,
        "phase": status.phase,
        "fetched_bytes": status.fetched_bytes,
        "total_bytes": status.total_bytes,
        "reason": status.reason,
        "error_code": status.error_code,
    }
