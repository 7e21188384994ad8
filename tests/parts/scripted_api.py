"""An API server that is a handler of the test's own, and the way to it without credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from gateway.schedulers.kubernetes.access import Sockets


class PlainAccess:
    """Stands in for access.Access; counts how often it was renewed."""

    def __init__(self, host: str) -> None:
        self.host, self.namespace, self.renewed = host, "models", 0

    async def headers(self) -> dict[str, str]:
        return {"authorization": f"token-{self.renewed}"}

    async def renew(self) -> None:
        self.renewed += 1

    def session(self, connections: int, sockets: Sockets) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=connections, socket_factory=sockets)
        return aiohttp.ClientSession(self.host, connector=connector)


@asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """Its address, while it answers whatever is asked."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
