"""A replica on our own wire whose handler a test writes: both protocols on one port."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.core.route import Target
from gateway.domain.replicas import Endpoint
from gateway.wire.exchange import RequestHead
from gateway.wire.fields import Fields
from gateway.wire.grpc import HEAD, OK_TRAILERS
from gateway.wire.listener import Listener
from gateway.wire.settings import ServerWireSettings
from gateway.wire.tasks import Awaited, Tasks

Handler = Callable[[Awaited], Awaitable[None]]
JSON = Fields((("content-type", "application/json"),))
MAX_BYTES = 1 << 30


@dataclass
class WireReplica:
    """What it got, and its way to answer."""

    id: str
    handler: Handler
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("", "", ""))
    heads: list[RequestHead] = field(default_factory=list)
    bugs: list[Exception] = field(default_factory=list)
    tasks: Tasks | None = None
    listener: Listener | None = None

    def target(self) -> Target:
        return Target(self.id, self.endpoint)

    def begin(self, exchange, body) -> None:
        self.heads.append(exchange.head)
        self.tasks.run(exchange, body, self.handler)

    async def die(self) -> None:
        """Break every connection, as a killed process does."""
        await self.listener.stop(0.0)


def hasher(seen: list) -> Handler:
    """Reads the body and answers with its length; `seen` gets the bodies."""

    async def handle(request: Awaited) -> None:
        body = await request.body(MAX_BYTES, 1e12)
        seen.append(body)
        if request.head.is_h2:
            message = b"%d" % len(body)
            framed = b"\0" + len(message).to_bytes(4, "big") + message
            request.respond(200, (HEAD,), framed, (OK_TRAILERS,))
        else:
            request.respond(200, (JSON,), b"%d" % len(body))

    return handle


@asynccontextmanager
async def wire_replica(
    id: str, handler: Handler, settings: ServerWireSettings | None = None
) -> AsyncIterator[WireReplica]:
    """A running replica; it may have died by the end."""
    replica = WireReplica(id, handler)
    replica.tasks = Tasks(replica.bugs.append)
    replica.listener = Listener(replica, settings)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        replica.endpoint = Endpoint(address, address, address)
        await replica.listener.start(sock)
        try:
            yield replica
        finally:
            await replica.listener.stop(0.0)
            await replica.tasks.aclose()
    assert not replica.bugs
