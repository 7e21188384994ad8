"""A wire Client without connections: a test plays the servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.wire.exchange import AnswerSink, Data
from gateway.wire.fields import Fields, Pairs
from tests.parts.scripted_exchange import pairs


class Asked:
    """One request, and the ClientExchange that was given for it."""

    is_congested = False

    def __init__(
        self, address: str, method: str, path: str, fields: Pairs, body: bytes | None, sink
    ) -> None:
        self.address = address
        self.method = method
        self.path = path
        self.fields = fields
        self.body = body
        self.sink: AnswerSink = sink
        self.is_cancelled = False

    def write(self, data: Data) -> None:
        self.body = (self.body or b"") + bytes(data)

    def end(self) -> None: ...

    def cancel(self) -> None:
        self.is_cancelled = True

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class ScriptedClient:
    """`on_request` is called with each request a moment after it was made, if it is set."""

    def __init__(self, on_request: Callable[[Asked], None] | None = None) -> None:
        self.on_request = on_request
        self.asked: list[Asked] = []
        self.kept: set[str] | None = None

    def request(
        self,
        address: str,
        method: str,
        path: str,
        fields: Sequence[Fields],
        body: Data | None,
        sink: AnswerSink,
        *,
        length: int | None = None,
    ) -> Asked:
        given = None if body is None else bytes(body)
        asked = Asked(address, method, path, pairs(fields), given, sink)
        self.asked.append(asked)
        if self.on_request is not None:
            asyncio.get_running_loop().call_soon(self.on_request, asked)
        return asked

    def drop(self, address: str) -> None:
        self.kept.discard(address)

    def keep(self, addresses: set[str]) -> None:
        self.kept = addresses

    async def aclose(self) -> None:
        self.kept = set()
