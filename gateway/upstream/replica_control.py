"""Tell replicas what to hold and ask what they hold: ModelService over gRPC.

Progress (bytes fetched, what it is doing) is not in TensorFlow Serving's protocol; servers of ours
and the agent beside a stock one offer it as JSON at `GET /replica/status`. What ModelService says
is the truth about AVAILABLE; the JSON only adds to it. Replicas that have no ModelService, as their
endpoint says, are watched by other means (oip_control.py).
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from logging import DEBUG
from typing import Any

import aiohttp
import grpc
import grpc.aio

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.codecs.tfs_status import reload_request, statuses_from_proto
from gateway.domain.errors import UpstreamFailed
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint, ReplicaReport, Told
from gateway.telemetry import log
from gateway.upstream.oip_control import OipControl

_UNANSWERED = ReplicaReport(answered=False)
# A refused configuration, as opposed to a version that would not load (UNKNOWN, by TFS's words):
# that is told by its status, and retried by the replica itself.
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}
_CHANNEL_OPTIONS = (
    # A replica that restarts is back within a second; gRPC's own backoff would miss it for 20.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Replicas are on this machine or in this cluster; a proxy of the environment is not for them.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Bounds of the talk with replicas."""

    connect_s: float = 2.0
    """How long a connection may take. They are near; a busy machine may need a second."""

    report_s: float = 2.0
    """How long a status may take. Longer than the stalls of a replica that is loading."""

    refusal_s: float = 0.1
    """How long `tell` waits for a refusal. A configuration that is taken is answered only when
    its versions have loaded, so an answer within this time is almost always a refusal."""

    reload_s: float = 3600.0
    """How long a replica may take to load what it was told."""

    pending_tells: int = 64
    """Configurations sent and unanswered, over all replicas; the oldest is given up beyond that."""

    channels: int = 1024
    """Open connections; the least recently used is closed beyond that."""

    status_bytes: int = 4 * 1024 * 1024
    """Bound of a `/replica/status` answer: thousands of versions."""


