"""What answers requests: all four protocols, on whatever port and version of HTTP they come."""

from __future__ import annotations

from gateway.codecs.oip_routes import is_v2
from gateway.dataplane.grpc import GrpcFront
from gateway.dataplane.http import TfsRest
from gateway.dataplane.http_caller import HttpCaller
from gateway.dataplane.http_parts import Route
from gateway.dataplane.plane import Dataplane
from gateway.dataplane.v2_http import V2Rest
from gateway.ports import Reloader
from gateway.wire.exchange import Data, RequestHead, ServerExchange
from gateway.wire.grpc import GrpcHead, is_grpc


class GatewayFront:
    """exchange.Front of one data plane."""

    def __init__(self, plane: Dataplane, reloader: Reloader | None = None) -> None:
        self._plane = plane
        self._is_draining = False
        self._tfs = TfsRest(plane)
        self._v2 = V2Rest(plane, reloader, lambda: self._is_draining)
        self._grpc = GrpcFront(plane, reloader, lambda: self._is_draining)

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        """See exchange.Front."""
        head = exchange.head
        kept = head.kept
        if type(kept) is GrpcHead:
            self._grpc.begin(exchange, body)
            return
        if type(kept) is not Route:
            if is_grpc(head.get("content-type")):
                self._grpc.begin(exchange, body)
                return
            kept = head.kept = _route(head)
        if kept.is_forwarded:
            rest = self._v2 if kept.is_v2 else self._tfs
            HttpCaller(self._plane, rest, exchange, kept).begin(body)
        elif kept.is_v2:
            self._v2.answer(exchange, kept, body)
        else:
            self._tfs.answer(exchange, kept)

    def drain(self) -> None:
        """Say that no new requests are wanted: health is NOT_SERVING, and watchers are told."""
        self._is_draining = True
        self._grpc.drain()


def _route(head: RequestHead) -> Route:
    return V2Rest.route(head) if is_v2(head.path) else TfsRest.route(head)
