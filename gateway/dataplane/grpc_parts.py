"""What both gRPC services share: metadata that goes on, and an answer with its trailers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from gateway.codecs.tfs_errors import GRPC_CODE_NAMES
from gateway.dataplane.plane import Admitted
from gateway.dataplane.seen import SERVER_TIMING, VERSION, server_timing
from gateway.ports import UpstreamAnswer

CANCELLED = GRPC_CODE_NAMES[1]
"""What is counted when the caller leaves before the answer."""

_CODES = {int(code.value[0]): code for code in grpc.StatusCode}
_NOT_FORWARDED = frozenset(("user-agent", "te", "content-type", "host", "connection"))

Context = Any
"""grpc.aio.ServicerContext; its stubs know nothing of bytes in and bytes out."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, whatever it says."""

    code: int
    body: bytes = b""
    details: str = ""
    trailers: tuple[tuple[str, Any], ...] = ()

    @property
    def code_name(self) -> str:
        """`OK`, `NOT_FOUND`, …"""
        return GRPC_CODE_NAMES[self.code] if self.code < len(GRPC_CODE_NAMES) else "UNKNOWN"


def forwarded(context: Context) -> tuple[tuple[str, Any], ...]:
    """The caller's metadata for the replica: none that belongs to one connection only."""
    return tuple(
        (key, value)
        for key, value in context.invocation_metadata() or ()
        if key not in _NOT_FORWARDED and not key.startswith(("grpc-", ":"))
    )


def replied(answer: UpstreamAnswer, ask: Admitted) -> Reply:
    """The replica's answer for the caller, with the version that gave it and where time went."""
    trailers = (
        *((n, v) for n, v in answer.headers if n not in (VERSION, SERVER_TIMING)),
        (VERSION, str(ask.answered_by)),
        (SERVER_TIMING, server_timing(ask)),
    )
    return Reply(answer.status, answer.body, answer.message, trailers)


async def send(reply: Reply, context: Context) -> bytes:
    """End a unary call with `reply`; raises where that is an error, as grpc wants it."""
    if reply.code:
        await abort(reply, context)
    context.set_trailing_metadata(reply.trailers)
    return reply.body


async def abort(reply: Reply, context: Context) -> None:
    """End a call with an error; raises."""
    code = _CODES.get(reply.code, grpc.StatusCode.UNKNOWN)
    await context.abort(code, reply.details, reply.trailers)