class GrpcReplicaControl:
    """ports.ReplicaControl over grpc.aio. Make it inside the running loop; `aclose` when done."""

    def __init__(self, settings: ControlSettings | None = None) -> None:
        self._settings = settings or ControlSettings()
        self._channels: OrderedDict[str, grpc.aio.Channel] = OrderedDict()
        self._pending: dict[grpc.aio.UnaryUnaryCall[Any, Any], None] = {}
        self._http: aiohttp.ClientSession | None = None
        self._others = OipControl(
            self._channel,
            self._session,
            timeout_s=self._settings.report_s,
            max_bytes=self._settings.status_bytes,
        )

    def __repr__(self) -> str:
        return f"GrpcReplicaControl(channels={len(self._channels)}, pending={len(self._pending)})"

    async def tell(self, endpoint: Endpoint, told: Told) -> None:
        """See ports.ReplicaControl. "Taken" is sent on a connection that stands, and not refused
        within `refusal_s`."""
        if not _has_model_service(endpoint):
            await self._others.tell(endpoint, told)
            return
        channel = await self._channel(endpoint.control)
        try:
            async with asyncio.timeout(self._settings.connect_s):
                await channel.channel_ready()
        except TimeoutError as error:
            await self._drop(endpoint.control)
            raise UpstreamFailed(
                f"Replica at {endpoint.control} does not accept connections",
                reason="connect_refused",
                sent=False,
            ) from error
        send = channel.unary_unary(
            Method.HANDLE_RELOAD_CONFIG.path,
            request_serializer=tfs_pb2.ReloadConfigRequest.SerializeToString,
            response_deserializer=tfs_pb2.ReloadConfigResponse.FromString,
        )
        call = send(reload_request(told, "tensorflow"), timeout=self._settings.reload_s)
        answered = asyncio.Event()
        call.add_done_callback(lambda _: answered.set())
        self._keep(call)
        try:
            async with asyncio.timeout(self._settings.refusal_s):
                await answered.wait()
        except TimeoutError:
            return
        code = await call.code()
        if code in _REFUSALS:
            raise UpstreamFailed(
                f"Replica at {endpoint.control} refused its configuration: {code.name} "
                f"{await call.details()}",
                reason="reload_refused",
                sent=True,
            )

    def _keep(self, call: grpc.aio.UnaryUnaryCall[Any, Any]) -> None:
        """Let the call go on by itself, its end logged."""
        self._pending[call] = None
        call.add_done_callback(lambda done: self._pending.pop(call, None))
        if len(self._pending) > self._settings.pending_tells:
            oldest = next(iter(self._pending))
            self._pending.pop(oldest)
            oldest.cancel()
            log.warning("replica.tell_given_up", pending=len(self._pending))

    async def report(self, endpoint: Endpoint, model: str) -> ReplicaReport:
        """See ports.ReplicaControl."""
        if not _has_model_service(endpoint):
            return await self._others.report(endpoint, model)
        try:
            stated = await self._status(endpoint, model)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            log.event("replica.unanswered", level=DEBUG, endpoint=endpoint.control, cause=error)
            return _UNANSWERED
        told_more = await self._progress(endpoint, model)
        return ReplicaReport(answered=True, versions=merge(stated, told_more))

    async def _status(self, endpoint: Endpoint, model: str) -> dict[Version, VersionStatus]:
        channel = await self._channel(endpoint.control)
        ask = channel.unary_unary(
            Method.GET_MODEL_STATUS.path,
            request_serializer=tfs_pb2.GetModelStatusRequest.SerializeToString,
            response_deserializer=tfs_pb2.GetModelStatusResponse.FromString,
        )
        request = tfs_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            answer = await ask(request, timeout=self._settings.report_s)
        except grpc.aio.AioRpcError as error:
            # "Could not find any versions of model m": it answers, and holds nothing yet.
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise
        return {s.version: s for s in statuses_from_proto(answer)}

    async def _progress(self, endpoint: Endpoint, model: str) -> dict[Version, VersionStatus]:
        """What `/replica/status` adds; nothing where there is none or it does not answer."""
        if not endpoint.status_http:
            return {}
        try:
            async with (
                asyncio.timeout(self._settings.report_s),
                self._session().get(f"http://{endpoint.status_http}/replica/status") as answer,
            ):
                if answer.status != 200:
                    return {}
                body = await answer.content.read(self._settings.status_bytes)
                while not answer.content.at_eof():
                    if len(body) >= self._settings.status_bytes:
                        return {}
                    body += await answer.content.read(self._settings.status_bytes - len(body))
            return parse_progress(json.loads(body), model)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            log.event(
                "replica.no_progress", level=DEBUG, endpoint=endpoint.status_http, cause=error
            )
            return {}

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(trust_env=False)
        return self._http

    async def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
            self._channels[address] = channel
            if len(self._channels) > self._settings.channels:
                await self._drop(next(iter(self._channels)))
        self._channels.move_to_end(address)
        return channel

    async def _drop(self, address: str) -> None:
        channel = self._channels.pop(address, None)
        if channel is not None:
            await channel.close(None)

    async def aclose(self) -> None:
        """Close every connection; configurations that are still being applied stay applied."""
        for call in list(self._pending):
            call.cancel()
        for address in list(self._channels):
            await self._drop(address)
        if self._http is not None:
            await self._http.close()


def _has_model_service(endpoint: Endpoint) -> bool:
    """Whether ModelService is there, as far as anybody has said; stock servers say nothing."""
    return not endpoint.speaks or "tfs-grpc" in endpoint.speaks


def parse_progress(raw: object, model: str) -> dict[Version, VersionStatus]:
    """One model's versions of a `/replica/status` answer.

    Raises:
        ValueError: it has another shape.
    """
    try:
        entries = raw["models"].get(model, {}).get("versions", [])  # type: ignore[index]
        return {int(e["version"]): _one(e) for e in entries}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a replica's status: {error}") from error


def _one(entry: Mapping[str, Any]) -> VersionStatus:
    return VersionStatus(
        version=int(entry["version"]),
        state=VersionState(entry["state"]),
        reason=str(entry.get("reason") or ""),
        error_code=int(entry.get("error_code") or 0),
        fetched_bytes=entry.get("fetched_bytes"),
        total_bytes=entry.get("total_bytes"),
        phase=str(entry.get("phase") or ""),
    )


_UNDER_WAY = {VersionState.NEW, VersionState.LOADING}


def merge(
    stated: Mapping[Version, VersionStatus], more: Mapping[Version, VersionStatus]
) -> dict[Version, VersionStatus]:
    """Add progress and reasons to what ModelService stated. Only ModelService makes READY."""
    merged = dict(stated)
    for version, extra in more.items():
        said = merged.get(version)
        if extra.state is VersionState.READY:
            continue
        if said is None or said.state in _UNDER_WAY:
            merged[version] = extra
        elif said.state is VersionState.FAILED:
            merged[version] = replace(
                said, reason=extra.reason or said.reason, phase=extra.phase or said.phase
            )
    return merged
