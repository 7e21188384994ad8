"""Tell replicas what to hold and ask what they hold: ModelService over gRPC.

Progress (bytes fetched, what it is doing) is not in TensorFlow Serving's protocol; servers of ours
and the agent beside a stock one offer it as JSON at `GET /replica/status`. What ModelService says
is the truth about AVAILABLE; the JSON only adds to it. Replicas that have no ModelService, as their
endpoint says, are watched by other means (oip_control.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from logging import DEBUG
from typing import Any

from google.protobuf.message import DecodeError

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.codecs.tfs_status import reload_request, statuses_from_proto
from gateway.domain.errors import UpstreamFailed
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint, ReplicaReport, Told
from gateway.telemetry import log
from gateway.upstream.oip_control import OipControl
from gateway.upstream.replica_calls import ReplicaCalls
from gateway.wire.exchange import WireError
from gateway.wire.grpc_client import GrpcAnswer
from gateway.wire.grpc_text import Code, code_name
from gateway.wire.tasks import Tasks

_UNANSWERED = ReplicaReport(answered=False)
# A refused configuration, as opposed to a version that would not load (UNKNOWN, by TFS's words):
# that is told by its status, and retried by the replica itself.
_REFUSALS = {
    Code.INVALID_ARGUMENT,
    Code.UNIMPLEMENTED,
    Code.UNAVAILABLE,
    Code.RESOURCE_EXHAUSTED,
    Code.UNAUTHENTICATED,
    Code.PERMISSION_DENIED,
}


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Bounds of the talk with replicas."""

    connect_s: float = 2.0
    """How long a connection may take, and the first answer on it before a replica is told
    something. They are near; a busy machine may need a second."""

    report_s: float = 2.0
    """How long a status may take. Longer than the stalls of a replica that is loading."""

    refusal_s: float = 0.1
    """How long `tell` waits for a refusal. A configuration that is taken is answered only when
    its versions have loaded, so an answer within this time is almost always a refusal."""

    reload_s: float = 3600.0
    """How long a replica may take to load what it was told."""

    pending_tells: int = 64
    """Configurations sent and unanswered, over all replicas; the oldest is given up beyond that."""

    addresses: int = 4096
    """Addresses with open connections. A replica of ours has two, one for ModelService and one for
    its progress, so this holds 2,000 replicas (500 models on four pods each), each asked every
    second, without connecting anew. Beyond that, who was asked longest ago is let go; a report
    then makes its connections, which costs 340 µs of CPU instead of 120 (2,000 replicas)."""

    status_bytes: int = 4 * 1024 * 1024
    """Bound of any answer: thousands of versions."""


