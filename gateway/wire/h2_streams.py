"""What both sides of a connection know of one stream: its windows, what waits in it, how it stands.

`ServerStream` and `ClientStream` inherit from it, against our habit: the alternative, a shared part
beside them, is one object more for every request.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from gateway.wire.exchange import Data
from gateway.wire.fields import Pairs

if TYPE_CHECKING:
    from gateway.wire.h2_core import Core

_SMALL_BYTES = 1024
"""Held pieces below this are put together: somebody who sends single bytes must not make us keep an
object for each."""

_PINNED_RATIO = 4
"""A held view into a read buffer that is so many times larger is copied: it pins the buffer."""


class Sink(Protocol):
    """The part of RequestSink and AnswerSink that bodies need."""

    def on_data(self, data: Data) -> None: ...
    def on_end(self, trailers: Pairs) -> None: ...
    def on_writable(self) -> None: ...


class Stream:
    """One stream. Its owner is the connection's `Core`, but for what the exchange's user calls."""

    __slots__ = (
        "core", "expected", "heard_at", "held", "id", "is_congested", "is_flowing",
        "is_local_done", "is_over", "is_paused", "is_remote_done", "moved_at", "owed", "queue",
        "queued", "received",
        "recv_window", "send_window", "tail", "trailers",
    )  # fmt: skip

    def __init__(self, core: Core, stream_id: int) -> None:
        self.core = core
        self.id = stream_id
        # Receiving.
        self.recv_window = core.stream_window
        self.owed = 0
        """Bytes that were handed over and not yet given back to the peer as window."""
        self.held: list[Data] | None = None
        """What came and may not be handed over yet."""
        self.received = 0
        self.expected: int | None = None
        """Content-Length."""
        self.trailers: Pairs = ()
        self.heard_at = 0.0
        """When the peer last sent something, while that is expected."""
        self.is_flowing = False
        """Whether pieces go straight to the sink."""
        self.is_paused = False
        self.is_remote_done = False
        # Sending.
        self.send_window = core.sender.initial_window
        self.queue: deque[memoryview] | None = None
        self.queued = 0
        self.tail: bytes | None = None
        """What ends our side once the queue is empty: a block of trailers, or b"" for none."""
        self.is_congested = False
        self.is_local_done = False
        self.moved_at = 0.0
        """When the peer last took something, while something waits for it."""
        self.is_over = False
        """Nothing happens on it any more."""

    def __repr__(self) -> str:
        state = "over" if self.is_over else f"in={self.is_remote_done} out={self.is_local_done}"
        return f"{type(self).__name__}({self.id}, {state}, queued={self.queued})"

    @property
    def body_sink(self) -> Sink | None:
        """Who takes the body."""
        raise NotImplementedError

    def lost(self, cause: str) -> None:
        """Tell the user that it broke. The connection has forgotten the stream already."""
        raise NotImplementedError

    # ---- receiving --------------------

    def take(self, piece: Data) -> None:
        """A piece of the body has come."""
        if not self.is_flowing:
            self._hold(piece)
            return
        self.heard_at = self.core.now
        sink = self.body_sink
        if sink is not None:
            sink.on_data(piece)
        self.core.credit(self, len(piece))

    def _hold(self, piece: Data) -> None:
        held = self.held
        size = len(piece)
        if held is None:
            self.held = [piece]
        elif size < _SMALL_BYTES:
            last = held[-1]
            if isinstance(last, bytearray) and len(last) < _SMALL_BYTES:
                last += piece
            else:
                held.append(bytearray(piece))
        elif isinstance(piece, memoryview) and size * _PINNED_RATIO < len(piece.obj):  # type: ignore[arg-type]
            held.append(bytes(piece))
        else:
            held.append(piece)

    def taken_whole(self) -> Data:
        """All that is held, as one, credited to the connection. (The stream needs no window: its
        other side is done.)"""
        held = self.held
        if held is None:
            return b""
        self.held = None
        self.core.owed += self.received
        return held[0] if len(held) == 1 else b"".join(held)

    def flow(self) -> None:
        """Hand over what is held; from now on pieces go straight to the sink, until it pauses."""
        while self.held and not self.is_paused and not self.is_over:
            held, self.held = self.held, None
            for at, piece in enumerate(held):
                if self.is_paused or self.is_over:
                    self.held = held[at:] + (self.held or [])
                    break
                self._hand_over(piece)
        if self.is_over:
            # Its user ended it while the rest was out of `held`, where `forget` looks.
            self.core.credit(self, self.drop_held())
            return
        if self.is_paused:
            return
        self.is_flowing = True
        self.heard_at = self.core.now
        if self.is_remote_done:
            self.ended()

    def _hand_over(self, piece: Data) -> None:
        sink = self.body_sink
        if sink is not None:
            sink.on_data(piece)
        self.core.credit(self, len(piece))

    def settle(self) -> None:
        """Tell the user what has happened in this wake-up."""
        raise NotImplementedError

    def begin(self) -> None:
        """Hand a request to the front."""
        raise NotImplementedError

    def ended(self) -> None:
        """The peer's side is done, and all of it was handed over."""
        raise NotImplementedError

    def local_done(self) -> None:
        """Our side is done, and all of it is out."""
        raise NotImplementedError

    def drop_held(self) -> int:
        """Throw away what is held; how many bytes that was."""
        held, self.held = self.held, None
        return sum([len(piece) for piece in held]) if held else 0

    # ---- the parts of ServerExchange and ClientExchange that are the same --------------------

    def pause(self) -> None:
        """See exchange.ServerExchange."""
        self.is_paused = True
        self.is_flowing = False

    def resume(self) -> None:
        """See exchange.ServerExchange."""
        if self.is_paused:
            self.is_paused = False
            self.core.later(self)
