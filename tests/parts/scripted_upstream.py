"""An Upstream whose answers are scripted per replica address. No sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.domain.errors import UpstreamFailed
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamAnswer, UpstreamRequest

OK = UpstreamAnswer(200, b"ok")
REFUSED = UpstreamFailed("refused", reason="connect_refused", sent=False)
RESET = UpstreamFailed("reset", reason="reset", sent=True)


class ScriptedUpstream:
    """`says(address)` gives an answer, an error to raise, or None to never answer."""

    def __init__(self, says: Callable[[str], UpstreamAnswer | UpstreamFailed | None]) -> None:
        self.says = says
        self.asked: list[str] = []
        self.kept: list[str] = []

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        self.asked.append(endpoint.http)
        await asyncio.sleep(0)
        said = self.says(endpoint.http)
        if said is None:
            await asyncio.Event().wait()
        if isinstance(said, UpstreamFailed):
            raise UpstreamFailed(said.message, reason=said.reason, sent=said.sent)
        assert said is not None
        return said

    def keep(self, endpoints) -> None:
        self.kept = [e.http for e in endpoints]

    async def aclose(self) -> None:
        return None
