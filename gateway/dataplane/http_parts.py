"""What both protocols over HTTP share: headers that go on and come back, bodies within bounds."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDict

from gateway.core.admission import check_size
from gateway.dataplane.plane import Admitted
from gateway.dataplane.seen import VERSION, server_timing
from gateway.domain.errors import DeadlineExceeded, InvalidRequest
from gateway.ports import UpstreamAnswer

TIMEOUT = "x-request-timeout-ms"

_NOT_FORWARDED = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade", "content-length", "host",
        "expect", TIMEOUT,
    )
)  # fmt: skip
"""Hop-by-hop headers (RFC 9110 section 7.6.1) and those that we answer or write anew ourselves."""

_NOT_RETURNED = frozenset(("date", "server", "server-timing", VERSION))
"""Said by whoever answers the caller, which is us."""


def forwarded(request: BaseRequest) -> list[tuple[str, str]]:
    """The caller's headers for the replica: none that belong to one connection only."""
    headers = request.headers
    named = headers.get("connection", "").lower()
    if named in ("", "keep-alive", "close"):
        dropped = _NOT_FORWARDED
    else:
        dropped = _NOT_FORWARDED | {token.strip() for token in named.split(",")}
    return [(n, value) for raw, value in headers.items() if (n := raw.lower()) not in dropped]


def returned(answer: UpstreamAnswer, ask: Admitted) -> web.Response:
    """The replica's answer for the caller, with the version that gave it and where time went."""
    headers: CIMultiDict[str] = CIMultiDict(
        [(name, value) for name, value in answer.headers if name not in _NOT_RETURNED]
    )
    headers[VERSION] = str(ask.answered_by)
    headers["server-timing"] = server_timing(ask)
    return web.Response(status=answer.status, body=answer.body, headers=headers)


async def read_body(request: BaseRequest, limit_bytes: int, until: float) -> bytes:
    """The whole body, never more than `limit_bytes` of it.

    Raises:
        TooLarge, DeadlineExceeded (`receive`), InvalidRequest (`bad_body`).
    """
    if request.headers.get("expect", "").lower() == "100-continue":
        # Sent only now: whoever is refused before has not uploaded anything.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    content = request.content
    if content.is_eof() and request.content_length is not None:
        return content.read_nowait()
    chunks = []
    size = 0
    try:
        async with asyncio.timeout_at(until):
            async for chunk in content.iter_any():
                size += len(chunk)
                check_size(size, limit_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise DeadlineExceeded(
            "The request's body had not come in completely by its deadline", reason="receive"
        ) from None
    except web.RequestPayloadError as error:
        raise InvalidRequest(f"The request's body is broken: {error}", reason="bad_body") from error
    return b"".join(chunks) if len(chunks) != 1 else chunks[0]
