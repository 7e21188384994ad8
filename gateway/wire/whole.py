"""A request whose whole answer is awaited: for what is asked now and then, and for translation.

Calls that pass through do not come here: they take their answers by callbacks, as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from gateway.domain.errors import UpstreamFailed
from gateway.wire.exchange import Client, Data, ResponseHead, WireError
from gateway.wire.fields import Fields, Pairs


class Whole(NamedTuple):
    """An answer."""

    head: ResponseHead
    body: bytes
    trailers: Pairs


async def whole(
    client: Client,
    address: str,
    method: str,
    path: str,
    fields: Sequence[Fields],
    body: Data,
    *,
    max_bytes: int,
    deadline_at: float | None,
) -> Whole:
    """Send a request and read all of its answer. `deadline_at` is the running loop's time;
    cancelling, like the deadline, cancels the request, which tells the server.

    Raises:
        WireError: no whole answer came; `bad_answer` where it has more than `max_bytes`.
        TimeoutError: the deadline.
    """
    sink = _Collected(asyncio.get_running_loop().create_future(), max_bytes)
    exchange = client.request(address, method, path, fields, body, sink)
    try:
        async with asyncio.timeout_at(deadline_at):
            return await sink.answer
    finally:
        if not sink.is_over:
            exchange.cancel()


class _Collected:
    """AnswerSink: holds what comes, up to a bound."""

    __slots__ = ("_head", "_max_bytes", "_pieces", "_size", "answer", "is_over")

    def __init__(self, answer: asyncio.Future[Whole], max_bytes: int) -> None:
        self.answer = answer
        self.is_over = False
        """Whether nothing more comes."""
        self._max_bytes = max_bytes
        self._head: ResponseHead | None = None
        self._pieces: list[Data] = []
        self._size = 0

    def on_whole(self, head: ResponseHead, body: Data, trailers: Pairs) -> None:
        self.is_over = True
        self._head = head
        if len(body) > self._max_bytes:
            self._refuse()
        elif not self.answer.done():
            self.answer.set_result(Whole(head, bytes(body), trailers))

    def on_head(self, head: ResponseHead) -> None:
        self._head = head
        if head.content_length is not None and head.content_length > self._max_bytes:
            self._refuse()

    def on_data(self, data: Data) -> None:
        self._size += len(data)
        if self._size > self._max_bytes:
            self._refuse()
        else:
            self._pieces.append(bytes(data))

    def on_end(self, trailers: Pairs) -> None:
        self.is_over = True
        if not self.answer.done() and self._head is not None:
            self.answer.set_result(Whole(self._head, b"".join(self._pieces), trailers))

    def on_failed(self, error: WireError) -> None:
        self.is_over = True
        if not self.answer.done():
            self.answer.set_exception(error)

    def on_writable(self) -> None: ...

    def _refuse(self) -> None:
        # Whoever awaits it cancels the request; until then what comes is dropped.
        self._pieces.clear()
        if not self.answer.done():
            said = f"the answer has more than {self._max_bytes} bytes"
            self.answer.set_exception(WireError("bad_answer", said, sent=True))


_WORDS = {
    "connect_refused": "The replica at {} cannot be reached: {}",
    "connect_timeout": "The replica at {} did not accept a connection in time: {}",
    "reset": "The connection to the replica at {} broke before its answer was complete: {}",
    "bad_answer": "The answer of the replica at {} cannot be taken: {}",
}


def upstream_failed(error: WireError, address: str) -> UpstreamFailed:
    """The same failure in the words of the gateway's own tree."""
    said = _WORDS.get(error.reason, "The call to the replica at {} failed: {}")
    return UpstreamFailed(said.format(address, error.message), reason=error.reason, sent=error.sent)
