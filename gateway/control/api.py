"""The control API's listener: routes, and what stands between HTTP and the service."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web

from gateway import __version__
from gateway.control import model_openapi, schema, views
from gateway.control.answers import BODY_LIMIT, answer, errors_answered
from gateway.control.bodies import expected_generation, flag, integer, read
from gateway.control.guard import guard
from gateway.control.model_openapi import JSON
from gateway.control.openapi import document
from gateway.control.operations import OPERATIONS, STREAM, TEXT
from gateway.control.schema import DeployRequest, RolloutRequest, ScaleRequest
from gateway.control.service import ModelsService
from gateway.control.stream import EventStreams, ReaderGone, StreamOut, StreamSettings, begin
from gateway.domain.errors import GatewayError, InvalidRequest, Unavailable
from gateway.domain.gateways import Role
from gateway.domain.names import INT64_MAX
from gateway.telemetry.traffic import ModelTraffic

MAX_EVENTS = 10_000
"""Events of one answer at most: as many as the store keeps."""

_GONE_LOOK_S = 1.0
"""Seconds between looks whether the reader of a quiet log is still there."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Knobs of the control API's listener."""

    max_body_bytes: int = 1 << 20
    """Bytes of a request's body. A deploy is some hundred; a mebibyte leaves room for labels and
    commands and keeps a mistake from filling the memory."""

    known_hosts: tuple[str, ...] = ()
    """Names under which browsers may reach this listener, besides its addresses and localhost.
    Checked where it listens on the loopback only, against DNS rebinding."""

    shutdown_s: float = 2.0
    """Seconds that open requests get when the listener stops."""

    streams: StreamSettings = field(default_factory=StreamSettings)


def no_metrics() -> bytes:
    """Where nothing renders metrics."""
    return b""


Counts = tuple[Sequence[float], Sequence[ModelTraffic]]
"""As telemetry's Metrics.traffic."""


def no_traffic() -> Counts:
    """Where nothing counts."""
    return (), ()


def no_role() -> Role | None:
    """Where there is one gateway only."""
    return None


