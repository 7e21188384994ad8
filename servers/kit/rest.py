"""The REST front: TensorFlow Serving's, plus the metrics page and `GET /replica/status`; `/v2` is
served by `oip_rest`.

What a head alone says is worked out once and kept with it. A body that came with its head is
answered at once where that is possible (`servers.kit.eager`); any other is read and decompressed by
`bodies`, so that its bound holds after decompression too and the error has the protocol's own
shape.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from functools import partial
from time import perf_counter

from gateway.codecs import oip_routes, tfs_json, tfs_metadata, tfs_routes, tfs_status
from gateway.codecs.oip_routes import OipCall
from gateway.codecs.orca import LOAD_FORMAT
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES, error_body, grpc_code, http_status
from gateway.codecs.tfs_routes import NotFoundPath, RestCall, RestKind
from gateway.domain.errors import GatewayError
from gateway.domain.tensors import CLASSIFY_METHOD, REGRESS_METHOD
from gateway.wire.exchange import Data, RequestHead, ServerExchange
from gateway.wire.fields import Fields
from gateway.wire.tasks import Awaited, Tasks
from servers.kit import bodies, eager, inference, logs
from servers.kit.eager import Reply
from servers.kit.oip_rest import OipRest
from servers.kit.oip_service import OipService
from servers.kit.reports import load_fields
from servers.kit.service import Service
from servers.kit.timing import Spent, timing_fields

METRICS_PATH = "/monitoring/prometheus/metrics"
STATUS_PATH = "/replica/status"

_JSON = (Fields([("content-type", "application/json")]),)
_TEXT = (Fields([("content-type", "text/plain")]),)
_ORIGIN = re.compile(r"https?://")
_API = {RestKind.PREDICT: "Predict", RestKind.CLASSIFY: "Classify", RestKind.REGRESS: "Regress"}


class _Route:
    """What a head says of a request. What is wrong with it is found again when it is answered."""

    __slots__ = ("call", "is_plain", "is_v2", "oip", "timeout_s", "wants_json_load")

    def __init__(self, head: RequestHead) -> None:
        self.is_v2 = oip_routes.is_v2(head.path)
        self.is_plain = bodies.is_plain(head)
        self.wants_json_load = (head.get(LOAD_FORMAT) or "").lower() == "json"
        self.call: RestCall | None = None
        self.oip: OipCall | None = None
        self.timeout_s: float | None = None
        with suppress(GatewayError):
            if self.is_v2:
                call = oip_routes.parse(head.method, head.path)
                self.timeout_s = bodies.timeout_s(head)
                self.oip = call
            else:
                found = tfs_routes.parse(head.method, head.path)
                if found.kind in _API:
                    self.timeout_s = bodies.timeout_s(head)
                self.call = found


class Rest:
    """All routes over one Service."""

    def __init__(self, service: Service, oip: OipService, max_body: int, tasks: Tasks) -> None:
        self.service = service
        self._oip = OipRest(oip, max_body)
        self._max_body = max_body
        self._tasks = tasks

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        """A request has come; see `exchange.Front`."""
        head = exchange.head
        route = head.kept
        if type(route) is not _Route:
            route = head.kept = _Route(head)
        if body is not None and route.is_plain and len(body) <= self._max_body:
            whole = body if type(body) is bytes else bytes(body)
            eager.answer(exchange, self._handle(route, head, whole), self._tasks)
        else:
            self._tasks.run(exchange, body, partial(self._read_and_handle, route))

    async def _read_and_handle(self, route: _Route, request: Awaited) -> None:
        request.respond(*await self._handle(route, request.head, request))

    async def _handle(self, route: _Route, head: RequestHead, body: bytes | Awaited) -> Reply:
        """Answer one request; every error becomes an answer here."""
        self.service.enter()
        try:
            if route.is_v2:
                reply = await self._oip.handle(head, route.oip, route.timeout_s, body)
            else:
                reply = await self._handle_tfs(route, head, body)
        finally:
            self.service.leave()
        status, fields, answer, trailers = reply
        load = load_fields(self.service.in_flight, route.wants_json_load)
        return status, (*fields, load), answer, trailers

    async def _handle_tfs(self, route: _Route, head: RequestHead, body: bytes | Awaited) -> Reply:
        begun = perf_counter()
        place = ["", ""]
        code = 0
        try:
            reply = await self._answer(route, head, body, place)
        except NotFoundPath:
            return 404, (), b"", None
        except GatewayError as error:
            code = grpc_code(error)
            reply = _error(http_status(error), error)
        except Exception as error:  # noqa: BLE001  the front's one place for bugs
            logs.bug("request.crashed", error, path=head.path)
            code = 13
            reply = 500, _JSON, error_body(f"{type(error).__name__}: {error}"), None
        model, api = place
        if model:
            took_s = perf_counter() - begun
            self.service.metrics.observe(model, api, "REST", GRPC_CODE_NAMES[code], took_s)
        return reply

    async def _answer(
        self, route: _Route, head: RequestHead, body: bytes | Awaited, place: list[str]
    ) -> Reply:
        call = route.call
        if call is None:
            return self._other(head)
        if call.kind is RestKind.STATUS:
            return _json(self._status(call))
        if call.kind is RestKind.METADATA:
            servable = self.service.manager.find(call.model, call.version, call.label)
            return _json(
                tfs_metadata.metadata_json(servable.name, servable.version, servable.signatures)
            )
        service = self.service
        service.admit()
        timeout_s = service.timeout_s if route.timeout_s is None else route.timeout_s
        deadline_at = asyncio.get_running_loop().time() + timeout_s
        if not isinstance(body, bytes):
            body = await bodies.read_body(body, self._max_body, deadline_at)
        if call.kind is RestKind.PREDICT:
            return await self._predict(call, body, deadline_at, place)
        return await self._infer(call, body, deadline_at, place)

    def _other(self, head: RequestHead) -> Reply:
        """What is not the protocol's, and what is wrong."""
        path = head.path
        if head.method == "GET" and path == METRICS_PATH:
            return 200, _TEXT, self.service.metrics.page(), None
        if head.method == "GET" and path == STATUS_PATH:
            return _json(self._replica_status())
        if head.method == "OPTIONS" and path.lower().startswith("/v1/"):
            origin = head.get("origin") or ""
            return 200 if _ORIGIN.match(origin) else 400, (), b"", None
        call = tfs_routes.parse(head.method, path)
        if call.kind not in (RestKind.STATUS, RestKind.METADATA):
            self.service.admit()
        bodies.timeout_s(head)
        raise AssertionError("one of the two has refused it")

    async def _predict(
        self, call: RestCall, body: bytes, deadline_at: float, place: list[str]
    ) -> Reply:
        service = self.service
        servable = service.manager.find(call.model, call.version, call.label)
        place[:] = servable.name, "Predict"
        if len(body) <= service.offload_bytes:
            asked = tfs_json.decode_predict(body, servable.signatures)
        else:
            asked = await service.off_loop(
                len(body), lambda: tfs_json.decode_predict(body, servable.signatures)
            )
        made = await service.predict(servable, asked.signature_name, asked.inputs, (), deadline_at)
        size = 4 * sum([array.nbytes for array in made.outputs.values()])
        if size <= service.offload_bytes:
            text = tfs_json.encode_predict(made.outputs, asked.row_form)
        else:
            text = await service.off_loop(
                size, lambda: tfs_json.encode_predict(made.outputs, asked.row_form)
            )
        return _answered(text, made.spent)

    async def _infer(
        self, call: RestCall, body: bytes, deadline_at: float, place: list[str]
    ) -> Reply:
        service = self.service
        servable = service.manager.find(call.model, call.version, call.label)
        place[:] = servable.name, _API[call.kind]
        asked = await service.off_loop(len(body), lambda: tfs_json.decode_examples(body))
        is_classify = call.kind is RestKind.CLASSIFY
        method = CLASSIFY_METHOD if is_classify else REGRESS_METHOD
        made = await service.infer(
            servable, asked.signature_name, method, asked.examples, deadline_at
        )
        count = len(asked.examples)
        if is_classify:
            text = tfs_json.encode_classify(inference.classification(made.outputs, count))
        else:
            text = tfs_json.encode_regress(inference.regression(made.outputs, count))
        return _answered(text, made.spent)

    def _status(self, call: RestCall) -> bytes:
        return tfs_status.status_json(self.service.manager.statuses(call.model, call.version))

    def _replica_status(self) -> bytes:
        models = {
            name: {
                "reason": self.service.manager.source_reason(name),
                "versions": [
                    {
                        "version": status.version,
                        "state": status.state.value,
                        "phase": status.phase,
                        "fetched_bytes": status.fetched_bytes,
                        "total_bytes": status.total_bytes,
                        "reason": status.reason,
                        "error_code": status.error_code,
                    }
                    for status in statuses
                ],
            }
            for name, statuses in self.service.manager.overview().items()
        }
        return json.dumps({"models": models}).encode()


def _json(body: bytes) -> Reply:
    return 200, _JSON, body, None


def _answered(body: bytes, spent: Spent) -> Reply:
    return 200, (*_JSON, timing_fields(spent)), body, None


def _error(status: int, error: GatewayError) -> Reply:
    pairs = [("content-type", "application/json"), ("x-gateway-reason", error.reason)]
    if error.retry_after_s is not None:
        pairs.append(("retry-after", str(max(1, round(error.retry_after_s)))))
    return status, (Fields(pairs),), error_body(error.message), None
