"""The Open Inference Protocol V2 over REST: paths under `/v2`, served beside TensorFlow Serving's.

Errors have the protocol's own statuses and body (`gateway.codecs.oip_errors`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from time import perf_counter
from typing import NoReturn

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
from gateway.codecs.oip_infer import OipInfer
from gateway.codecs.oip_json_forms import InferForm, RequestForms, with_id, without_id
from gateway.codecs.oip_routes import OipCall, OipKind
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES
from gateway.domain.errors import GatewayError, InvalidRequest
from gateway.wire.exchange import RequestHead
from gateway.wire.fields import Fields
from gateway.wire.tasks import Awaited
from servers.kit import bodies, logs, oip_checks, oip_views
from servers.kit.eager import Reply
from servers.kit.oip_service import OipService
from servers.kit.runtime import Arrays
from servers.kit.servable import Servable
from servers.kit.timing import timing_fields

_JSON = (Fields([("content-type", "application/json")]),)
_HEADER_LENGTH = HEADER_LENGTH.lower()
_ADMIN_BYTES = 1024 * 1024
"""Bodies of everything but inference: a list of settings, or a load without files."""


class OipRest:
    """All V2 routes over one OipService."""

    def __init__(self, oip: OipService, max_body: int) -> None:
        self._oip = oip
        self._service = oip.service
        self._max_body = max_body
        self._forms = RequestForms()

    async def handle(
        self,
        head: RequestHead,
        call: OipCall | None,
        timeout_s: float | None,
        body: bytes | Awaited,
    ) -> Reply:
        """Answer one request, already counted in; every error becomes an answer here. `call` and
        `timeout_s` are what the head says, None for `call` where something is wrong with it."""
        begun = perf_counter()
        place = [""]
        code = 0
        try:
            reply = await self._answer(head, call or _refused(head), timeout_s, body, place)
        except GatewayError as error:
            code = grpc_code(error)
            reply = _error(error)
        except Exception as error:  # noqa: BLE001  the front's one place for bugs
            logs.bug("request.crashed", error, path=head.path)
            code = 13
            reply = 500, _JSON, error_body(f"{type(error).__name__}: {error}"), None
        if place[0]:
            took_s = perf_counter() - begun
            self._service.metrics.observe(
                place[0], "ModelInfer", "REST", GRPC_CODE_NAMES[code], took_s
            )
        return reply

    async def _answer(
        self,
        head: RequestHead,
        call: OipCall,
        timeout_s: float | None,
        body: bytes | Awaited,
        place: list[str],
    ) -> Reply:
        if timeout_s is None:
            timeout_s = self._service.timeout_s
        deadline_at = asyncio.get_running_loop().time() + timeout_s
        is_infer = call.kind is OipKind.INFER
        if is_infer:
            self._service.admit()
        elif call.method != "POST":
            return await _ANSWER[call.kind](self, call, b"")
        if not isinstance(body, bytes):
            limit = self._max_body if is_infer else _ADMIN_BYTES
            body = await bodies.read_body(body, limit, deadline_at, bodies.GZIP_OR_DEFLATE)
        if is_infer:
            return await self._infer(head, call, body, deadline_at, place)
        return await _ANSWER[call.kind](self, call, body)

    async def _infer(
        self, head: RequestHead, call: OipCall, body: bytes, deadline_at: float, place: list[str]
    ) -> Reply:
        service = self._service
        length = header_length(head.get(_HEADER_LENGTH), len(body))
        servable = self._oip.find(call.model, call.version)
        place[0] = servable.name
        form, asked, inputs = await self._read(servable, body, length)
        made = await self._oip.infer(servable, asked, inputs, deadline_at, form)
        size = oip_views.size(made.outputs)
        if size <= service.offload_bytes:
            json_length, answer = servable.infer_texts.encode(made.outputs, asked)
        else:
            json_length, answer = await service.off_loop(
                size,
                lambda: oip_json.encode_infer(
                    servable.name, servable.version, asked.id, made.outputs, asked
                ),
            )
        encoding = ""
        if head.get("accept-encoding") is not None:
            encoding, answer = await bodies.packed(head, answer)
        if not encoding:
            fields = _JSON if json_length is None else _octets(json_length)
            return 200, (*fields, timing_fields(made.spent)), answer, None
        pairs = [(name.lower(), value) for name, value in body_headers(json_length).items()]
        packed = Fields([*pairs, ("content-encoding", encoding)])
        return 200, (packed, timing_fields(made.spent)), answer, None

    async def _read(
        self, servable: Servable, body: bytes, length: int | None
    ) -> tuple[InferForm | None, OipInfer, Arrays]:
        """What a request asks, its tensors, and the form that it has, where that is known."""
        service, forms = self._service, self._forms
        id, bare, bare_length = without_id(body, length)
        form = forms.find(bare, bare_length)
        if form is not None:
            if len(bare) <= service.offload_bytes:
                arrays = form.arrays(bare)
            else:
                arrays = await service.off_loop(len(bare), lambda: form.arrays(bare))
            if arrays is not None:
                return form, with_id(form.said, id) if id else form.said, arrays
        signature = self._oip.raw_signature(servable) if length == 0 else None
        asked = await service.off_loop(
            len(body), lambda: oip_json.decode_infer(body, length, signature)
        )
        if form is None and len(body) <= service.offload_bytes:
            forms.learn(bare, bare_length, with_id(asked, "") if id else asked)
        return None, asked, asked.inputs

    # ---- health --------------------

    async def live(self, call: OipCall, body: bytes) -> Reply:
        return _answered(oip_admin.live_answer(self._oip.flavour, True))

    async def ready(self, call: OipCall, body: bytes) -> Reply:
        return _answered(oip_admin.ready_answer(self._oip.flavour, self._oip.is_ready()))

    async def model_ready(self, call: OipCall, body: bytes) -> Reply:
        flavour = self._oip.flavour
        if flavour is Flavour.KSERVE:
            self._oip.find(call.model, call.version)  # 404 for a model that there is not
        is_ready = self._oip.is_model_ready(call.model, call.version)
        return _answered(oip_admin.model_ready_answer(flavour, call.model, is_ready))

    # ---- metadata --------------------

    async def server_metadata(self, call: OipCall, body: bytes) -> Reply:
        return _json(
            oip_admin.server_metadata_json(oip_views.NAME, oip_views.VERSION, oip_views.EXTENSIONS)
        )

    async def models(self, call: OipCall, body: bytes) -> Reply:
        return _json(oip_admin.models_json(self._oip.index(only_ready=True)))

    async def metadata(self, call: OipCall, body: bytes) -> Reply:
        servable = self._oip.find(call.model, call.version)
        _, signature = oip_checks.signature_of(servable.signatures, servable.name)
        versions = self._oip.ready_versions(call.model)
        platform = oip_views.platform_of(self._service.manager.runtime)
        return _json(oip_admin.model_metadata_json(call.model, versions, platform, signature))

    async def config(self, call: OipCall, body: bytes) -> Reply:
        servable = self._oip.find(call.model, call.version)
        _, signature = oip_checks.signature_of(servable.signatures, servable.name)
        versions = self._oip.ready_versions(call.model)
        shown = oip_views.config_of(servable, self._service.manager.runtime, versions)
        return _json(oip_admin.config_json(shown, signature))

    async def stats(self, call: OipCall, body: bytes) -> Reply:
        counted = self._oip.counted(call.model, call.version)
        return _json(oip_stats.statistics_json(oip_views.stats_of(one) for one in counted))

    # ---- repository --------------------

    async def index(self, call: OipCall, body: bytes) -> Reply:
        self._oip.check_repository(call.repository)
        only_ready = oip_admin.index_only_ready(body)
        entries = oip_admin.index_entries(self._oip.index(only_ready), only_ready=only_ready)
        return _json(oip_admin.repository_index_json(entries))

    async def load(self, call: OipCall, body: bytes) -> Reply:
        parameters = oip_admin.control_parameters(body)
        await self._oip.load(call.repository, call.model, parameters)
        return _json(oip_admin.control_answer(self._oip.flavour, call.model, "load"))

    async def unload(self, call: OipCall, body: bytes) -> Reply:
        oip_admin.control_parameters(body)
        await self._oip.unload(call.repository, call.model)
        return _json(oip_admin.control_answer(self._oip.flavour, call.model, "unload"))

    # ---- settings --------------------

    async def trace(self, call: OipCall, body: bytes) -> Reply:
        if call.model:
            self._oip.check_configured(call.model)
        given = parse_object(body) if body else {}
        changed = {name: _values(name, value) for name, value in given.items()}
        return _json(_dumped(self._oip.settings.set_trace(call.model, changed)))

    async def logging(self, call: OipCall, body: bytes) -> Reply:
        given = parse_object(body) if body else {}
        return _json(_dumped(self._oip.settings.set_log(given)))

    # ---- not offered --------------------

    async def shared_memory(self, call: OipCall, body: bytes) -> Reply:
        if call.action != "status":
            raise oip_views.shared_memory_refused()
        if call.region:
            raise oip_views.no_region(call.kind is OipKind.CUDA_SHARED_MEMORY, call.region)
        return _json(b"[]")

    async def generate(self, call: OipCall, body: bytes) -> Reply:
        raise oip_views.generate_refused()


_ANSWER: dict[OipKind, Callable[[OipRest, OipCall, bytes], Awaitable[Reply]]] = {
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


def _refused(head: RequestHead) -> NoReturn:
    oip_routes.parse(head.method, head.path)
    bodies.timeout_s(head)
    raise AssertionError("one of the two has refused it")


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


def _json(body: bytes) -> Reply:
    return _answered((200, body))


def _answered(answer: tuple[int, bytes]) -> Reply:
    status, body = answer
    return status, _JSON if body else (), body, None


@lru_cache(maxsize=256)
def _octets(json_length: int) -> tuple[Fields]:
    """The fields of an answer with tensors behind its JSON: as a rule a few lengths for a model."""
    pairs = [(name.lower(), value) for name, value in body_headers(json_length).items()]
    return (Fields(pairs),)


def _error(error: GatewayError) -> Reply:
    pairs = [("content-type", "application/json"), ("x-gateway-reason", error.reason)]
    if error.retry_after_s is not None:
        pairs.append(("retry-after", str(max(1, round(error.retry_after_s)))))
    if isinstance(error, MethodNotAllowed):
        pairs.append(("allow", ", ".join(error.allowed)))
    return http_status(error), (Fields(pairs),), error_body(error.message), None
