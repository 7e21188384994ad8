"""Watch replicas that have no ModelService: what they hold, by the Open Inference Protocol V2.

A server that loads what it finds, or what it is asked to (Triton, MLServer, KServe's runtimes),
says it by its repository index; one without an index by its model's metadata and readiness. Its
versions are what it says. Told to hold something, it is asked to load the model; where it takes no
such orders (Triton without explicit model control, the plain protocol) it is left alone, because
then it decides by itself what it holds.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from logging import DEBUG
from typing import Any, Protocol
from urllib.parse import quote

from google.protobuf.message import DecodeError, Message

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES
from gateway.codecs.tfs_status import statuses_from_proto
from gateway.domain.errors import UpstreamFailed
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.names import Version, parse_version
from gateway.domain.replicas import Endpoint, ReplicaReport, Told
from gateway.telemetry import log
from gateway.upstream.replica_calls import ReplicaCalls
from gateway.wire.exchange import WireError
from gateway.wire.grpc_client import GrpcAnswer
from gateway.wire.grpc_text import Code, code_name

_UNANSWERED = ReplicaReport(answered=False)
_UNKNOWN_ERROR = 2
_MAX_TOLD = 1024
_MAX_VERSIONS = 64
"""Versions whose readiness is asked for one by one; a server without an index has one or two."""

_STATES = {
    "READY": VersionState.READY,
    "LOADING": VersionState.LOADING,
    "UNLOADING": VersionState.DRAINING,
    "UNAVAILABLE": VersionState.FAILED,
}
_NO_SUCH_CALL = (Code.UNIMPLEMENTED, Code.NOT_FOUND)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of a repository index."""

    name: str
    version: str
    state: str
    reason: str


class Asker(Protocol):
    """V2's questions on one transport. Each raises `Unanswered` where nobody answers."""

    async def greet(self) -> None:
        """Make sure that somebody is there: whatever is answered will do."""
        ...

    async def index(self) -> list[IndexEntry] | None:
        """All models; None where the server has no index."""
        ...

    async def versions(self, model: str) -> list[str] | None:
        """The versions that the model's metadata names; None where it is not known."""
        ...

    async def ready(self, model: str, version: str) -> bool: ...

    async def load(self, model: str) -> None:
        """Ask for the model. That it is refused, or takes longer than we wait, is no error."""
        ...

    async def unload(self, model: str) -> None: ...


class Unanswered(Exception):
    """Nobody is there, or what is there speaks something else."""


