"""The REST front: TensorFlow Serving's, plus the metrics page and `GET /replica/status`; `/v2` is
served by `oip_rest`.

aiohttp's low-level server: one handler, no router. Bodies are read and decompressed by `bodies`, so
that their bound holds after decompression too and the error has the protocol's own shape.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from time import perf_counter

from aiohttp import web

from gateway.codecs import oip_routes, tfs_json, tfs_metadata, tfs_routes, tfs_status
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES, error_body, grpc_code, http_status
from gateway.codecs.tfs_routes import NotFoundPath, RestCall, RestKind
from gateway.domain.errors import GatewayError
from gateway.domain.tensors import CLASSIFY_METHOD, REGRESS_METHOD
from servers.kit import bodies, inference, logs
from servers.kit.oip_rest import OipRest
from servers.kit.oip_service import OipService
from servers.kit.service import Service

METRICS_PATH = "/monitoring/prometheus/metrics"
STATUS_PATH = "/replica/status"

_JSON = "application/json"
_ORIGIN = re.compile(r"https?://")
_API = {RestKind.PREDICT: "Predict", RestKind.CLASSIFY: "Classify", RestKind.REGRESS: "Regress"}


class Rest:
    """All routes over one Service."""

    def __init__(self, service: Service, oip: OipService, max_body: int) -> None:
        self.service = service
        self._oip = OipRest(oip, max_body)
        self._max_body = max_body

    async def start(self, listener: socket.socket) -> web.ServerRunner:
        """Answer on a bound socket; the runner's `cleanup()` ends it."""
        server = web.Server(
            self.handle,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=3600.0,
        )
        runner = web.ServerRunner(server)
        await runner.setup()
        await web.SockSite(runner, listener, backlog=1024).start()
        return runner

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every error becomes an answer here."""
        if oip_routes.is_v2(request.raw_path):
            self.service.enter()
            try:
                return await self._oip.handle(request)
            finally:
                self.service.leave()
        loop = asyncio.get_running_loop()
        began = loop.time()
        begun = perf_counter()
        place = ["", ""]
        code = 0
        self.service.enter()
        try:
            response = await self._answer(request, began, place)
        except NotFoundPath:
            return web.Response(status=404)
        except GatewayError as error:
            code = grpc_code(error)
            response = _error(http_status(error), error)
        except Exception as error:  # noqa: BLE001  the front's one place for bugs
            logs.bug("request.crashed", error, path=request.raw_path)
            code = 13
            text = error_body(f"{type(error).__name__}: {error}")
            response = web.Response(status=500, body=text, content_type=_JSON)
        finally:
            self.service.leave()
        model, api = place
        if model:
            took_s = perf_counter() - begun
            self.service.metrics.observe(model, api, "REST", GRPC_CODE_NAMES[code], took_s)
        return response

    async def _answer(
        self, request: web.BaseRequest, began: float, place: list[str]
    ) -> web.Response:
        path = request.raw_path
        if request.method == "GET" and path == METRICS_PATH:
            page = self.service.metrics.page()
            return web.Response(body=page, headers={"Content-Type": "text/plain"})
        if request.method == "GET" and path == STATUS_PATH:
            return _json(self._replica_status())
        if request.method == "OPTIONS" and path.lower().startswith("/v1/"):
            origin = request.headers.get("Origin", "")
            return web.Response(status=200 if _ORIGIN.match(origin) else 400)
        call = tfs_routes.parse(request.method, path)
        if call.kind is RestKind.STATUS:
            return _json(self._status(call))
        if call.kind is RestKind.METADATA:
            servable = self.service.manager.find(call.model, call.version, call.label)
            return _json(
                tfs_metadata.metadata_json(servable.name, servable.version, servable.signatures)
            )
        self.service.admit()
        deadline_at = began + bodies.timeout_s(request, self.service.timeout_s)
        body = await bodies.read_body(request, self._max_body, deadline_at)
        if call.kind is RestKind.PREDICT:
            return _json(await self._predict(call, body, deadline_at, place))
        return _json(await self._infer(call, body, deadline_at, place))

    async def _predict(
        self, call: RestCall, body: bytes, deadline_at: float, place: list[str]
    ) -> bytes:
        service = self.service
        servable = service.manager.find(call.model, call.version, call.label)
        place[:] = servable.name, _API[call.kind]
        asked = await service.off_loop(
            len(body), lambda: tfs_json.decode_predict(body, servable.signatures)
        )
        made = await service.predict(servable, asked.signature_name, asked.inputs, (), deadline_at)
        size = 4 * sum(array.nbytes for array in made.outputs.values())
        return await service.off_loop(
            size, lambda: tfs_json.encode_predict(made.outputs, asked.row_form)
        )

    async def _infer(
        self, call: RestCall, body: bytes, deadline_at: float, place: list[str]
    ) -> bytes:
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
            return tfs_json.encode_classify(inference.classification(made.outputs, count))
        return tfs_json.encode_regress(inference.regression(made.outputs, count))

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


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": _JSON})


def _error(status: int, error: GatewayError) -> web.Response:
    headers = {"Content-Type": _JSON, "x-gateway-reason": error.reason}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return web.Response(status=status, body=error_body(error.message), headers=headers)
