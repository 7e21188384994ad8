"""A ServerExchange without a connection: a test plays the caller, and looks at the answer."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.wire.exchange import Data, RequestHead, RequestSink
from gateway.wire.fields import Fields, Pairs


def pairs(fields: Sequence[Fields] | None) -> Pairs:
    """All of them, in order."""
    return tuple(pair for one in fields or () for pair in one.pairs)


class ScriptedExchange:
    """Remembers the answer. `deeds` are what was asked of it beside answering."""

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.peer = "192.0.2.1:4711"
        self.sink: RequestSink | None = None
        self.is_congested = False
        self.deeds: list[str] = []
        self.status: int | None = None
        self.fields: Pairs = ()
        self.written: list[bytes] = []
        self.trailers: Pairs | None = None
        self.is_complete = False
        self.is_aborted = False

    @property
    def body(self) -> bytes:
        return b"".join(self.written)

    def accept_body(self) -> None:
        self.deeds.append("accept")

    def pause(self) -> None:
        self.deeds.append("pause")

    def resume(self) -> None:
        self.deeds.append("resume")

    def respond(
        self,
        status: int,
        fields: Sequence[Fields],
        body: Data,
        trailers: Sequence[Fields] | None = None,
    ) -> None:
        self.start(status, fields, len(body))
        if body:
            self.write(body)
        self.end(trailers)

    def start(self, status: int, fields: Sequence[Fields], length: int | None) -> None:
        assert self.status is None, "answered twice"
        self.status = status
        self.fields = pairs(fields)

    def write(self, data: Data) -> None:
        assert self.status is not None
        assert not self.is_complete
        self.written.append(bytes(data))

    def end(self, trailers: Sequence[Fields] | None = None) -> None:
        assert self.status is not None
        assert not self.is_complete
        self.is_complete = True
        self.trailers = None if trailers is None else pairs(trailers)

    def abort(self, is_overload: bool = False) -> None:
        self.is_aborted = True
