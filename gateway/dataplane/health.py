"""grpc.health.v1 for the gateway itself.

SERVING means that the fronts take requests; whether a model can answer is said by GetModelStatus.
Service names are TensorFlow Serving's (`--enable_grpc_healthcheck_service`) beside the full ones,
V2's among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

_SERVICES = frozenset(
    (
        "",
        "PredictionService",
        "ModelService",
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
        "inference.GRPCInferenceService",
    )
)
_STATUS = health_pb2.HealthCheckResponse.ServingStatus


class HealthService:
    """Check and Watch."""

    def __init__(self) -> None:
        self._draining = asyncio.Event()
        self.handlers: Mapping[str, Any] = {
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(self._check),
            "/grpc.health.v1.Health/Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was called."""
        return self._draining.is_set()

    def drain(self) -> None:
        """From now on NOT_SERVING, and watchers are told."""
        self._draining.set()

    async def _check(self, body: bytes, context: Any) -> bytes:
        service = await _service(body, context)
        if service not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {service[:200]}")
        return self._status()

    async def _watch(self, body: bytes, context: Any) -> AsyncIterator[bytes]:
        service = await _service(body, context)
        if service not in _SERVICES:
            # The protocol keeps this stream open, as the service might be added later; ours never
            # are.
            yield _message(_STATUS.SERVICE_UNKNOWN)
            await self._draining.wait()
            return
        yield self._status()
        if not self._draining.is_set():
            await self._draining.wait()
            yield self._status()

    def _status(self) -> bytes:
        return _message(_STATUS.NOT_SERVING if self.is_draining else _STATUS.SERVING)


async def _service(body: bytes, context: Any) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(body).service)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no HealthCheckRequest")
        raise


def _message(status: Any) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