class ControlApi:
    """REST, JSON and server-sent events over a ModelsService."""

    def __init__(
        self,
        service: ModelsService,
        *,
        addresses: Callable[[], Mapping[str, str]] = dict,
        metrics: Callable[[], bytes | Awaitable[bytes]] = no_metrics,
        traffic: Callable[[], Counts] = no_traffic,
        role: Callable[[], Role | None] = no_role,
        settings: ControlSettings | None = None,
    ) -> None:
        """`addresses` gives the `http`, `grpc` and `control` that health tells; `metrics` renders
        the Prometheus text, and `traffic` tells the same of requests; `role` is what this gateway
        is among several."""
        self._service = service
        self._addresses = addresses
        self._metrics = metrics
        self._traffic = traffic
        self._role = role
        self._settings = settings or ControlSettings()
        self._streams = EventStreams(service.events, self._settings.streams)
        self._document = document()

    def __repr__(self) -> str:
        return f"ControlApi({self._streams!r})"

    def application(self, *, loopback: bool = True) -> web.Application:
        """The aiohttp application. `loopback`: it will listen there only, so Host is checked."""
        known = self._settings.known_hosts if loopback else None
        app = web.Application(
            client_max_size=self._settings.max_body_bytes,
            middlewares=[errors_answered, guard(known)],
        )
        app[BODY_LIMIT] = self._settings.max_body_bytes
        for operation in OPERATIONS:
            app.router.add_route(operation.method, operation.path, getattr(self, operation.id))
        return app

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncGenerator[str, None]:
        """Listen while the context lasts; gives the bound `host:port`.

        Raises:
            Unavailable: the address cannot be bound (`address_in_use`).
        """
        runner = web.AppRunner(
            self.application(loopback=_is_loopback(host)),
            access_log=None,
            shutdown_timeout=self._settings.shutdown_s,
        )
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise Unavailable(
                    f"The control API cannot listen on {host}:{port} "
                    f"({os.strerror(error.errno or 0)}). Is another gateway running there? "
                    "Choose another address with --control.",
                    reason="address_in_use",
                ) from error
            bound = runner.addresses[0]
            name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
            try:
                yield f"{name}:{bound[1]}"
            finally:
                self._streams.close()  # or they would be waited for
        finally:
            await runner.cleanup()

    # ---- models --------------------

    async def list_models(self, request: web.Request) -> web.Response:
        """GET /api/v1/models"""
        return answer(schema.ModelItems(await self._service.models()))

    async def deploy_model(self, request: web.Request) -> web.Response:
        """PUT /api/v1/models/NAME"""
        expected = expected_generation(request)
        wanted = await read(request, DeployRequest)
        deployed = await self._service.deploy(_name(request), wanted, expected)
        return answer(deployed.model, 201 if deployed.created else 200)

    async def get_model(self, request: web.Request) -> web.Response:
        """GET /api/v1/models/NAME"""
        return answer(await self._service.model(_name(request)))

    async def delete_model(self, request: web.Request) -> web.Response:
        """DELETE /api/v1/models/NAME"""
        expected = expected_generation(request)
        return answer(await self._service.delete(_name(request), expected), 202)

    async def scale_model(self, request: web.Request) -> web.Response:
        """POST /api/v1/models/NAME:scale"""
        expected = expected_generation(request)
        wanted = await read(request, ScaleRequest)
        if isinstance(wanted.generation, int):
            expected = wanted.generation
        return answer(await self._service.scale(_name(request), wanted.replicas, expected))

    async def refresh_model(self, request: web.Request) -> web.Response:
        """POST /api/v1/models/NAME:refresh"""
        return answer(await self._service.refresh(_name(request)), 202)

    async def model_openapi(self, request: web.Request) -> web.Response:
        """GET /api/v1/models/NAME/openapi.json"""
        name = _name(request)
        version, signatures = await self._service.described(name)
        http = _reachable(self._addresses().get("http"), request)
        return answer(model_openapi.document(name, version, signatures, http))

    # ---- versions, replicas, rollouts --------------------

    async def model_versions(self, request: web.Request) -> web.Response:
        """GET /api/v1/models/NAME/versions"""
        return answer(schema.VersionItems(await self._service.versions(_name(request))))

    async def model_replicas(self, request: web.Request) -> web.Response:
        """GET /api/v1/models/NAME/replicas"""
        return answer(schema.ReplicaItems(await self._service.replicas(_name(request))))

    async def model_rollouts(self, request: web.Request) -> web.Response:
        """GET /api/v1/models/NAME/rollouts"""
        return answer(schema.RolloutItems(await self._service.rollouts(_name(request))))

    async def order_rollout(self, request: web.Request) -> web.Response:
        """POST /api/v1/models/NAME/rollout"""
        wanted = await read(request, RolloutRequest)
        return answer(await self._service.order_rollout(_name(request), wanted))

    async def list_versions(self, request: web.Request) -> web.Response:
        """GET /api/v1/versions"""
        return answer(schema.VersionItems(await self._service.versions(_filter(request))))

    async def list_replicas(self, request: web.Request) -> web.Response:
        """GET /api/v1/replicas"""
        return answer(schema.ReplicaItems(await self._service.replicas(_filter(request))))

    async def list_rollouts(self, request: web.Request) -> web.Response:
        """GET /api/v1/rollouts"""
        return answer(schema.RolloutItems(await self._service.rollouts(_filter(request))))

    # ---- what happened --------------------

    async def list_events(self, request: web.Request) -> web.StreamResponse:
        """GET /api/v1/events, as a stream or as a list"""
        after = integer(request, "after", 0, INT64_MAX, None)
        model = _filter(request)
        limit = integer(request, "limit", 1, MAX_EVENTS, 1000) or 1000
        if _wants_stream(request):
            return await self._streams.serve(request, _resumed(request, after), model)
        found = await self._service.list_events(after=after or 0, model=model, limit=limit)
        return answer(schema.EventItems([views.event(e) for e in found]))

    async def model_logs(self, request: web.Request) -> web.StreamResponse:
        """GET /api/v1/models/NAME/logs"""
        replica, follow = request.query.get("replica") or None, flag(request, "follow")
        sources = await self._service.log_sources(_name(request), replica)
        with self._streams.slot():
            out = await begin(request, f"{TEXT}; charset=utf-8", self._settings.streams.stall_s)
            prefix = replica is None or len(sources) > 1
            await self._copy_logs(out, sources, prefix=prefix, follow=follow)
        return out.response

    async def _copy_logs(
        self, out: StreamOut, sources: list[str], *, prefix: bool, follow: bool
    ) -> None:
        """Copy until the end of the logs, of the reader's patience, or of this listener."""

        async def copy() -> None:
            try:
                await self._service.logs(sources, out.write, prefix=prefix, follow=follow)
                await out.end()
            except* ReaderGone:
                pass
            except* GatewayError as errors:  # too late for a status; the reader must still know
                words = "; ".join(e.message for e in _leaves(errors))
                with suppress(ReaderGone):
                    await out.write(f"[gateway] the log breaks off: {words}\n".encode())

        async with asyncio.TaskGroup() as group:
            copying = group.create_task(copy())
            # A replica that writes nothing would never tell that its reader has left.
            while not copying.done():
                await asyncio.wait([copying], timeout=_GONE_LOOK_S)
                if out.is_gone or self._streams.is_closing:
                    copying.cancel()

    # ---- about itself --------------------

    async def health(self, request: web.Request) -> web.Response:
        """GET /api/v1/health"""
        known = self._addresses()
        addresses = schema.Addresses(known.get("http"), known.get("grpc"), known.get("control"))
        role = self._role()
        leadership = None if role is None else views.leadership(role)
        return answer(schema.Health("ok", __version__, os.getpid(), addresses, leadership))

    async def traffic(self, request: web.Request) -> web.Response:
        """GET /api/v1/traffic"""
        name = _filter(request)
        bounds_s, models = self._traffic()
        items = [views.traffic(m) for m in models if name in (None, m.model)]
        return answer(schema.Traffic(asyncio.get_running_loop().time(), list(bounds_s), items))

    async def openapi(self, request: web.Request) -> web.Response:
        """GET /api/v1/openapi.json"""
        return answer(self._document)

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics"""
        rendered = self._metrics()
        body = await rendered if inspect.isawaitable(rendered) else rendered
        return web.Response(
            body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def healthz(self, request: web.Request) -> web.Response:
        """GET /healthz"""
        return web.Response(text="ok")


def _reachable(address: str | None, request: web.Request) -> str | None:
    """`address` as this caller can use it: one that listens on every address (0.0.0.0) is reached
    under the name by which we were."""
    host, _, port = (address or "").rpartition(":")
    if host not in ("0.0.0.0", "[::]"):
        return address
    known = request.url.host or "localhost"
    return f"[{known}]:{port}" if ":" in known else f"{known}:{port}"


def _leaves(group: BaseExceptionGroup[GatewayError]) -> list[GatewayError]:
    found: list[GatewayError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _name(request: web.Request) -> str:
    return request.match_info["name"]


def _filter(request: web.Request) -> str | None:
    return request.query.get("model") or None


def _wants_stream(request: web.Request) -> bool:
    """Whether events are to be sent as they come: unless a list is asked for, by a limit or by
    JSON. What does not say (`curl -N`) has come to watch."""
    accepted = request.headers.get("Accept", "")
    if "watch" in request.query:
        return flag(request, "watch") or STREAM in accepted
    return STREAM in accepted or not ("limit" in request.query or JSON in accepted)


def _resumed(request: web.Request, after: int | None) -> int | None:
    """Where a stream goes on: Last-Event-ID before `after`."""
    text = request.headers.get("Last-Event-ID", "").strip()
    if not text:
        return after
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidRequest(
            f"Last-Event-ID must be an event's number; got {text[:40]!r}.", reason="bad_query"
        )
    return int(text)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")
