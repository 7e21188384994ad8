"""ModelStreamInfer: a sequence of independent requests.

Up to `STREAM_WINDOW` of them are on their way at once, and answered in their own order, as Triton
does for models that answer each request once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from gateway.codecs.proto_walk import varint
from gateway.codecs.tfs_errors import truncate_message
from gateway.wire.grpc import GrpcCall
from servers.kit.rpc_failed import Failed
from servers.kit.service import Service
from servers.kit.timing import Spent

STREAM_WINDOW = 16
"""Requests of one stream on their way at once. Enough to fill a batch; each holds its tensors."""
STRICT_ERRORS = "triton_grpc_error"
"""Request metadata: an error ends the stream with its status instead of going in band."""
_INFER_RESPONSE = b"\x12"
"""The tag of ModelStreamInferResponse.infer_response, which a ready-made answer follows."""


class Call:
    """One request on its way."""

    __slots__ = ("body", "deadline_at", "id", "model", "spent")

    def __init__(self, body: bytes, deadline_at: float) -> None:
        self.body = body
        self.deadline_at = deadline_at
        self.id = ""
        self.model = ""
        """Its model once that is known to be one of ours: the label of its metrics."""
        self.spent: Spent | None = None
        """Where its time went, once it has been answered."""


Answered = Callable[[OipMethod, Call], Awaitable[bytes]]
"""Serves one request, counted and measured; raises Failed."""


class InferStreams:
    """Serves streams."""

    def __init__(self, answered: Answered, service: Service) -> None:
        self._answered = answered
        self._service = service

    async def serve(self, requests: AsyncIterator[bytes], caller: GrpcCall) -> None:
        remaining = caller.time_remaining()
        until = None if remaining is None else asyncio.get_running_loop().time() + remaining
        stream = _Stream(until, _is_strict(caller))
        ended: Failed | None = None
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(stream, requests, tasks))
            guard = tasks.create_task(self._end_when_draining(stream, reading))
            try:
                while (one := await stream.window.get()) is not None:
                    answer = await one
                    if isinstance(answer, Failed):
                        ended = answer
                        break
                    await caller.write(answer)
                    stream.slots.release()
            finally:
                for task in (reading, guard, *stream.left()):
                    task.cancel()
        ended = ended or stream.ended
        if ended is not None:
            await caller.abort(ended.code, truncate_message(ended.message), ended.trailers)

    async def _read(
        self, stream: _Stream, requests: AsyncIterator[bytes], tasks: asyncio.TaskGroup
    ) -> None:
        try:
            async for body in requests:
                await stream.slots.acquire()
                stream.window.put_nowait(tasks.create_task(self._one(stream, body)))
        finally:
            stream.window.put_nowait(None)

    async def _end_when_draining(self, stream: _Stream, reading: asyncio.Task[None]) -> None:
        """Answer what has come and take no more: an idle stream must not hold up the end."""
        await self._service.draining.wait()
        stream.ended = Failed(14, "this server is shutting down", "draining")
        reading.cancel()

    async def _one(self, stream: _Stream, body: bytes) -> bytes | Failed:
        """One request's answer as the stream carries it; `Failed` ends the stream."""
        loop = asyncio.get_running_loop()
        until = stream.until if stream.until is not None else loop.time() + self._service.timeout_s
        call = Call(body, until)
        try:
            answer = await self._answered(OipMethod.MODEL_STREAM_INFER, call)
        except Failed as failed:
            if stream.is_strict:
                return failed
            # The id tells the caller which of its requests this is.
            told = oip_pb2.ModelStreamInferResponse(error_message=truncate_message(failed.message))
            told.infer_response.id = call.id
            return told.SerializeToString()
        return _INFER_RESPONSE + varint(len(answer)) + answer


class _Stream:
    """One ModelStreamInfer on its way."""

    def __init__(self, until: float | None, is_strict: bool) -> None:
        self.until = until
        self.is_strict = is_strict
        self.slots = asyncio.Semaphore(STREAM_WINDOW)
        self.window: asyncio.Queue[asyncio.Task[bytes | Failed] | None] = asyncio.Queue()
        """Bounded by `slots`."""
        self.ended: Failed | None = None

    def left(self) -> list[asyncio.Task[bytes | Failed]]:
        """Requests that nobody will wait for."""
        found = [self.window.get_nowait() for _ in range(self.window.qsize())]
        return [one for one in found if one is not None]


def _is_strict(call: GrpcCall) -> bool:
    return dict(call.metadata).get(STRICT_ERRORS, "").lower() == "true"
