"""Statistics of all models at once: one replica of each model is asked, the answers are joined.

They are counts of the replica that was asked, as for one model; what the gateway itself counts is
on its metrics page. A model that cannot answer now is left out, as Triton leaves out what is not
loaded.
"""

from __future__ import annotations

import asyncio
import json
from logging import DEBUG

import orjson
from google.protobuf.message import DecodeError

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from gateway.core.dialect import Dialect
from gateway.dataplane.callers import Transport
from gateway.dataplane.plane import Dataplane
from gateway.domain.errors import GatewayError
from gateway.domain.names import Version
from gateway.ports import UpstreamRequest
from gateway.telemetry import log

_AT_ONCE = 8
"""Models asked at the same time; a page of statistics must not become a burst of its own."""

_TIMEOUT_S = 5.0


async def all_statistics(plane: Dataplane, transport: Transport) -> bytes:
    """The answer in the transport's own form: JSON, or a serialized ModelStatisticsResponse."""
    names = sorted(name for name, model in plane.table.models.items() if model.targets)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> bytes:
        async with turns:
            return await _ask(plane, transport, name)

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one(name)) for name in names]
    bodies = [body for task in asked if (body := task.result())]
    if transport.dialect is Dialect.V2_GRPC:
        # Joined messages are one message whose repeated field has the elements of all.
        return b"".join(bodies)
    stats = [entry for body in bodies for entry in orjson.loads(body)["model_stats"]]
    return json.dumps({"model_stats": stats}, separators=(",", ":")).encode()


async def _ask(plane: Dataplane, transport: Transport, name: str) -> bytes:
    def pin(version: Version) -> UpstreamRequest:
        del version  # Triton's own answer is for all versions of a model.
        if transport.dialect is Dialect.V2_GRPC:
            body = oip_pb2.ModelStatisticsRequest(name=name).SerializeToString()
            return UpstreamRequest(OipMethod.MODEL_STATISTICS.path, body)
        return UpstreamRequest(f"GET /v2/models/{name}/stats", b"")

    try:
        answer = await plane.ask(transport, name, None, None, _TIMEOUT_S, pin)
        ok = 0 if transport.dialect is Dialect.V2_GRPC else 200
        if answer.status == ok and _is_statistics(transport, answer.body):
            return answer.body
        cause = answer.message or str(answer.status)
    except GatewayError as error:
        cause = error.reason
    log.event("statistics.missing", level=DEBUG, model=name, cause=cause)
    return b""


def _is_statistics(transport: Transport, body: bytes) -> bool:
    """Whether it can be joined with others; one odd server must not spoil the page."""
    try:
        if transport.dialect is Dialect.V2_GRPC:
            oip_pb2.ModelStatisticsResponse.FromString(body)
            return True
        return isinstance(orjson.loads(body)["model_stats"], list)
    except (DecodeError, ValueError, KeyError, TypeError):
        return False
