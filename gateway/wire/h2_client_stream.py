"""A request on its way over HTTP/2: `exchange.ClientExchange`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.wire import h2_frames as h2
from gateway.wire.exchange import AnswerSink, Data, ResponseHead, WireError
from gateway.wire.h2_streams import Sink, Stream

if TYPE_CHECKING:
    from gateway.wire.h2_client_side import ClientSide

_NO_HEAD = -1
"""As the length of a body: DATA before the answer's head is always too much, or too little."""

_BAD_ANSWERS = frozenset(("protocol_error", "head_too_large", "continuation_flood"))


class ClientStream(Stream):
    """One request. It exists before it has a connection (`open`): until then what is written to it
    is kept here, up to `max_early_bytes` before it says that it is congested."""

    __slots__ = (
        "_block", "_body", "_early", "_early_bytes", "_has_ended", "_is_open", "_is_shown",
        "_max_early_bytes", "head", "is_head_request", "sink",
    )  # fmt: skip

    def __init__(
        self,
        sink: AnswerSink,
        block: bytes,
        body: Data | None,
        max_early_bytes: int,
        *,
        is_head_request: bool,
    ) -> None:
        # The rest of Stream's fields come with the connection.
        self.sink: AnswerSink | None = sink
        self._block = block
        self._body = body
        self._early: list[Data] | None = None
        self._early_bytes = 0
        self._max_early_bytes = max_early_bytes
        self._has_ended = body is not None
        self._is_open = False
        self._is_shown = False
        """Whether the sink knows the answer's head."""
        self.head: ResponseHead | None = None
        self.is_head_request = is_head_request
        self.is_congested = False
        self.is_paused = False
        self.is_over = False

    def __repr__(self) -> str:
        return Stream.__repr__(self) if self._is_open else "ClientStream(waiting)"

    @property
    def body_sink(self) -> Sink | None:
        """See Stream."""
        return self.sink

    def open(self, side: ClientSide, stream_id: int) -> None:
        """Send it over this connection."""
        was_congested, is_paused = self.is_congested, self.is_paused
        Stream.__init__(self, side.core, stream_id)
        self.expected = _NO_HEAD
        self.is_paused = is_paused
        self._is_open = True
        sender = side.core.sender
        if self._body is not None:
            sender.whole(self, self._block, self._body, None)
            self._body = None
            return
        sender.head(self, self._block)
        for piece in self._early or ():
            sender.data(self, piece)
        self._early = None
        if self._has_ended:
            sender.finish(self, None)
        elif was_congested:
            side.core.later(self)

    # ---- for the connection --------------------

    def settle(self) -> None:
        """Show what has come: all of it at once if all is here."""
        sink, head = self.sink, self.head
        assert sink is not None  # it is taken only from those that are over
        if head is None:
            if not self.is_congested:  # what had waited for the connection is on its way
                sink.on_writable()
        elif self._is_shown:
            if not self.is_flowing and not self.is_paused:
                self.flow()
        elif self.is_remote_done and not self.is_paused:
            body = self.taken_whole()
            self._close()
            sink.on_whole(head, body, self.trailers)
        else:
            self._is_shown = True
            sink.on_head(head)
            if not self.is_paused and not self.is_over:
                self.flow()

    def ended(self) -> None:
        """See Stream."""
        sink = self.sink
        self._close()
        if sink is not None:
            sink.on_end(self.trailers)

    def _close(self) -> None:
        """The answer is complete: whatever of the request was not sent yet is not needed."""
        self.sink = None
        if self.is_local_done:
            self.core.forget(self)
        else:
            self.core.reset(self, h2.NO_ERROR)

    def local_done(self) -> None:
        """See Stream. The answer is still to come."""

    def give_up_sending(self) -> None:
        """The server wants no more of the request. Its answer is here."""
        self._has_ended = self.is_local_done = True
        if self.queued:
            self.core.sender.drop(self)

    def lost(self, cause: str) -> None:
        """See Stream."""
        reason = "bad_answer" if cause in _BAD_ANSWERS else "reset"
        self.fail(WireError(reason, f"the connection broke: {cause}", sent=True))

    def fail(self, error: WireError) -> None:
        """Tell the sink that no answer will come. The connection has forgotten the stream."""
        sink, self.sink = self.sink, None
        self.is_over = True
        self._body = self._early = None
        if sink is not None:
            sink.on_failed(error)

    # ---- for whoever asked --------------------

    def write(self, data: Data) -> None:
        """See exchange.ClientExchange."""
        if self.is_over or self._has_ended:
            return
        if self._is_open:
            self.core.sender.data(self, data)
            return
        if self._early is None:
            self._early = []
        self._early.append(data)
        self._early_bytes += len(data)
        self.is_congested = self._early_bytes >= self._max_early_bytes

    def end(self) -> None:
        """See exchange.ClientExchange."""
        if self.is_over or self._has_ended:
            return
        self._has_ended = True
        if self._is_open:
            self.core.sender.finish(self, None)

    def cancel(self) -> None:
        """See exchange.ClientExchange."""
        self.sink = None
        if self.is_over:
            return
        if self._is_open:
            self.core.reset(self, h2.CANCEL)
        self.is_over = True
        self._body = self._early = None

    def resume(self) -> None:
        """See exchange.ClientExchange."""
        if self._is_open:
            Stream.resume(self)
        self.is_paused = False

    def pause(self) -> None:
        """See exchange.ClientExchange."""
        self.is_paused = True
        self.is_flowing = False
