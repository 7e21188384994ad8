"""gRPC to replicas over our own HTTP/2: a few connections for each, bytes in and bytes out.

Nothing is retried here: who is asked again, and when, is decided in one place (core/retry.py). A
status that the replica gave is an answer; that the transport failed is an error, and the two are
never guessed from words. A connection that broke is made anew with the next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from gateway.domain.errors import DeadlineExceeded
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.upstream.settings import UpstreamSettings
from gateway.wire.exchange import AnswerSink, ClientExchange, Data, WireError
from gateway.wire.fields import Fields
from gateway.wire.grpc_client import REQUEST, is_dropped, timeout_fields, unary
from gateway.wire.h2_client import Http2Client
from gateway.wire.whole import upstream_failed


class GrpcUpstream:
    """ports.Upstream over our own HTTP/2. Made and used within one running loop."""

    def __init__(self, settings: UpstreamSettings | None = None) -> None:
        self._settings = settings or UpstreamSettings()
        self._client = Http2Client(self._settings.wire)

    def __repr__(self) -> str:
        return f"GrpcUpstream({self._client!r})"

    def begin(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        fields: Sequence[Fields],
        body: Data | None,
        timeout_s: float,
        sink: AnswerSink,
        *,
        length: int | None = None,
    ) -> ClientExchange:
        """See ports.Upstream. `body` is a message with its five bytes of prefix; `method` is POST,
        and `length` is not said, as HTTP/2 frames bodies by itself."""
        return self._client.request(
            endpoint.grpc,
            method,
            path,
            (REQUEST, timeout_fields(timeout_s), *fields),
            body,
            sink,
        )

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        """Make the unary call `request.target`. The replica sees what is left of the deadline.

        Raises:
            UpstreamFailed: `connect_refused` or `connect_timeout` (nothing was sent), `reset`, or
                `bad_answer` (no gRPC, or larger than we take).
            DeadlineExceeded: `call`; the call was cancelled, which tells the replica.
        """
        left_s = deadline_at - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise DeadlineExceeded("The deadline passed before a replica was asked", reason="call")
        try:
            answer = await unary(
                self._client,
                endpoint.grpc,
                request.target,
                request.body,
                metadata=request.headers,
                deadline_at=deadline_at,
                timeout_s=left_s,
                max_bytes=self._settings.max_answer_bytes,
            )
        except WireError as error:
            raise upstream_failed(error, endpoint.grpc) from error
        except TimeoutError as late:
            raise DeadlineExceeded(
                "The deadline passed while a replica was working on the request", reason="call"
            ) from late
        if is_dropped(answer.code, answer.details):
            stopped = WireError("reset", "the server is being stopped", sent=True)
            raise upstream_failed(stopped, endpoint.grpc)
        return UpstreamAnswer(answer.code, answer.message, answer.trailers, answer.details)

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Forget every other address; its connections close with the last call on them."""
        self._client.keep({e.grpc for e in endpoints})

    def drop(self, endpoint: Endpoint) -> None:
        """Close its connections now; calls under way there fail."""
        self._client.drop(endpoint.grpc)

    async def aclose(self) -> None:
        """Close every connection; calls under way fail."""
        await self._client.aclose()
