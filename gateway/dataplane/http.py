"""The HTTP front: TensorFlow Serving's REST API in, the same out; `/v2…` is v2_http's.

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

from gateway.codecs.oip_routes import is_v2
from gateway.codecs.tfs_routes import RestCall, RestKind, parse, predict_path
from gateway.codecs.tfs_status import status_json
from gateway.core.admission import check_size, timeout_from_header
from gateway.core.route import statuses
from gateway.dataplane.http_parts import TIMEOUT, forwarded, read_body, returned
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.rescue import JSON, http_answer, rescued
from gateway.dataplane.seen import Seen
from gateway.dataplane.v2_http import V2Http
from gateway.domain.errors import GatewayError
from gateway.domain.names import Version
from gateway.ports import Reloader, UpstreamRequest

METRICS_PATH = "/monitoring/prometheus/metrics"
"""TensorFlow Serving's default; scrapers that are set up for it find ours."""

_ORIGIN = re.compile(r"https?://", re.IGNORECASE)


class HttpFront:
    """Answers HTTP on one listening socket."""

    def __init__(
        self,
        plane: Dataplane,
        render_metrics: Callable[[], bytes],
        reloader: Reloader | None = None,
    ) -> None:
        self._plane = plane
        self._render_metrics = render_metrics
        self._is_draining = False
        self._v2 = V2Http(plane, reloader, lambda: self._is_draining)
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
        self._is_draining = True
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(self._plane.settings.drain_s)

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        if is_v2(request.raw_path):
            seen = Seen(self._plane, "v2-http", "499")
            answering, on_error = self._v2.answer(request, seen), self._v2.error
        else:
            seen = Seen(self._plane, "http", "499")
            answering, on_error = self._answer(request, seen), _error
        try:
            response = await rescued(answering, partial(on_error, seen))
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
                body = await read_body(request, settings.max_body_bytes, until)
            method = "GET" if call.kind is RestKind.METADATA else "POST"
            headers = forwarded(request)
            loop = asyncio.get_running_loop()

            def pin(version: Version) -> UpstreamRequest:
                left_ms = max(1, int((ask.deadline_at - loop.time()) * 1000))
                return UpstreamRequest(
                    f"{method} {predict_path(call, version)}",
                    body,
                    (*headers, (TIMEOUT, str(left_ms))),
                )

            answer = await plane.answer(plane.http, ask, pin)
            return returned(answer, ask)


def _error(seen: Seen, error: GatewayError) -> web.Response:
    seen.reason = error.reason
    answer = http_answer(error)
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
