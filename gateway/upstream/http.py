"""HTTP/1.1 to replicas: one pool of kept connections for each, bodies as they are.

A pool belongs to one address and is closed when that replica leaves the table, so that no
connection outlives it and is taken for a newcomer on the same port.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import ceil

from gateway.domain.errors import DeadlineExceeded
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.upstream.settings import UpstreamSettings
from gateway.wire.exchange import AnswerSink, ClientExchange, Data, WireError
from gateway.wire.fields import Fields
from gateway.wire.h1_client import Http1Client
from gateway.wire.whole import upstream_failed, whole

TIMEOUT = "x-request-timeout-ms"

_HOP_BY_HOP = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade", "content-length",
    )
)  # fmt: skip
"""RFC 9110 section 7.6.1: meant for one connection. The length is written anew by each side."""

_TIMEOUTS: dict[int, Fields] = {}
"""By milliseconds, of which three digits are set: at most some thousands of a few hundred bytes."""


class HttpUpstream:
    """ports.Upstream over our own HTTP/1.1. Made and used within one running loop."""

    def __init__(self, settings: UpstreamSettings | None = None) -> None:
        self._settings = settings or UpstreamSettings()
        self._client = Http1Client(self._settings.wire)

    def __repr__(self) -> str:
        return f"HttpUpstream({self._client!r})"

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
        """See ports.Upstream. The replica is told `timeout_s` in `x-request-timeout-ms`."""
        return self._client.request(
            endpoint.http,
            method,
            path,
            (*fields, timeout_fields(timeout_s)),
            body,
            sink,
            length=length,
        )

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        """Send `request` (target `POST /v1/…`) and read the whole answer.

        Raises:
            UpstreamFailed: `connect_refused`, `connect_timeout` (nothing was sent), `reset` (it
                broke before the whole answer was there) or `bad_answer` (that was no HTTP).
            DeadlineExceeded: `call`; the connection was closed, which tells the replica.
        """
        method, _, path = request.target.partition(" ")
        try:
            answer = await whole(
                self._client,
                endpoint.http,
                method,
                path,
                (Fields(request.headers),),
                request.body,
                max_bytes=self._settings.max_answer_bytes,
                deadline_at=deadline_at,
            )
        except WireError as error:
            raise upstream_failed(error, endpoint.http) from error
        except TimeoutError as late:
            raise DeadlineExceeded(
                "The deadline passed while a replica was working on the request", reason="call"
            ) from late
        head = answer.head
        headers = tuple([pair for pair in head.fields if pair[0] not in _HOP_BY_HOP])
        return UpstreamAnswer(head.status, answer.body, headers)

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Forget every other address. Requests under way finish; then their connections close."""
        self._client.keep({e.http for e in endpoints})

    def drop(self, endpoint: Endpoint) -> None:
        """Close its connections now; requests under way there fail."""
        self._client.drop(endpoint.http)

    async def aclose(self) -> None:
        """Close every connection, in use or not."""
        await self._client.aclose()


def timeout_fields(seconds: float) -> Fields:
    """`x-request-timeout-ms`, rounded up to three digits so that heads repeat from call to call:
    whoever sends it ends the call at the exact time itself."""
    count = max(1, ceil(seconds * 1000.0 - 1e-6))
    step = 1
    while count > 999 * step:
        step *= 10
    count = -(-count // step) * step
    fields = _TIMEOUTS.get(count)
    if fields is None:
        fields = _TIMEOUTS[count] = Fields(((TIMEOUT, str(count)),))
    return fields
