"""What answers on both ports: gRPC where the request says that it is, else REST."""

from __future__ import annotations

from gateway.wire.exchange import Data, ServerExchange
from gateway.wire.grpc import is_grpc
from servers.kit.rest import Rest
from servers.kit.rpc import Rpc


class KitFront:
    """`exchange.Front` of a model server."""

    def __init__(self, rest: Rest, rpc: Rpc) -> None:
        self._rest = rest
        self._rpc = rpc

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        """See exchange.Front."""
        if is_grpc(exchange.head.get("content-type")):
            self._rpc.begin(exchange, body)
        else:
            self._rest.begin(exchange, body)
