"""Statistics of a model: what its replicas count, added up. Of all models at once: joined.

Callers see one server, so what they read may not depend on which replica was asked: a client that
takes the difference of two readings (perf_analyzer) would get the difference of two replicas. A
replica that cannot answer now is left out, and of all models one that cannot, as Triton leaves out
what is not loaded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from logging import DEBUG
from typing import Any
from urllib.parse import quote

import orjson
from google.protobuf.message import DecodeError

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_stats import added
from gateway.codecs.pb import oip_pb2
from gateway.core import admission
from gateway.core.dialect import Dialect
from gateway.core.route import ModelRoute, Target
from gateway.dataplane.callers import Transport
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.seen import Seen
from gateway.dataplane.translated_admin import rendered
from gateway.dataplane.translated_calls import Kind
from gateway.domain.errors import GatewayError
from gateway.domain.names import Version
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.telemetry import log
from gateway.wire.fields import Pairs

_AT_ONCE = 8
"""Replicas asked at the same time; a page of statistics must not become a burst of its own."""

_TIMEOUT_S = 5.0


async def model_statistics(
    plane: Dataplane,
    transport: Transport,
    name: str,
    version: Version | None,
    timeout_s: float | None = None,
    *,
    seen: Seen | None = None,
    metadata: Pairs = (),
    turns: asyncio.Semaphore | None = None,
) -> UpstreamAnswer:
    """Of one version, or of all that are loaded, in the transport's own form. `turns`: of a page of
    several models, one for each replica that is being asked.

    Raises:
        GatewayError: as Dataplane.ask; of several replicas, what the first one failed with where
            none could say.
    """
    request = _request(transport, name, version, metadata)
    model = plane.table.models.get(name)
    replicas = {} if model is None else _replicas(model, version)
    if model is None or len(replicas) < 2:
        pin: Callable[[Version], UpstreamRequest] = lambda _: request  # noqa: E731
        async with turns or asyncio.Semaphore(_AT_ONCE):
            return await plane.ask(
                transport, name, version, None, timeout_s, pin, seen=seen, fields=metadata
            )
    deadline_at = admission.deadline(timeout_s, model.timeout_s, plane.loop.time())
    at_once = turns or asyncio.Semaphore(_AT_ONCE)

    async def one(held: Version, target: Target) -> UpstreamAnswer | GatewayError:
        async with at_once:
            return await _of_replica(plane, transport, model, held, target, request, deadline_at)

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one(held, target)) for target, held in replicas.items()]
    told = [task.result() for task in asked]
    bodies = [body for answer in told if (body := _told(transport, name, answer))]
    if not bodies:
        if isinstance(told[0], GatewayError):
            raise told[0]
        return told[0]
    return _sum(transport, bodies)


async def all_statistics(plane: Dataplane, transport: Transport) -> bytes:
    """The answer in the transport's own form: JSON, or a serialized ModelStatisticsResponse."""
    names = sorted(name for name, model in plane.table.models.items() if model.targets)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> bytes:
        try:
            answer = await model_statistics(plane, transport, name, None, _TIMEOUT_S, turns=turns)
        except GatewayError as error:
            return _told(transport, name, error)
        return _told(transport, name, answer)

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one(name)) for name in names]
    bodies = [body for task in asked if (body := task.result())]
    if transport.dialect is Dialect.V2_GRPC:
        # Joined messages are one message whose repeated field has the elements of all.
        return b"".join(bodies)
    return _json([entry for body in bodies for entry in orjson.loads(body)["model_stats"]])


def _request(
    transport: Transport, name: str, version: Version | None, metadata: Pairs
) -> UpstreamRequest:
    if transport.dialect is Dialect.V2_GRPC:
        asked = "" if version is None else str(version)
        body = oip_pb2.ModelStatisticsRequest(name=name, version=asked).SerializeToString()
        return UpstreamRequest(OipMethod.MODEL_STATISTICS.path, body, metadata)
    of = "" if version is None else f"/versions/{version}"
    return UpstreamRequest(f"GET /v2/models/{quote(name, safe='')}{of}/stats", b"", metadata)


def _replicas(model: ModelRoute, version: Version | None) -> Mapping[Target, Version]:
    """Those that hold it, each with a version that it holds."""
    return {target: held for held, target in model.held() if version in (None, held)}


async def _of_replica(
    plane: Dataplane,
    transport: Transport,
    model: ModelRoute,
    version: Version,
    target: Target,
    request: UpstreamRequest,
    deadline_at: float,
) -> UpstreamAnswer | GatewayError:
    use = model.name, version, target.replica_id
    plane.in_flight.begin(use)
    try:
        endpoint = target.endpoint
        translator = plane.translation.between(transport.dialect, endpoint, model.speaks)
        upstream = translator or transport.upstream
        return await upstream.call(endpoint, request, deadline_at)
    except GatewayError as error:
        return error
    finally:
        plane.in_flight.end(use)


def _told(transport: Transport, name: str, answer: UpstreamAnswer | GatewayError) -> bytes:
    """The body of an answer that can be joined with others; empty of one that cannot. One odd
    server must not spoil the page."""
    if isinstance(answer, GatewayError):
        cause = answer.reason
    elif answer.status != (0 if transport.dialect is Dialect.V2_GRPC else 200):
        cause = answer.message or str(answer.status)
    elif _is_statistics(transport, answer.body):
        return answer.body
    else:
        cause = "bad_answer"
    log.event("statistics.missing", level=DEBUG, model=name, cause=cause)
    return b""


def _is_statistics(transport: Transport, body: bytes) -> bool:
    try:
        if transport.dialect is Dialect.V2_GRPC:
            oip_pb2.ModelStatisticsResponse.FromString(body)
            return True
        return isinstance(orjson.loads(body)["model_stats"], list)
    except (DecodeError, ValueError, KeyError, TypeError):
        return False


def _sum(transport: Transport, bodies: list[bytes]) -> UpstreamAnswer:
    """Of the replicas of one model. Added as JSON has it, which the messages become and are."""
    is_grpc = transport.dialect is Dialect.V2_GRPC
    if is_grpc:
        bodies = [
            rendered(Dialect.V2_REST, Kind.STATS, UpstreamAnswer(0, body)).body for body in bodies
        ]
    whole = _json(added([orjson.loads(body)["model_stats"] for body in bodies]))
    if is_grpc:
        return rendered(Dialect.V2_GRPC, Kind.STATS, UpstreamAnswer(200, whole))
    return UpstreamAnswer(200, whole, (("content-type", "application/json"),))


def _json(stats: list[Any]) -> bytes:
    # Not orjson: sums have no bound.
    return json.dumps({"model_stats": stats}, separators=(",", ":")).encode()
