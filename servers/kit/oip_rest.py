"""The Open Inference Protocol V2 over REST: paths under `/v2`, served beside TensorFlow Serving's.

Errors have the protocol's own statuses and body (`gateway.codecs.oip_errors`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter

from aiohttp import web

from gateway.codecs import oip_admin, oip_json, oip_routes, oip_stats
from gateway.codecs.json_text import parse_object
from gateway.codecs.oip_errors import (
    Flavour,
    MethodNotAllowed,
    error_body,
    grpc_code,
    http_status,
)
from gateway.codecs.oip_headers import HEADER_LENGTH, body_headers, header_length
from gateway.codecs.oip_routes import OipCall, OipKind
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES
from gateway.domain.errors import GatewayError, InvalidRequest
from servers.kit import bodies, logs, oip_checks, oip_views
from servers.kit.oip_service import OipService, generate_refused, shared_memory_refused

_JSON = {"Content-Type": "application/json"}
_ADMIN_BYTES = 1024 * 1024
"""Bodies of everything but inference: a list of settings, or a load without files."""


class OipRest:
    """All V2 routes over one OipService."""

    def __init__(self, oip: OipService, max_body: int) -> None:
        self._oip = oip
        self._service = oip.service
        self._max_body = max_body

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request, already counted in; every error becomes an answer here."""
        began = asyncio.get_running_loop().time()
        begun = perf_counter()
        place = [""]
        code = 0
        try:
            response = await self._answer(request, began, place)
        except GatewayError as error:
            code = grpc_code(error)
            response = _error(error)
        except Exception as error:  # noqa: BLE001  the front's one place for bugs
            logs.bug("request.crashed", error, path=request.raw_path)
            code = 13
            text = error_body(f"{type(error).__name__}: {error}")
            response = web.Response(status=500, body=text, headers=_JSON)
        if place[0]:
            took_s = perf_counter() - begun
            self._service.metrics.observe(
                place[0], "ModelInfer", "REST", GRPC_CODE_NAMES[code], took_s
            )
        return response

    async def _answer(
        self, request: web.BaseRequest, began: float, place: list[str]
    ) -> web.Response:
        call = oip_routes.parse(request.method, request.raw_path)
        deadline_at = began + bodies.timeout_s(request, self._service.timeout_s)
        if call.kind is OipKind.INFER:
            return await self._infer(request, call, deadline_at, place)
        if call.method == "POST":
            body = await bodies.read_body(
                request, _ADMIN_BYTES, deadline_at, bodies.GZIP_OR_DEFLATE
            )
        else:
            body = b""
        return await _ANSWER[call.kind](self, call, body)

    async def _infer(
        self, request: web.BaseRequest, call: OipCall, deadline_at: float, place: list[str]
    ) -> web.Response:
        service, oip = self._service, self._oip
        service.admit()
        body = await bodies.read_body(request, self._max_body, deadline_at, bodies.GZIP_OR_DEFLATE)
        length = header_length(request.headers.get(HEADER_LENGTH), len(body))
        servable = oip.find(call.model, call.version)
        place[0] = servable.name
        signature = oip.raw_signature(servable) if length == 0 else None
        asked = await service.off_loop(
            len(body), lambda: oip_json.decode_infer(body, length, signature)
        )
        made = await oip.infer(servable, asked, deadline_at)
        size = oip_views.size(made.outputs)
        json_length, answer = await service.off_loop(
            size,
            lambda: oip_json.encode_infer(
                servable.name, servable.version, asked.id, made.outputs, asked
            ),
        )
        headers = body_headers(json_length)
        encoding, answer = await bodies.packed(request, answer)
        if encoding:
            headers["Content-Encoding"] = encoding
        return web.Response(body=answer, headers=headers)

    # ---- health --------------------

    async def live(self, call: OipCall, body: bytes) -> web.Response:
        return _answered(oip_admin.live_answer(self._oip.flavour, True))

    async def ready(self, call: OipCall, body: bytes) -> web.Response:
        return _answered(oip_admin.ready_answer(self._oip.flavour, self._oip.is_ready()))

    async def model_ready(self, call: OipCall, body: bytes) -> web.Response:
        flavour = self._oip.flavour
        if flavour is Flavour.KSERVE:
            self._oip.find(call.model, call.version)  # 404 for a model that there is not
        is_ready = self._oip.is_model_ready(call.model, call.version)
        return _answered(oip_admin.model_ready_answer(flavour, call.model, is_ready))

    # ---- metadata --------------------

    async def server_metadata(self, call: OipCall, body: bytes) -> web.Response:
        return _json(
            oip_admin.server_metadata_json(oip_views.NAME, oip_views.VERSION, oip_views.EXTENSIONS)
        )

    async def models(self, call: OipCall, body: bytes) -> web.Response:
        return _json(oip_admin.models_json(self._oip.index(only_ready=True)))

    async def metadata(self, call: OipCall, body: bytes) -> web.Response:
        servable = self._oip.find(call.model, call.version)
        _, signature = oip_checks.signature_of(servable.signatures, servable.name)
        versions = self._oip.ready_versions(call.model)
        platform = oip_views.platform_of(self._service.manager.runtime)
        return _json(oip_admin.model_metadata_json(call.model, versions, platform, signature))

    async def config(self, call: OipCall, body: bytes) -> web.Response:
        servable = self._oip.find(call.model, call.version)
        _, signature = oip_checks.signature_of(servable.signatures, servable.name)
        versions = self._oip.ready_versions(call.model)
        shown = oip_views.config_of(servable, self._service.manager.runtime, versions)
        return _json(oip_admin.config_json(shown, signature))

    async def stats(self, call: OipCall, body: bytes) -> web.Response:
        counted = self._oip.counted(call.model, call.version)
        return _json(oip_stats.statistics_json(oip_views.stats_of(one) for one in counted))

    # ---- repository --------------------

    async def index(self, call: OipCall, body: bytes) -> web.Response:
        self._oip.check_repository(call.repository)
        only_ready = oip_admin.index_only_ready(body)
        entries = oip_admin.index_entries(self._oip.index(only_ready), only_ready=only_ready)
        return _json(oip_admin.repository_index_json(entries))

    async def load(self, call: OipCall, body: bytes) -> web.Response:
        parameters = oip_admin.control_parameters(body)
        await self._oip.load(call.repository, call.model, parameters)
        return _json(oip_admin.control_answer(self._oip.flavour, call.model, "load"))

    async def unload(self, call: OipCall, body: bytes) -> web.Response:
        oip_admin.control_parameters(body)
        await self._oip.unload(call.repository, call.model)
        return _json(oip_admin.control_answer(self._oip.flavour, call.model, "unload"))

    # ---- settings --------------------

    async def trace(self, call: OipCall, body: bytes) -> web.Response:
        if call.model:
            self._oip.check_configured(call.model)
        given = parse_object(body) if body else {}
        changed = {name: _values(name, value) for name, value in given.items()}
        return _json(_dumped(self._oip.settings.set_trace(call.model, changed)))

    async def logging(self, call: OipCall, body: bytes) -> web.Response:
        given = parse_object(body) if body else {}
        return _json(_dumped(self._oip.settings.set_log(given)))

    # ---- not offered --------------------

    async def shared_memory(self, call: OipCall, body: bytes) -> web.Response:
        if call.action != "status":
            raise shared_memory_refused()
        if call.region:
            raise oip_views.no_region(call.kind is OipKind.CUDA_SHARED_MEMORY, call.region)
        return _json(b"[]")

    async def generate(self, call: OipCall, body: bytes) -> web.Response:
        raise generate_refused()