class OipControl:
    """ports.ReplicaControl for replicas without ModelService, by `Endpoint.speaks`."""

    def __init__(self, calls: ReplicaCalls, *, timeout_s: float) -> None:
        """Each question may take `timeout_s`."""
        self._calls = calls
        self._timeout_s = timeout_s
        self._told: OrderedDict[tuple[Endpoint, str], frozenset[Version]] = OrderedDict()

    async def tell(self, endpoint: Endpoint, told: Told) -> None:
        """See ports.ReplicaControl."""
        if not any(p.startswith("v2-") for p in endpoint.speaks):
            return  # TensorFlow Serving's REST takes no orders.
        asker = self._asker(endpoint)
        try:
            await asker.greet()
            if told.versions:
                await asker.load(told.model)
            else:
                await asker.unload(told.model)
        except Unanswered as error:
            raise UpstreamFailed(
                f"Replica at {endpoint.grpc or endpoint.http} does not answer: {error}",
                reason="connect_refused",
                sent=False,
            ) from error
        self._told[endpoint, told.model] = frozenset(told.versions)
        self._told.move_to_end((endpoint, told.model))
        while len(self._told) > _MAX_TOLD:
            self._told.popitem(last=False)

    async def report(self, endpoint: Endpoint, model: str) -> ReplicaReport:
        """See ports.ReplicaControl."""
        try:
            if not any(p.startswith("v2-") for p in endpoint.speaks):
                statuses = await self._tfs_rest(endpoint, model)
                return ReplicaReport(answered=True, versions={s.version: s for s in statuses})
            asker = self._asker(endpoint)
            entries = await asker.index()
            statuses = statuses_from_index(entries or (), model)
            unversioned = False
            if not statuses:
                told = self._told.get((endpoint, model), frozenset())
                statuses, unversioned = await _statuses_by_readiness(asker, model, told)
        except Unanswered as error:
            log.event("replica.unanswered", level=DEBUG, endpoint=endpoint.http, cause=error)
            return _UNANSWERED
        versions = {s.version: s for s in statuses}
        return ReplicaReport(answered=True, versions=versions, unversioned=unversioned)

    async def _tfs_rest(self, endpoint: Endpoint, model: str) -> list[VersionStatus]:
        """A server with TensorFlow Serving's REST and without its gRPC."""
        rest = _RestAsker(self._calls, endpoint.http, self._timeout_s)
        status, told = await rest.ask("GET", f"/v1/models/{quote(model, safe='')}")
        if status != 200 or not isinstance(told, dict):
            return []
        try:
            return [_tfs_status(one) for one in told["model_version_status"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unanswered(f"its status cannot be read: {error!r}") from error

    def _asker(self, endpoint: Endpoint) -> Asker:
        if "v2-grpc" in endpoint.speaks:
            return _GrpcAsker(self._calls, endpoint.grpc, self._timeout_s)
        return _RestAsker(self._calls, endpoint.http, self._timeout_s)


def _tfs_status(told: Mapping[str, Any]) -> VersionStatus:
    """One entry of TensorFlow Serving's REST status, which spells error codes out."""
    said = told.get("status", {})
    one = tfs_pb2.GetModelStatusResponse()
    entry = one.model_version_status.add(
        version=int(told["version"]), state=tfs_pb2.ModelVersionStatus.State.Value(told["state"])
    )
    entry.status.error_code = GRPC_CODE_NAMES.index(said.get("error_code", "OK"))
    entry.status.error_message = said.get("error_message", "")
    return statuses_from_proto(one)[0]


def statuses_from_index(entries: Iterable[IndexEntry], model: str) -> list[VersionStatus]:
    """What a repository index says of one model; lines without a version say nothing usable."""
    found = []
    for entry in entries:
        version = parse_version(entry.version)
        if entry.name != model or version is None:
            continue
        state = _STATES.get(entry.state, VersionState.NEW)
        if state is VersionState.FAILED and entry.reason == "unloaded":
            found.append(VersionStatus(version, VersionState.GONE))
        elif state is VersionState.FAILED:
            found.append(VersionStatus(version, state, entry.reason, _UNKNOWN_ERROR))
        else:
            found.append(VersionStatus(version, state))
    return found


async def _statuses_by_readiness(
    asker: Asker, model: str, told: frozenset[Version]
) -> tuple[list[VersionStatus], bool]:
    """Without an index: the versions that the metadata names, each asked whether it is ready; and
    whether it names none."""
    named = await asker.versions(model)
    if named is None:
        return [], False
    versions = [v for text in named[:_MAX_VERSIONS] if (v := parse_version(text)) is not None]
    if not versions:
        # It knows no versions: what it serves is the newest that it was told of.
        newest = max(told, default=None)
        if newest is None or not await asker.ready(model, ""):
            return [], True
        return [VersionStatus(newest, VersionState.READY)], True
    statuses = []
    for version in versions:
        ready = await asker.ready(model, str(version))
        statuses.append(
            VersionStatus(version, VersionState.READY if ready else VersionState.LOADING)
        )
    return statuses, False


class _GrpcAsker:
    def __init__(self, calls: ReplicaCalls, address: str, timeout_s: float) -> None:
        self._calls = calls
        self._address = address
        self._timeout_s = timeout_s

    async def _said(
        self, method: OipMethod, request: Message, *, is_order: bool = False
    ) -> GrpcAnswer:
        """Any answer."""
        call = self._calls.order if is_order else self._calls.ask
        message = request.SerializeToString()
        try:
            return await call(self._address, method.path, message, timeout_s=self._timeout_s)
        except (WireError, TimeoutError) as error:
            raise _unanswered(error) from error

    async def _ask(self, method: OipMethod, request: Message) -> Any:
        """The answer; None where the server says that there is no such thing."""
        said = await self._said(method, request)
        if said.code in _NO_SUCH_CALL:
            return None
        if said.code:
            raise Unanswered(f"{code_name(said.code)} {said.details}")
        return _read(method, said)

    async def greet(self) -> None:
        await self._said(OipMethod.SERVER_LIVE, oip_pb2.ServerLiveRequest())

    async def index(self) -> list[IndexEntry] | None:
        answer = await self._ask(OipMethod.REPOSITORY_INDEX, oip_pb2.RepositoryIndexRequest())
        if answer is None:
            return None
        return [IndexEntry(m.name, m.version, m.state, m.reason) for m in answer.models]

    async def versions(self, model: str) -> list[str] | None:
        request = oip_pb2.ModelMetadataRequest(name=model)
        answer = await self._refusable(OipMethod.MODEL_METADATA, request)
        return None if answer is None else list(answer.versions)

    async def ready(self, model: str, version: str) -> bool:
        request = oip_pb2.ModelReadyRequest(name=model, version=version)
        answer = await self._refusable(OipMethod.MODEL_READY, request)
        return answer is not None and bool(answer.ready)

    async def load(self, model: str) -> None:
        request = oip_pb2.RepositoryModelLoadRequest(model_name=model)
        await self._refusable(OipMethod.REPOSITORY_MODEL_LOAD, request, is_order=True)

    async def unload(self, model: str) -> None:
        request = oip_pb2.RepositoryModelUnloadRequest(model_name=model)
        await self._refusable(OipMethod.REPOSITORY_MODEL_UNLOAD, request, is_order=True)

    async def _refusable(
        self, method: OipMethod, request: Message, *, is_order: bool = False
    ) -> Any:
        """As `_ask`, where a refusal (a model that is not loaded yet, no explicit control), or a
        load that takes longer than we wait, is an answer. Something else has just been answered, so
        it is late and not gone."""
        try:
            said = await self._said(method, request, is_order=is_order)
        except Unanswered as error:
            if isinstance(error.__cause__, TimeoutError):
                return None
            raise
        if not said.code:
            return _read(method, said)
        cause = f"{code_name(said.code)} {said.details}"
        log.event("replica.refused", level=DEBUG, call=method.name, cause=cause)
        return None


def _unanswered(error: WireError | TimeoutError) -> Unanswered:
    return Unanswered(str(error) or "not in time")


def _read(method: OipMethod, said: GrpcAnswer) -> Any:
    try:
        return getattr(oip_pb2, method.response_name).FromString(said.message)
    except DecodeError as error:
        raise Unanswered(f"its answer cannot be read: {error}") from error


class _RestAsker:
    def __init__(self, calls: ReplicaCalls, address: str, timeout_s: float) -> None:
        self._calls = calls
        self._address = address
        self._timeout_s = timeout_s

    async def ask(self, method: str, path: str, *, is_order: bool = False) -> tuple[int, Any]:
        """Status, and the JSON where there is some."""
        call = self._calls.order_http if is_order else self._calls.ask_http
        try:
            status, body = await call(self._address, method, path, timeout_s=self._timeout_s)
        except (WireError, TimeoutError) as error:
            raise _unanswered(error) from error
        try:
            return status, json.loads(body) if body.strip() else None
        except ValueError:
            return 502, None

    async def greet(self) -> None:
        await self.ask("GET", "/v2/health/live")

    async def index(self) -> list[IndexEntry] | None:
        status, entries = await self.ask("POST", "/v2/repository/index")
        if status != 200 or not isinstance(entries, list):
            return None
        return [
            IndexEntry(*(str(entry.get(k) or "") for k in ("name", "version", "state", "reason")))
            for entry in entries
            if isinstance(entry, dict)
        ]

    async def versions(self, model: str) -> list[str] | None:
        status, metadata = await self.ask("GET", _path(model))
        if status != 200 or not isinstance(metadata, dict):
            return None
        return [str(v) for v in metadata.get("versions") or ()]

    async def ready(self, model: str, version: str) -> bool:
        status, body = await self.ask("GET", _path(model, version) + "/ready")
        return status == 200 and not (isinstance(body, dict) and body.get("ready") is False)

    async def load(self, model: str) -> None:
        try:
            await self.ask(
                "POST", f"/v2/repository/models/{quote(model, safe='')}/load", is_order=True
            )
        except Unanswered as error:
            # A load that takes longer than we wait goes on without us.
            if not isinstance(error.__cause__, TimeoutError):
                raise

    async def unload(self, model: str) -> None:
        await self.ask(
            "POST", f"/v2/repository/models/{quote(model, safe='')}/unload", is_order=True
        )


def _path(model: str, version: str = "") -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{version}" if version else path
