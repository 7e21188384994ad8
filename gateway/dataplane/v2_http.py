"""The Open Inference Protocol V2 over HTTP: `/v2…` in, the same out.

What asks a model passes through with its version pinned in the path, body and headers as they came
(the binary extension's lengths and compression are between caller and replica). What asks a server
is answered from the routing table.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gateway import __version__
from gateway.codecs import oip_admin
from gateway.codecs.oip_errors import Flavour, reworded
from gateway.codecs.oip_routes import OipCall, OipKind, infer_path, parse
from gateway.core.admission import timeout_from_header
from gateway.dataplane import v2_own
from gateway.dataplane.http_parts import TIMEOUT, Returned, Route
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.rescue import JSON, REASON, HttpError, rescued, v2_http_answer
from gateway.dataplane.seen import Seen, Timing
from gateway.dataplane.v2_loads import Loads
from gateway.dataplane.v2_stats import all_statistics, model_statistics
from gateway.domain.errors import GatewayError, NotFound, Unimplemented
from gateway.domain.names import Version
from gateway.ports import Reloader
from gateway.wire.exchange import Data, RequestHead, ServerExchange
from gateway.wire.fields import Fields
from gateway.wire.tasks import Awaited

_OWN_BODY_BYTES = 1024 * 1024
"""Bodies that the gateway itself reads: filters, and parameters that it refuses anyway."""

_POSTED = (OipKind.INFER, OipKind.GENERATE)
_FORWARDED = (*_POSTED, OipKind.MODEL_METADATA, OipKind.CONFIG)

Said = tuple[int, Fields, bytes]
_JSON = Fields((("content-type", JSON),))


class V2Rest:
    """http_parts.Rest, and the answers that need no replica."""

    protocol = "v2-http"

    def __init__(
        self, plane: Dataplane, reloader: Reloader | None, is_draining: Callable[[], bool]
    ) -> None:
        self.transport = plane.v2_http
        self._plane = plane
        self._is_draining = is_draining
        self._loads = Loads(plane, reloader)
        self._flavour = Flavour(plane.settings.v2_flavour)

    @staticmethod
    def route(head: RequestHead) -> Route:
        """What the head asks for."""
        route = Route(head, is_v2=True)
        try:
            call = route.call = parse(head.method, head.path)
            route.model, route.version = call.model, call.version
            if call.kind in _FORWARDED:
                route.forward(head, takes_body=call.kind in _POSTED)
        except GatewayError as error:
            route.error = error
        return route

    def path(self, route: Route, version: Version) -> str:
        """See Rest."""
        call = route.call
        assert isinstance(call, OipCall)  # of a route that is forwarded
        return infer_path(call, version)

    def error(self, route: Route, error: GatewayError) -> HttpError:
        """See Rest. In the words of the flavour."""
        if route.call is not None:
            error = reworded(self._flavour, error, route.model, route.version)
        answer = v2_http_answer(error)
        if isinstance(error, v2_own.ControlRefused):
            return replace(answer, status=400)
        return answer

    def answer(self, exchange: ServerExchange, route: Route, body: Data | None) -> None:
        """Answer what is not passed on."""
        self._plane.tasks.run(exchange, body, partial(self._respond, route))

    async def _respond(self, route: Route, request: Awaited) -> None:
        seen = Seen(self._plane, self.protocol, request.head.path)
        seen.model = route.model
        code, reason = "499", ""

        def refusal(error: GatewayError) -> Said:
            nonlocal reason
            reason = error.reason
            answer = self.error(route, error)
            return answer.status, Fields(answer.headers.items()), answer.body

        try:
            if route.error is not None:
                status, fields, body = refusal(route.error)
            else:
                status, fields, body = await rescued(self._own(request, route, seen), refusal)
            code = str(status)
            timing = Timing(seen.asked, seen.begun)
        finally:
            seen.finish(code, reason)
        request.respond(status, (fields, timing), body)

    async def _own(self, request: Awaited, route: Route, seen: Seen) -> Said:
        call = route.call
        assert isinstance(call, OipCall)  # of a route without an error
        table, flavour = self._plane.table, self._flavour
        until = self._plane.loop.time() + self._plane.settings.body_timeout_s
        body = await request.body(_OWN_BODY_BYTES, until)
        match call.kind:
            case OipKind.LIVE:
                return _said(*oip_admin.live_answer(flavour, live=True))
            case OipKind.READY:
                draining = self._is_draining()
                ready = v2_own.is_ready(table) and not draining
                why = "" if ready else "draining" if draining else "starting"
                return _said(*oip_admin.ready_answer(flavour, ready), why)
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
            case OipKind.STATS if call.model:
                return await self._statistics(request.head, call, seen)
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

    async def _statistics(self, head: RequestHead, call: OipCall, seen: Seen) -> Said:
        timeout_s = timeout_from_header(head.get(TIMEOUT))
        told = await model_statistics(
            self._plane, self.transport, call.model, call.version, timeout_s, seen=seen
        )
        return told.status, Returned(told.status, told.headers), told.body

    def _model_ready(self, call: OipCall) -> Said:
        error = v2_own.model_ready(self._plane.table, call.model, call.version, self._flavour)
        if isinstance(error, NotFound) and self._flavour is Flavour.KSERVE:
            raise error
        answer = oip_admin.model_ready_answer(self._flavour, call.model, error is None)
        return _said(*answer, "" if error is None else error.reason)

    def _settings(self, call: OipCall) -> Said:
        is_trace = call.kind is OipKind.TRACE_SETTING
        if is_trace and call.model:
            v2_own.check_known(self._plane.table, call.model, self._flavour)
        if call.method == "POST":
            raise v2_own.refuse_settings("trace" if is_trace else "log")
        settings = v2_own.TRACE_SETTINGS if is_trace else v2_own.LOG_SETTINGS
        return _said(200, json.dumps(dict(settings)).encode())


def _shared_memory(call: OipCall) -> Said:
    kind = "system" if call.kind is OipKind.SYSTEM_SHARED_MEMORY else "cuda"
    if call.action == "register":
        raise v2_own.refuse_shared_memory(kind)
    if call.action == "status":
        if call.region:
            raise v2_own.refuse_region(kind, call.region)
        return _said(200, b"[]")
    # Nothing is registered, so that it is unregistered is true; callers clean up before they begin.
    return _said(200, b"")


def _said(status: int, body: bytes, reason: str = "") -> Said:
    """`reason`: why it is a no, where its words are the protocol's own."""
    fields = Fields(((REASON, reason), *_JSON.pairs)) if reason else _JSON
    return status, fields, body
