"""The Open Inference Protocol V2 on the HTTP front: `/v2…` in, the same out.

What asks a model passes through with its version pinned in the path, body and headers as they came
(the binary extension's lengths and compression are between caller and replica). What asks a server
is answered from the routing table.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.parse import quote

from aiohttp import web
from aiohttp.web_request import BaseRequest

from gateway import __version__
from gateway.codecs import oip_admin
from gateway.codecs.oip_errors import Flavour, reworded
from gateway.codecs.oip_routes import OipCall, OipKind, infer_path, parse
from gateway.core.admission import check_size, timeout_from_header
from gateway.dataplane import v2_own
from gateway.dataplane.http_parts import TIMEOUT, forwarded, read_body, returned
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.rescue import JSON, v2_http_answer
from gateway.dataplane.seen import Seen
from gateway.dataplane.v2_loads import Loads
from gateway.dataplane.v2_stats import all_statistics
from gateway.domain.errors import GatewayError, NotFound, Unimplemented
from gateway.domain.names import Version
from gateway.ports import Reloader, UpstreamRequest

_OWN_BODY_BYTES = 1024 * 1024
"""Bodies that the gateway itself reads: filters, and parameters that it refuses anyway."""

_POSTED = (OipKind.INFER, OipKind.GENERATE)
_FORWARDED = (*_POSTED, OipKind.MODEL_METADATA, OipKind.CONFIG)


class V2Http:
    """Answers requests whose path begins with `/v2`."""

    def __init__(
        self, plane: Dataplane, reloader: Reloader | None, is_draining: Callable[[], bool]
    ) -> None:
        self._plane = plane
        self._is_draining = is_draining
        self._loads = Loads(plane, reloader)
        self._flavour = Flavour(plane.settings.v2_flavour)

    async def answer(self, request: BaseRequest, seen: Seen) -> web.Response:
        """Raises GatewayError in the words of the flavour; `error` turns it into an answer."""
        call = parse(request.method, request.raw_path)
        seen.model = call.model
        try:
            if call.kind in _FORWARDED or (call.kind is OipKind.STATS and call.model):
                return await self._forward(request, call, seen)
            return await self._own(request, call, seen)
        except GatewayError as error:
            new = reworded(self._flavour, error, call.model, call.version)
            if new is error:
                raise
            raise new from error

    def error(self, seen: Seen, error: GatewayError) -> web.Response:
        """An error as the answer of this protocol."""
        seen.reason = error.reason
        answer = v2_http_answer(error)
        status = 400 if isinstance(error, v2_own.ControlRefused) else answer.status
        return web.Response(status=status, body=answer.body, headers=answer.headers)

    # ---- of a model --------------------

    async def _forward(self, request: BaseRequest, call: OipCall, seen: Seen) -> web.Response:
        plane = self._plane
        settings = plane.settings
        timeout_s = timeout_from_header(request.headers.get(TIMEOUT))
        check_size(request.content_length or 0, settings.max_body_bytes)
        with plane.admit(call.model, call.version, None, timeout_s, seen.started_at) as ask:
            seen.ask = ask
            body = b""
            if request.body_exists and call.kind in _POSTED:
                until = min(ask.deadline_at, seen.started_at + settings.body_timeout_s)
                body = await read_body(request, settings.max_body_bytes, until)
            headers = forwarded(request)
            loop = asyncio.get_running_loop()

            def pin(version: Version) -> UpstreamRequest:
                left_ms = max(1, int((ask.deadline_at - loop.time()) * 1000))
                return UpstreamRequest(
                    f"{call.method} {_path(call, version)}",
                    body,
                    (*headers, (TIMEOUT, str(left_ms))),
                )

            return returned(await plane.answer(plane.v2_http, ask, pin), ask)

    # ---- of the gateway --------------------

    async def _own(self, request: BaseRequest, call: OipCall, seen: Seen) -> web.Response:
        table, flavour = self._plane.table, self._flavour
        body = await self._read_own(request, seen)
        match call.kind:
            case OipKind.LIVE:
                return _said(*oip_admin.live_answer(flavour, live=True))
            case OipKind.READY:
                ready = v2_own.is_ready(table) and not self._is_draining()
                return _said(*oip_admin.ready_answer(flavour, ready))
            case OipKind.SERVER_METADATA:
                return _said(200, oip_admin.server_metadata_json(v2_own.SERVER_NAME, __version__))
            case OipKind.MODELS if flavour is Flavour.KSERVE:
                return _said(200, oip_admin.models_json(sorted(table.models)))
            case OipKind.MODEL_READY:
                return self._model_ready(call)
            case OipKind.REPOSITORY_INDEX:
                only_ready = oip_admin.index_only_ready(body)
                entries = v2_own.index(table, only_ready=only_ready)
                return _said(200, oip_admin.repository_index_json(entries))
            case OipKind.REPOSITORY_LOAD:
                await self._loads.load(call.model, oip_admin.control_parameters(body))
                return _said(200, oip_admin.control_answer(flavour, call.model, "load"))
            case OipKind.REPOSITORY_UNLOAD:
                raise v2_own.refuse_unload()
            case OipKind.STATS:
                return _said(200, await all_statistics(self._plane, self._plane.v2_http))
            case OipKind.TRACE_SETTING | OipKind.LOGGING:
                return self._settings(call)
            case OipKind.SYSTEM_SHARED_MEMORY | OipKind.CUDA_SHARED_MEMORY:
                return _shared_memory(call)
            case OipKind.GENERATE_STREAM:
                raise Unimplemented(
                    "generate_stream is not offered; use generate, or ModelStreamInfer over gRPC",
                    reason="generate_stream",
                )
            case _:
                raise NotFound("Not Found", reason="path_unknown")

    async def _read_own(self, request: BaseRequest, seen: Seen) -> bytes:
        if not request.body_exists:
            return b""
        until = seen.started_at + self._plane.settings.body_timeout_s
        check_size(request.content_length or 0, _OWN_BODY_BYTES)
        return await read_body(request, _OWN_BODY_BYTES, until)

    def _model_ready(self, call: OipCall) -> web.Response:
        error = v2_own.model_ready(self._plane.table, call.model, call.version, self._flavour)
        if isinstance(error, NotFound) and self._flavour is Flavour.KSERVE:
            raise error
        return _said(*oip_admin.model_ready_answer(self._flavour, call.model, error is None))

    def _settings(self, call: OipCall) -> web.Response:
        is_trace = call.kind is OipKind.TRACE_SETTING
        if is_trace and call.model:
            v2_own.check_known(self._plane.table, call.model, self._flavour)
        if call.method == "POST":
            raise v2_own.refuse_settings("trace" if is_trace else "log")
        settings = v2_own.TRACE_SETTINGS if is_trace else v2_own.LOG_SETTINGS
        return _said(200, json.dumps(dict(settings)).encode())


def _path(call: OipCall, version: Version) -> str:
    if call.kind is OipKind.STATS and call.version is None:
        # Of all versions, as Triton has it.
        return f"/v2/models/{quote(call.model, safe='')}/stats"
    return infer_path(call, version)


def _shared_memory(call: OipCall) -> web.Response:
    kind = "system" if call.kind is OipKind.SYSTEM_SHARED_MEMORY else "cuda"
    if call.action == "register":
        raise v2_own.refuse_shared_memory(kind)
    if call.action == "status":
        if call.region:
            raise v2_own.refuse_region(kind, call.region)
        return _said(200, b"[]")
    # Nothing is registered, so that it is unregistered is true; callers clean up before they begin.
    return _said(200, b"")


def _said(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, headers={"content-type": JSON})
