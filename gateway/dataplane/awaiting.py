"""A request whose whole answer a coroutine awaits: a Caller without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.dataplane.callers import Kept
from gateway.dataplane.placing import placed
from gateway.domain.errors import GatewayError
from gateway.domain.names import Version
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.wire.fields import Pairs

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding


class Awaiting:
    """callers.Caller for `Dataplane.ask`."""

    is_direct = False
    is_complete = True
    can_repeat = True

    def __init__(self, pin: Callable[[Version], UpstreamRequest], fields: Pairs = ()) -> None:
        self._pin = pin
        self._fields = fields
        self._answer: asyncio.Future[UpstreamAnswer] = asyncio.get_running_loop().create_future()

    async def answer_of(self, forwarding: Forwarding) -> UpstreamAnswer:
        """Raises GatewayError: the request was refused, or every attempt broke."""
        forwarding.go()
        try:
            return await self._answer
        finally:
            forwarding.gone()

    def place(self, model: str, sticky: str) -> float | None:
        """See Caller."""
        return placed(self._fields, model, sticky).place

    def request(self, version: Version, timeout_s: float) -> UpstreamRequest:
        """See Caller. The upstream tells the deadline by itself."""
        return self._pin(version)

    def kept(self, version: Version) -> Kept:
        """See Caller."""
        request = self._pin(version)
        return Kept(len(request.body), lambda _: request)

    def collect(self) -> None:
        """See Caller. All is here."""

    def told(self, answer: UpstreamAnswer) -> None:
        """See Caller."""
        if not self._answer.done():
            self._answer.set_result(answer)

    def refused(self, error: GatewayError) -> None:
        """See Caller."""
        if not self._answer.done():
            self._answer.set_exception(error)