class ReplicaControlClient:
    """ports.ReplicaControl over the wire. Make it inside the running loop; `aclose` when done."""

    def __init__(self, settings: ControlSettings | None = None) -> None:
        self._settings = settings = settings or ControlSettings()
        self._loop = asyncio.get_running_loop()
        self._calls = ReplicaCalls(
            connect_s=settings.connect_s,
            max_bytes=settings.status_bytes,
            max_addresses=settings.addresses,
        )
        self._others = OipControl(self._calls, timeout_s=settings.report_s)
        self._tasks = Tasks(lambda error: log.bug("replica.tell_bug", error))
        self._pending: dict[asyncio.Task[None], None] = {}
        """Oldest first."""

    def __repr__(self) -> str:
        return f"ReplicaControlClient({self._calls}, pending={len(self._pending)})"

    async def tell(self, endpoint: Endpoint, told: Told) -> None:
        """See ports.ReplicaControl. "Taken" is sent on a connection that has just answered, and not
        refused within `refusal_s`."""
        if not _has_model_service(endpoint):
            await self._others.tell(endpoint, told)
            return
        address = endpoint.control
        await self._greet(address, told.model)
        answered: asyncio.Future[GrpcAnswer] = self._loop.create_future()
        self._keep(self._tasks.start(self._reload(address, told, answered)))
        try:
            async with asyncio.timeout(self._settings.refusal_s):
                said = await answered
        except TimeoutError:
            return
        if said.code in _REFUSALS:
            raise UpstreamFailed(
                f"Replica at {address} refused its configuration: {code_name(said.code)} "
                f"{said.details}",
                reason="reload_refused",
                sent=True,
            )

    async def _greet(self, address: str, model: str) -> None:
        """Make sure that somebody is there: whatever it answers will do."""
        try:
            await self._ask_status(address, model, self._settings.connect_s)
        except (WireError, TimeoutError) as error:
            raise UpstreamFailed(
                f"Replica at {address} does not answer: {str(error) or 'not in time'}",
                reason=error.reason if isinstance(error, WireError) else "connect_timeout",
                sent=False,
            ) from error

    async def _reload(self, address: str, told: Told, answered: asyncio.Future[GrpcAnswer]) -> None:
        """Send a configuration and wait until it has been applied, whoever still asks."""
        message = reload_request(told, "tensorflow").SerializeToString()
        try:
            said = await self._calls.order(
                address,
                Method.HANDLE_RELOAD_CONFIG.path,
                message,
                timeout_s=self._settings.reload_s,
            )
        except WireError as error:
            said = GrpcAnswer(Code.UNAVAILABLE, error.message, b"", ())
        except TimeoutError:
            said = GrpcAnswer(Code.DEADLINE_EXCEEDED, "it is still loading", b"", ())
        if not answered.done():
            answered.set_result(said)
        elif said.code:
            name = code_name(said.code)
            log.event("replica.reload_failed", level=DEBUG, endpoint=address, code=name)

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Let a configuration be applied by itself, within the bound."""
        self._pending[task] = None
        task.add_done_callback(lambda done: self._pending.pop(done, None))
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
            said = await self._ask_status(endpoint.control, model, self._settings.report_s)
            stated = _stated(said)
        except (WireError, TimeoutError, _NoStatus) as error:
            cause = error if str(error) else "timeout"
            log.event("replica.unanswered", level=DEBUG, endpoint=endpoint.control, cause=cause)
            return _UNANSWERED
        told_more = await self._progress(endpoint, model)
        return ReplicaReport(answered=True, versions=merge(stated, told_more))

    async def _ask_status(self, address: str, model: str, timeout_s: float) -> GrpcAnswer:
        request = tfs_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        return await self._calls.ask(
            address,
            Method.GET_MODEL_STATUS.path,
            request.SerializeToString(),
            timeout_s=timeout_s,
        )

    async def _progress(self, endpoint: Endpoint, model: str) -> dict[Version, VersionStatus]:
        """What `/replica/status` adds; nothing where there is none or it does not answer."""
        if not endpoint.status_http:
            return {}
        try:
            status, body = await self._calls.ask_http(
                endpoint.status_http, "GET", "/replica/status", timeout_s=self._settings.report_s
            )
            return parse_progress(json.loads(body), model) if status == 200 else {}
        except (WireError, TimeoutError, ValueError) as error:
            log.event(
                "replica.no_progress", level=DEBUG, endpoint=endpoint.status_http, cause=error
            )
            return {}

    async def aclose(self) -> None:
        """Close every connection; configurations that are still being applied stay applied."""
        await self._tasks.aclose()
        await self._calls.aclose()


class _NoStatus(Exception):
    """It answers, and not with a status."""


def _stated(said: GrpcAnswer) -> dict[Version, VersionStatus]:
    if said.code == Code.NOT_FOUND:
        # "Could not find any versions of model m": it answers, and holds nothing yet.
        return {}
    if said.code:
        raise _NoStatus(f"{code_name(said.code)} {said.details}")
    try:
        answer = tfs_pb2.GetModelStatusResponse.FromString(said.message)
    except DecodeError as error:
        raise _NoStatus(str(error)) from error
    return {s.version: s for s in statuses_from_proto(answer)}


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
