"""TensorFlow Serving's REST API: what a request line means, and what the gateway answers itself.

Only the head is read; bodies pass as they came, compressed ones too. `/v2…` is v2_http's.
"""

from __future__ import annotations

import re

from gateway.codecs.tfs_routes import RestCall, RestKind, parse, predict_path
from gateway.codecs.tfs_status import status_json
from gateway.core.route import statuses
from gateway.dataplane.http_parts import Route
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.rescue import JSON, HttpError, bug, http_answer
from gateway.dataplane.seen import Seen, Timing
from gateway.domain.errors import GatewayError
from gateway.domain.names import Version
from gateway.wire.exchange import RequestHead, ServerExchange
from gateway.wire.fields import Fields

METRICS_PATH = "/monitoring/prometheus/metrics"
"""TensorFlow Serving's default; scrapers that are set up for it find its names, and ours."""

_ORIGIN = re.compile(r"https?://", re.IGNORECASE)
_TEXT = Fields((("content-type", "text/plain; version=0.0.4"),))
_JSON = Fields((("content-type", JSON),))


class TfsRest:
    """http_parts.Rest, and the answers that need no replica."""

    protocol = "http"

    def __init__(self, plane: Dataplane) -> None:
        self.transport = plane.http
        self._plane = plane

    @staticmethod
    def route(head: RequestHead) -> Route:
        """What the head asks for."""
        route = Route(head, is_v2=False)
        method, path = head.method, head.path
        if method == "GET" and path.partition("?")[0] == METRICS_PATH:
            return route
        if method == "OPTIONS" and path[:4].lower() == "/v1/":
            return route
        try:
            call = route.call = parse(method, path)
            route.model, route.version, route.label = call.model, call.version, call.label
            if call.kind is not RestKind.STATUS:
                route.forward(head, takes_body=call.kind is not RestKind.METADATA)
        except GatewayError as error:
            route.error = error
        return route

    def path(self, route: Route, version: Version) -> str:
        """See Rest."""
        assert isinstance(route.call, RestCall)  # of a route that is forwarded
        return predict_path(route.call, version)

    def error(self, route: Route, error: GatewayError) -> HttpError:
        """See Rest."""
        return http_answer(error)

    def answer(self, exchange: ServerExchange, route: Route) -> None:
        """Answer what is not passed on."""
        seen = Seen(self._plane, self.protocol, exchange.head.path)
        seen.model = route.model
        try:
            if route.error is not None:
                self._refuse(exchange, route, route.error, seen)
                return
            status, fields, body = self._own(exchange.head, route)
        except GatewayError as error:
            self._refuse(exchange, route, error, seen)
            return
        except Exception as error:  # noqa: BLE001 - as rescue.guarded
            self._refuse(exchange, route, bug(error), seen)
            return
        seen.finish(str(status))
        exchange.respond(status, (*fields, Timing(None, seen.begun)), body)

    def _own(self, head: RequestHead, route: Route) -> tuple[int, tuple[Fields, ...], bytes]:
        if isinstance(route.call, RestCall):
            # A label is ignored: the original looks at the version only.
            found = statuses(self._plane.table, route.model, route.version)
            return 200, (_JSON,), status_json(found)
        if head.method == "GET":
            return 200, (_TEXT,), self._plane.metrics.render_for_tfs()
        # The original answers preflights by their origin alone and sends no CORS headers unless
        # told to.
        is_origin = _ORIGIN.match(head.get("origin") or "")
        return (200 if is_origin else 400), (), b""

    def _refuse(
        self, exchange: ServerExchange, route: Route, error: GatewayError, seen: Seen
    ) -> None:
        answer = self.error(route, error)
        seen.finish(str(answer.status), error.reason)
        fields = Fields(answer.headers.items()), Timing(None, seen.begun)
        exchange.respond(answer.status, fields, answer.body)
