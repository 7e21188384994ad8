"""The agent's doors: ModelService over gRPC, `GET /replica/status` over HTTP, either on both ports.

No predictions: callers talk to TensorFlow Serving itself. Both doors merge the manager's states
with TensorFlow Serving's own at the moment they are asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

from google.protobuf.message import DecodeError

from gateway.codecs import tfs_status
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_errors import grpc_code, truncate_message
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import DeadlineExceeded, GatewayError, InvalidRequest, Unavailable
from gateway.domain.models import VersionStatus
from gateway.wire.exchange import Data, ServerExchange
from gateway.wire.fields import Fields
from gateway.wire.grpc import GrpcCall, GrpcMethods, Unary, is_grpc
from gateway.wire.grpc_health import Health
from gateway.wire.tasks import Awaited, Tasks
from servers.agent.runtime import AgentRuntime, merged
from servers.agent.shared import source_for
from servers.agent.tfs import Tfs
from servers.kit import logs
from servers.kit.service import Service

STATUS_PATH = "/replica/status"
HEALTH_NAMES = ("", "ModelService", "tensorflow.serving.ModelService")

_MAX_MESSAGE = 16 * 1024 * 1024
"""A configuration of a thousand models has about a megabyte."""
_JSON = (Fields([("content-type", "application/json; charset=utf-8")]),)
_RELOAD_LIMIT_S = 24 * 3600.0
"""Deadline of a reload that brings none: it waits for models to load."""


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
            return await self._tfs.statuses(model)
        except Unavailable:
            return None


class AgentFront:
    """`exchange.Front` of the agent: ModelService, the health service and the status page."""

    def __init__(self, agent: Agent, timeout_s: float, tasks: Tasks) -> None:
        self._agent = agent
        self._timeout_s = timeout_s
        self._tasks = tasks
        self.health = Health(HEALTH_NAMES)
        ours = {
            Method.GET_MODEL_STATUS.path: Unary(self._status),
            Method.HANDLE_RELOAD_CONFIG.path: Unary(self._reload),
        }
        self._methods = GrpcMethods({**ours, **self.health.handlers()}, tasks, _MAX_MESSAGE)

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        """See exchange.Front."""
        if is_grpc(exchange.head.get("content-type")):
            self._methods.begin(exchange, body)
        else:
            self._tasks.run(exchange, body, self._page)

    async def _status(self, body: bytes, call: GrpcCall) -> bytes:
        async def answer() -> bytes:
            request = tfs_pb2.GetModelStatusRequest.FromString(body)
            if not request.HasField("model_spec"):
                raise InvalidRequest("Missing ModelSpec", reason="model_missing")
            spec = request.model_spec
            has_version = spec.WhichOneof("version_choice") == "version"
            version = spec.version.value if has_version else None
            statuses = await self._agent.statuses(spec.name, version)
            return tfs_status.status_proto(statuses).SerializeToString()

        return await _answered(answer, call, self._timeout_s)

    async def _reload(self, body: bytes, call: GrpcCall) -> bytes:
        async def answer() -> bytes:
            request = tfs_pb2.ReloadConfigRequest.FromString(body)
            code, message = await self._agent.reload(request)
            if code:
                await call.abort(code, truncate_message(message))
            done = tfs_pb2.ReloadConfigResponse()
            done.status.error_code = 0
            return done.SerializeToString()

        return await _answered(answer, call, _RELOAD_LIMIT_S)

    async def _page(self, request: Awaited) -> None:
        """`GET /replica/status`, in the kit's own form."""
        head = request.head
        if head.method != "GET" or head.path.partition("?")[0] != STATUS_PATH:
            request.respond(404, (), b"")
            return
        models = {
            name: {
                "reason": self._agent.source_reason(name),
                "versions": [_shown(status) for status in statuses],
            }
            for name, statuses in (await self._agent.overview()).items()
        }
        request.respond(200, _JSON, json.dumps({"models": models}).encode())


async def _answered(
    answer: Callable[[], Awaitable[bytes]], call: GrpcCall, limit_s: float
) -> bytes:
    remaining = call.time_remaining()
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
    reason = (("x-gateway-reason", error.reason),)
    await call.abort(grpc_code(error), truncate_message(error.message), reason)


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
