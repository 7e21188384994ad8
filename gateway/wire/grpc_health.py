"""The health service, grpc.health.v1: Check, and Watch for who wants to be told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from gateway.wire.grpc import GrpcCall, Stream, Unary

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"

_INVALID_ARGUMENT = 3
_NOT_FOUND = 5
_UNAVAILABLE = 14
_KINDS = health_pb2.HealthCheckResponse


class Health:
    """One state for every name: a server answers for all of its services or for none."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._is_serving = False
        self._changed = asyncio.Event()
        self._is_ending = False

    def __repr__(self) -> str:
        return f"Health(is_serving={self._is_serving})"

    def handlers(self) -> Mapping[str, Unary | Stream]:
        """By full method path."""
        return {CHECK: Unary(self.check), WATCH: Stream(self.watch)}

    def say(self, is_serving: bool) -> None:
        """Set every name."""
        self._is_serving = is_serving
        self._tell()

    def end(self) -> None:
        """End every watch, after the last word: an idle stream must not hold up the end."""
        self._is_ending = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status(self, name: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if name not in self._names:
            return _KINDS.SERVICE_UNKNOWN
        return _KINDS.SERVING if self._is_serving else _KINDS.NOT_SERVING

    async def check(self, message: bytes, call: GrpcCall) -> bytes:
        """Check."""
        name = await _name(message, call)
        if name not in self._names:
            await call.abort(_NOT_FOUND, "")
        return bytes(_KINDS(status=self._status(name)).SerializeToString())

    async def watch(self, requests: AsyncIterator[bytes], call: GrpcCall) -> None:
        """Watch: the state now, and each that it changes to."""
        async for message in requests:
            name = await _name(message, call)
            await self._watch(name, call)
        await call.abort(_INVALID_ARGUMENT, "Watch needs a request")

    async def _watch(self, name: str, call: GrpcCall) -> None:
        told: int | None = None
        while True:
            changed = self._changed
            status = self._status(name)
            if status != told:
                told = status
                await call.write(_KINDS(status=status).SerializeToString())
            if self._is_ending:
                await call.abort(_UNAVAILABLE, "this server is shutting down")
            await changed.wait()


async def _name(message: bytes, call: GrpcCall) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(message).service)
    except DecodeError as error:
        await call.abort(_INVALID_ARGUMENT, f"The request is no HealthCheckRequest: {error}")