_ANSWER: dict[OipKind, Callable[[OipRest, OipCall, bytes], Awaitable[web.Response]]] = {
    OipKind.LIVE: OipRest.live,
    OipKind.READY: OipRest.ready,
    OipKind.MODEL_READY: OipRest.model_ready,
    OipKind.SERVER_METADATA: OipRest.server_metadata,
    OipKind.MODELS: OipRest.models,
    OipKind.MODEL_METADATA: OipRest.metadata,
    OipKind.CONFIG: OipRest.config,
    OipKind.STATS: OipRest.stats,
    OipKind.REPOSITORY_INDEX: OipRest.index,
    OipKind.REPOSITORY_LOAD: OipRest.load,
    OipKind.REPOSITORY_UNLOAD: OipRest.unload,
    OipKind.TRACE_SETTING: OipRest.trace,
    OipKind.LOGGING: OipRest.logging,
    OipKind.SYSTEM_SHARED_MEMORY: OipRest.shared_memory,
    OipKind.CUDA_SHARED_MEMORY: OipRest.shared_memory,
    OipKind.GENERATE: OipRest.generate,
    OipKind.GENERATE_STREAM: OipRest.generate,
}


def _values(name: str, value: object) -> Sequence[str] | None:
    """A trace setting as Triton takes it: a string, a list of strings, or null."""
    if value is None:
        return None
    found = value if isinstance(value, list) else [value]
    texts = [one for one in found if isinstance(one, str)]
    if len(texts) < len(found):
        raise InvalidRequest(
            f"trace setting '{name[:64]}' must be a string, a list of strings, or null",
            reason="bad_setting",
        )
    return texts


def _dumped(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, headers=_JSON if body else None)


def _answered(answer: tuple[int, bytes]) -> web.Response:
    status, body = answer
    return web.Response(status=status, body=body, headers=_JSON if body else None)


def _error(error: GatewayError) -> web.Response:
    headers = {**_JSON, "x-gateway-reason": error.reason}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    return web.Response(status=http_status(error), body=error_body(error.message), headers=headers)
