"""The HTTP front: TensorFlow Serving's REST API in, the same out.

Only the request line and a few headers are read; bodies pass as they came, compressed ones too.
aiohttp's low-level server does HTTP/1.1; a caller who leaves cancels the handler, and with it the
call to the replica.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from functools import partial

from aiohttp import web
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDict

from gateway.codecs.tfs_routes import RestCall, RestKind, parse, predict_path
from gateway.codecs.tfs_status import status_json
from gateway.core.admission import check_size, timeout_from_header
from gateway.core.route import statuses
from gateway.dataplane.plane import Admitted, Dataplane
from gateway.dataplane.rescue import JSON, http_answer, rescued
from gateway.dataplane.seen import VERSION, Seen, server_timing
from gateway.domain.errors import DeadlineExceeded, GatewayError, InvalidRequest
from gateway.domain.names import Version
from gateway.ports import UpstreamAnswer, UpstreamRequest

METRICS_PATH = "/monitoring/prometheus/metrics"
"""TensorFlow Serving's default; scrapers that are set up for it find ours."""

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

_ORIGIN = re.compile(r"https?://", re.IGNORECASE)


class HttpFront:
    """Answers HTTP on one listening socket."""

    def __init__(self, plane: Dataplane, render_metrics: Callable[[], bytes]) -> None:
        self._plane = plane
        self._render_metrics = render_metrics
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Serve on `sock`, which is bound."""
        settings = self._plane.settings
        self._server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=settings.keepalive_s,
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
            lingering_time=5.0,
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._server, sock=sock, backlog=1024)

    async def stop(self) -> None:
        """Take no new connections; let requests under way finish within `drain_s`."""
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(self._plane.settings.drain_s)

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        seen = Seen(self._plane, "http", "499")
        try:
            response = await rescued(self._answer(request, seen), partial(_error, seen))
            seen.code = str(response.status)
            return response
        finally:
            seen.finish(request.path)

    async def _answer(self, request: BaseRequest, seen: Seen) -> web.Response:
        method, path = request.method, request.raw_path
        if method == "GET" and path.partition("?")[0] == METRICS_PATH:
            body = self._render_metrics()
            return web.Response(body=body, headers={"content-type": "text/plain; version=0.0.4"})
        if method == "OPTIONS" and path[:4].lower() == "/v1/":
            # The original answers preflights by their origin alone and sends no CORS headers unless
            # told to.
            is_origin = _ORIGIN.match(request.headers.get("origin", ""))
            return web.Response(status=200 if is_origin else 400)
        call = parse(method, path)
        seen.model = call.model
        if call.kind is RestKind.STATUS:
            # A label is ignored: the original looks at the version only.
            found = statuses(self._plane.table, call.model, call.version)
            return web.Response(body=status_json(found), headers={"content-type": JSON})
        return await self._forward(request, call, seen)

    async def _forward(self, request: BaseRequest, call: RestCall, seen: Seen) -> web.Response:
        plane = self._plane
        settings = plane.settings
        timeout_s = timeout_from_header(request.headers.get(TIMEOUT))
        check_size(request.content_length or 0, settings.max_body_bytes)
        with plane.admit(call.model, call.version, call.label, timeout_s, seen.started_at) as ask:
            seen.ask = ask
            body = b""
            if request.body_exists and call.kind is not RestKind.METADATA:
                until = min(ask.deadline_at, seen.started_at + settings.body_timeout_s)
                body = await _read(request, settings.max_body_bytes, until)
            method = "GET" if call.kind is RestKind.METADATA else "POST"
            headers = _forwarded(request)
            loop = asyncio.get_running_loop()

            def pin(version: Version) -> UpstreamRequest:
                left_ms = max(1, int((ask.deadline_at - loop.time()) * 1000))
                return UpstreamRequest(
                    f"{method} {predict_path(call, version)}",
                    body,
                    (*headers, (TIMEOUT, str(left_ms))),
                )

            answer = await plane.answer(plane.http, ask, pin)
            return _returned(answer, ask)


def _forwarded(request: BaseRequest) -> list[tuple[str, str]]:
    headers = request.headers
    named = headers.get("connection", "").lower()
    if named in ("", "keep-alive", "close"):
        dropped = _NOT_FORWARDED
    else:
        dropped = _NOT_FORWARDED | {token.strip() for token in named.split(",")}
    return [(n, value) for raw, value in headers.items() if (n := raw.lower()) not in dropped]


def _returned(answer: UpstreamAnswer, ask: Admitted) -> web.Response:
    headers: CIMultiDict[str] = CIMultiDict(
        [(name, value) for name, value in answer.headers if name not in _NOT_RETURNED]
    )
    headers[VERSION] = str(ask.answered_by)
    headers["server-timing"] = server_timing(ask)
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _error(seen: Seen, error: GatewayError) -> web.Response:
    seen.reason = error.reason
    answer = http_answer(error)
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


async def _read(request: BaseRequest, limit_bytes: int, until: float) -> bytes:
    """The whole body, never more than `limit_bytes` of it."""
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
