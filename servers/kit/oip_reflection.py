"""gRPC reflection: what grpcurl, Postman and the like ask to call a service without its protos."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from gateway.codecs.grpc_reflection import PATHS, Reflection
from gateway.codecs.tfs_errors import grpc_code
from gateway.domain.errors import InvalidRequest
from gateway.wire.grpc import GrpcCall, Stream


def handlers() -> Mapping[str, Stream]:
    """By full method path."""
    reflection = Reflection()

    async def answer(requests: AsyncIterator[bytes], call: GrpcCall) -> None:
        async for request in requests:
            try:
                said = reflection.answer(request)
            except InvalidRequest as error:
                await call.abort(grpc_code(error), error.message)
            await call.write(said)

    return dict.fromkeys(PATHS, Stream(answer))
