"""A request that came over HTTP/2: `exchange.ServerExchange`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.wire import h2_frames as h2
from gateway.wire.exchange import Data, RequestHead, RequestSink
from gateway.wire.fields import Fields, hpack_field
from gateway.wire.h2_streams import Sink, Stream

if TYPE_CHECKING:
    from gateway.wire.h2_server_side import ServerSide

_STATUS = {status: hpack_field(":status", str(status)) for status in range(100, 600)}
_CONTINUE = _STATUS[100]


class ServerStream(Stream):
    """One request and the way to answer it."""

    __slots__ = (
        "has_begun", "head", "is_accepted", "is_bodyless", "is_complete", "is_started", "side",
        "sink",
    )  # fmt: skip

    def __init__(self, side: ServerSide, stream_id: int, head: RequestHead) -> None:
        Stream.__init__(self, side.core, stream_id)
        self.side = side
        self.head = head
        self.expected = head.content_length
        self.sink: RequestSink | None = None
        self.has_begun = False
        """Whether the front has been told."""
        self.is_accepted = False
        self.is_started = False
        """Whether the answer's head is out."""
        self.is_bodyless = False
        self.is_complete = False
        """Whether the sink has been told that the body is."""

    @property
    def peer(self) -> str:
        """See exchange.ServerExchange."""
        return self.side.peer

    @property
    def body_sink(self) -> Sink | None:
        """See Stream."""
        return self.sink

    def settle(self) -> None:
        """Begin it, or go on with its body."""
        if not self.has_begun:
            core = self.core
            if core.sender.queued and (core.postponed or core.is_overfull):
                core.postponed[self] = None
            else:
                self.begin()
        elif self.is_accepted and not self.is_flowing and not self.is_paused:
            self.flow()

    def begin(self) -> None:
        """See Stream."""
        self.has_begun = True
        is_whole = self.is_remote_done and not self.trailers
        self.side.begin(self, self.taken_whole() if is_whole else None)

    def ended(self) -> None:
        """See Stream."""
        self.is_flowing = False
        if not self.is_complete:
            self.is_complete = True
            if self.sink is not None:
                self.sink.on_end(self.trailers)

    def lost(self, cause: str) -> None:
        """See Stream."""
        if self.has_begun and self.sink is not None:
            self.sink.on_gone(cause)

    def local_done(self) -> None:
        """All of the answer is out. A request that is not complete is not wanted any more."""
        if self.is_over:
            return
        if self.is_remote_done:
            self.core.resets.left += 1.0
            self.core.forget(self)
        else:
            self.core.reset(self, h2.NO_ERROR)

    # ---- for the front --------------------

    def accept_body(self) -> None:
        """See exchange.ServerExchange."""
        if self.is_accepted or self.is_over:
            return
        self.is_accepted = True
        if self.head.expects_continue and not self.received and not self.is_started:
            self.core.sender.head(self, _CONTINUE)
        self.core.later(self)

    def respond(
        self,
        status: int,
        fields: Sequence[Fields],
        body: Data,
        trailers: Sequence[Fields] | None = None,
    ) -> None:
        """See exchange.ServerExchange."""
        if self.is_over or self.is_started:
            return
        self.is_started = True
        block = _STATUS[status] + b"".join([f.h2 for f in fields]) + self.side.date()
        tail = None
        if trailers is not None:
            tail = b"".join([f.h2 for f in trailers]) or None
        elif len(body):
            block += _content_length(len(body))
        self.core.sender.whole(self, block, b"" if self.head.method == "HEAD" else body, tail)
        if self.is_local_done:
            self.local_done()

    def start(self, status: int, fields: Sequence[Fields], length: int | None) -> None:
        """See exchange.ServerExchange."""
        if self.is_over or self.is_started:
            return
        self.is_started = True
        self.is_bodyless = self.head.method == "HEAD"
        block = _STATUS[status] + b"".join([f.h2 for f in fields]) + self.side.date()
        if length is not None:
            block += _content_length(length)
        self.core.sender.head(self, block)

    def write(self, data: Data) -> None:
        """See exchange.ServerExchange."""
        if not self.is_over and not self.is_bodyless and self.tail is None:
            self.core.sender.data(self, data)

    def end(self, trailers: Sequence[Fields] | None = None) -> None:
        """See exchange.ServerExchange."""
        if self.is_over or self.tail is not None:
            return
        tail = b"".join([f.h2 for f in trailers]) if trailers else None
        self.core.sender.finish(self, tail)
        if self.is_local_done:
            self.local_done()

    def abort(self, is_overload: bool = False) -> None:
        """See exchange.ServerExchange."""
        if not self.is_over:
            self.core.reset(self, h2.ENHANCE_YOUR_CALM if is_overload else h2.INTERNAL_ERROR)


def _content_length(size: int) -> bytes:
    """hpack_field("content-length", size), which is asked for with every answer."""
    digits = b"%d" % size
    return b"\x0f\x0d" + bytes((len(digits),)) + digits
