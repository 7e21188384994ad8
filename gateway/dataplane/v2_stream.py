"""ModelStreamInfer: a stream of requests that have nothing to do with each other.

Each message is balanced on its own, so that one stream of a caller uses all replicas. Answers leave
in the order of the requests, as Triton's do for models with one answer per request: callers that
set no ids rely on it. At most `window` messages are worked on at once; a slow one therefore holds
back the answers after it, but never more than that many, and the caller's next message is not read
before there is room.

Errors go in band and the stream goes on; with the metadata `triton_grpc_error: true` the first one
ends it with a real status. A caller who leaves cancels every call under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_scan import scan
from gateway.codecs.pb import oip_pb2
from gateway.codecs.proto_walk import varint
from gateway.dataplane.grpc_parts import Reply, forwarded
from gateway.domain.errors import InvalidRequest
from gateway.wire.fields import Pairs
from gateway.wire.grpc import GrpcCall

Answer = Callable[[bytes, GrpcCall, Pairs], Awaitable[Reply]]
"""Answers one message; raises nothing but cancellation."""

_STRICT = "triton_grpc_error"

_FINAL_MESSAGE = oip_pb2.ModelInferResponse()
_FINAL_MESSAGE.parameters["triton_final_response"].bool_param = True
_FINAL = _FINAL_MESSAGE.SerializeToString()
"""Appended to an answer: what callers of decoupled models look for. Here every answer is final."""


class Stream:
    """One stream."""

    def __init__(self, answer: Answer, window: int) -> None:
        self._answer = answer
        self._slots = asyncio.Semaphore(window)
        self._answering: asyncio.Queue[asyncio.Task[tuple[Reply, bytes]] | None] = asyncio.Queue()

    async def serve(self, requests: AsyncIterator[bytes], call: GrpcCall) -> None:
        """Answer until the caller has no more requests and has all answers."""
        metadata = forwarded(call.head).pairs
        is_strict = any(k == _STRICT and v == "true" for k, v in metadata)
        metadata = tuple((k, v) for k, v in metadata if k != _STRICT)
        failed: Reply | None = None
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(requests, call, metadata, tasks))
            while (answering := await self._answering.get()) is not None:
                reply, message = await answering
                if reply.code and is_strict:
                    failed = reply
                    break
                await call.write(message)
                self._slots.release()
            reading.cancel()
            while not self._answering.empty():
                if (left := self._answering.get_nowait()) is not None:
                    left.cancel()
        if failed is not None:
            failed.send(call)

    async def _read(
        self,
        requests: AsyncIterator[bytes],
        call: GrpcCall,
        metadata: Pairs,
        tasks: asyncio.TaskGroup,
    ) -> None:
        await self._slots.acquire()
        async for body in requests:
            self._answering.put_nowait(tasks.create_task(self._one(body, call, metadata)))
            await self._slots.acquire()
        self._answering.put_nowait(None)

    async def _one(self, body: bytes, call: GrpcCall, metadata: Pairs) -> tuple[Reply, bytes]:
        reply = await self._answer(body, call, metadata)
        if not reply.code:
            return reply, _wrapped(reply.body)
        message = oip_pb2.ModelStreamInferResponse(error_message=reply.details)
        message.infer_response.id = _id(body)
        return reply, message.SerializeToString()


def _wrapped(body: bytes) -> bytes:
    """ModelStreamInferResponse{infer_response} around a serialized answer, copied once."""
    return b"".join((b"\x12", varint(len(body) + len(_FINAL)), body, _FINAL))


def _id(body: bytes) -> str:
    """The id of a request that failed, so that its caller can tell which; "" when it has none."""
    try:
        return scan(OipMethod.MODEL_INFER, body).id
    except InvalidRequest:
        return ""
