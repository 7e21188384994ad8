"""One HTTP/2 connection without its socket: bytes in, calls to its side and bytes out (RFC 9113).

`Core` knows frames, windows, header blocks and what a peer may not do; its `Side` (server or
client) knows what a stream means. A core reads no clock: `now` is set from outside, at coarse
steps. What it has to say is in `sender.out`.

The loop in `receive` is what a request costs here; everything that seldom happens is elsewhere.
DATA is passed on as it comes; other frames are read when they are whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.wire import h2_frames as h2
from gateway.wire.h2_bounds import BlockBounds, Bucket, OpenBlock
from gateway.wire.h2_control import Control
from gateway.wire.h2_frames import FRAME_HEAD_BYTES, H2Error, unpack_head
from gateway.wire.h2_sending import Sender
from gateway.wire.h2_streams import Stream
from gateway.wire.hpack import BlockReader
from gateway.wire.settings import ClientWireSettings, ServerWireSettings

_COPY_BYTES = 1 << 14
"""Pieces of bodies below this are copied out of the read buffer, larger ones are views into it."""

_GATHER_BYTES = 1 << 15
"""DATA frames up to this size are joined with their neighbours. Most callers send 16 KiB, the least
that everybody takes."""

_MAX_RECENT = 1024
"""Streams that we reset and whose frames may still be on their way."""


class Side(Protocol):
    """What `Core` asks of the server's or the client's half."""

    def on_block(self, stream_id: int, block: bytes, ends: bool) -> None:
        """A complete header block: a new request, an answer, trailers."""
        ...

    def is_unopened(self, stream_id: int) -> bool:
        """Whether no stream of that number has been yet."""
        ...

    def on_reset(self, stream: Stream, code: int) -> None:
        """The peer reset it: `Core.forget` it, unless it is complete all the same."""
        ...

    def on_closed(self) -> None:
        """A stream is out of `Core.streams`."""
        ...

    def refused(self, cause: str) -> None:
        """A stream was refused or broken off because of what the peer did: one of
        `settings.CAUSES`."""
        ...

    def on_goaway(self, last_stream_id: int, code: int) -> None: ...

    def on_pong(self, opaque: bytes) -> None: ...

    def on_max_streams(self, limit: int) -> None: ...


class Core:
    """The part of a connection that both sides share."""

    __slots__ = (
        "_block", "_bounds", "_control", "_ends", "_greeting", "_left", "_max_frame_bytes",
        "_max_other_bytes", "_pad",
        "_rest", "_target", "_window_high", "blocks", "controls", "fresh", "heard",
        "max_unsent_bytes", "now", "owed", "postponed", "recent", "recv_window", "resets", "sender",
        "side", "stream_window", "streams",
    )  # fmt: skip

    def __init__(
        self,
        side: Side,
        settings: ServerWireSettings | ClientWireSettings,
        wake: Callable[[], None],
        *,
        greeting: bytes,
    ) -> None:
        self.side = side
        self.now = 0.0
        self.heard = False
        """Whether anything has come since somebody set this to False."""
        self.sender = Sender(settings.write_high_bytes, wake)
        self.blocks = BlockReader(settings.max_head_bytes)
        self.streams: dict[int, Stream] = {}
        self.fresh: list[Stream] = []
        """Streams that something happened on, to be settled at the end of the wake-up."""
        self.postponed: dict[Stream, None] = {}
        """Requests that are not begun before fewer bytes of answers wait, in turn."""
        self.max_unsent_bytes = 0
        """How many may. The server's half sets it."""
        self.recent: dict[int, None] = {}
        # A peer may use the protocol's own windows until it has read our settings.
        self.stream_window = max(h2.INITIAL_WINDOW_BYTES, settings.stream_window_bytes)
        self.recv_window = max(h2.INITIAL_WINDOW_BYTES, settings.connection_window_bytes)
        self._window_high = self.recv_window // 2
        self.owed = 0
        """Bytes of bodies that are done with and not yet given back to the peer as window."""
        self.controls = Bucket(settings.control_burst, settings.control_per_s)
        self.resets = Bucket(settings.reset_burst, settings.reset_per_s)
        self._max_frame_bytes = max(h2.LEAST_MAX_FRAME_BYTES, settings.max_frame_bytes)
        # Other frames are collected whole, and nobody needs a larger one: a head has its own bound.
        self._max_other_bytes = max(h2.LEAST_MAX_FRAME_BYTES, settings.max_head_bytes)
        self._bounds = BlockBounds(settings.max_head_bytes * 2, settings.max_continuations)
        self._control = Control(self)
        self._greeting: bytes | None = greeting
        """What the peer must begin with; None once it has."""
        self._rest = b""
        # The DATA frame that is being read: how much of its body and padding is to come.
        self._left = 0
        self._pad = 0
        self._target: Stream | None = None
        self._ends = False
        self._block: OpenBlock | None = None

    def greet(self, values: dict[int, int], preface: bytes = b"") -> None:
        """Say what we take. First of all."""
        values[h2.INITIAL_WINDOW_SIZE] = self.stream_window
        values[h2.MAX_FRAME_SIZE] = self._max_frame_bytes
        hello = preface + h2.settings_frame(values)
        more = self.recv_window - h2.INITIAL_WINDOW_BYTES
        self.sender.control(hello + h2.window_update(0, more) if more else hello)

    @property
    def is_greeted(self) -> bool:
        """Whether the peer has begun as HTTP/2 does."""
        return self._greeting is None

    @property
    def is_reading_head(self) -> bool:
        """Whether the preface or a header block has begun and is not complete."""
        return self._greeting is not None or self._block is not None or bool(self._rest)

    # ---- reading --------------------

    def receive(self, data: bytes) -> None:
        """Take what came from the peer.

        Raises:
            H2Error: the connection is at its end: say why (GOAWAY) and close it.
        """
        self.heard = True
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end = 0, len(data)
        if self._greeting is not None:
            at = self._greeted(data)
        elif self._left or self._pad:
            at = self._body(data, 0)
        while end - at >= FRAME_HEAD_BYTES:
            high, low, kind, flags, stream_id = unpack_head(data, at)
            length = high << 8 | low
            if length > self._max_frame_bytes:
                raise H2Error(h2.FRAME_SIZE_ERROR, "a frame is larger than we take")
            stream_id &= h2.MAX_STREAM_ID
            if self._block is not None and kind != h2.CONTINUATION:
                raise H2Error(h2.PROTOCOL_ERROR, "a header block is interrupted")
            start = at + FRAME_HEAD_BYTES
            if kind == h2.DATA:
                if flags & h2.PADDED and length and start == end:
                    break  # how much padding there is has not come yet
                at = self._data(data, start, length, flags, stream_id)
                continue
            if length > self._max_other_bytes:
                raise H2Error(h2.FRAME_SIZE_ERROR, "only DATA may be as large")
            stop = start + length
            if stop > end:
                break
            if kind == h2.HEADERS:
                block = data[start:stop]
                if flags & (h2.PADDED | h2.HAS_PRIORITY):
                    block = h2.unpadded(block, flags, stream_id)
                if flags & h2.END_HEADERS:
                    self.side.on_block(stream_id, block, bool(flags & h2.END_STREAM))
                else:
                    self._block = OpenBlock(stream_id, flags, block, self._bounds)
            else:
                self._seldom(kind, flags, stream_id, data[start:stop])
            at = stop
        if at < end:
            self._rest = data[at:]
        self._give_back()

    def _seldom(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Any frame but DATA and a whole HEADERS."""
        if kind != h2.CONTINUATION:
            self._control.receive(kind, flags, stream_id, payload)
            return
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise H2Error(h2.PROTOCOL_ERROR, "CONTINUATION of nothing")
        if not payload:
            self.charge_control()
        block.add(payload)
        if flags & h2.END_HEADERS:
            self._block = None
            self.side.on_block(stream_id, block.whole, block.ends)

    def _greeted(self, data: bytes) -> int:
        """Check what a peer must begin with: the preface (if it is a client), then SETTINGS."""
        greeting = self._greeting or b""
        size = len(greeting)
        if data[:size] != greeting[: len(data)]:
            raise H2Error(h2.PROTOCOL_ERROR, "it does not begin as HTTP/2 does")
        if len(data) < size + FRAME_HEAD_BYTES:
            if len(data) > size + 3 and data[size + 3] != h2.SETTINGS:
                raise H2Error(h2.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            # Too short for the loop to take anything of it.
            self._rest = data
            return len(data)
        _, _, kind, flags, _ = unpack_head(data, size)
        if kind != h2.SETTINGS or flags & h2.ACK:
            raise H2Error(h2.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._greeting = None
        return size

    # ---- DATA --------------------

    def _data(self, data: bytes, at: int, length: int, flags: int, stream_id: int) -> int:
        """A DATA frame begins; `at` is behind its head. Where the next one begins, or the end."""
        pad = 0
        if flags & h2.PADDED:
            if not length:
                raise H2Error(h2.FRAME_SIZE_ERROR, "DATA is too short for its padding's length")
            pad = data[at]
            at += 1
        size = length - pad - (1 if flags & h2.PADDED else 0)
        if size < 0:
            raise H2Error(h2.PROTOCOL_ERROR, "there is more padding than payload")
        self.recv_window -= length
        if self.recv_window < 0:
            raise H2Error(h2.FLOW_CONTROL_ERROR, "more than the connection's window")
        stream = self.streams.get(stream_id)
        if stream is None or stream.is_remote_done:
            self._stray_data(stream_id, stream)
            stream = None
        else:
            stream.recv_window -= length
            stream.received += size
            if stream.recv_window < 0:
                self.break_off(stream, h2.FLOW_CONTROL_ERROR, "protocol_error")
                stream = None
            elif stream.expected is not None and stream.received > stream.expected:
                self.break_off(stream, h2.PROTOCOL_ERROR, "protocol_error")
                stream = None
            elif length != size:
                self.credit(stream, length - size)
        if stream is None:
            self.owed += length - size
        if not size and not flags & h2.END_STREAM:
            self.charge_control()
        self._left, self._pad = size, pad
        self._target = stream
        self._ends = bool(flags & h2.END_STREAM)
        return self._body(data, at)

    def _body(self, data: bytes, at: int) -> int:
        """What is here of the DATA frame that is being read."""
        size = min(self._left, len(data) - at)
        stream = self._target
        if stream is not None and stream.is_over:
            stream = None
        if size:
            self._left -= size
            if stream is None:
                self.owed += size
                at += size
            elif self._left or self._pad or self._ends or size > _GATHER_BYTES:
                piece = (
                    data[at : at + size] if size < _COPY_BYTES else memoryview(data)[at : at + size]
                )
                stream.take(piece)
                at += size
            else:
                at = self._gather(data, at, size, stream)
        if self._left:
            return at
        if self._pad:
            size = min(self._pad, len(data) - at)
            self._pad -= size
            at += size
            if self._pad:
                return at
        self._target = None
        if self._ends and stream is not None and not stream.is_over:
            self.remote_done(stream)
        return at

    def _gather(self, data: bytes, at: int, size: int, stream: Stream) -> int:
        """Hand over a whole DATA frame's payload together with those of the stream's frames that
        follow at once: each piece costs its users many times what copying it costs. A frame with
        anything particular about it is left to the ordinary way."""
        view, end, stream_id = memoryview(data), len(data), stream.id
        pieces = [view[at : at + size]]
        at += size
        while end - at > FRAME_HEAD_BYTES and not self._ends:
            high, low, kind, flags, number = unpack_head(data, at)
            length = high << 8 | low
            start = at + FRAME_HEAD_BYTES
            if (
                kind != h2.DATA
                or number != stream_id
                or flags & ~h2.END_STREAM
                or not length
                or length > _GATHER_BYTES
                or start + length > end
                or length > self.recv_window
                or length > stream.recv_window
                or (stream.expected is not None and stream.received + length > stream.expected)
            ):
                break
            self.recv_window -= length
            stream.recv_window -= length
            stream.received += length
            self._ends = bool(flags & h2.END_STREAM)
            pieces.append(view[start : start + length])
            at = start + length
        if len(pieces) > 1:
            stream.take(b"".join(pieces))
        else:
            stream.take(bytes(pieces[0]) if size < _COPY_BYTES else pieces[0])
        return at

    def remote_done(self, stream: Stream) -> None:
        """END_STREAM has come."""
        if stream.expected is not None and stream.received != stream.expected:
            self.break_off(stream, h2.PROTOCOL_ERROR, "protocol_error")
            return
        stream.is_remote_done = True
        if stream.is_flowing:
            stream.ended()

    def _stray_data(self, stream_id: int, stream: Stream | None) -> None:
        if stream is not None:
            self.break_off(stream, h2.STREAM_CLOSED, "protocol_error")
        elif not stream_id or self.side.is_unopened(stream_id):
            raise H2Error(h2.PROTOCOL_ERROR, "DATA on a stream that was not opened")
        elif stream_id not in self.recent:
            self.refuse(stream_id, h2.STREAM_CLOSED)

    # ---- windows --------------------

    def credit(self, stream: Stream, size: int) -> None:
        """So much of a body is done with: the peer may send more. Told by halves of a window."""
        self.owed += size
        self._give_back()
        if stream.is_remote_done:
            return
        stream.owed += size
        if stream.owed * 2 >= self.stream_window and not stream.is_over:
            stream.recv_window += stream.owed
            self.sender.control(h2.window_update(stream.id, stream.owed))
            stream.owed = 0

    def _give_back(self) -> None:
        if self.owed >= self._window_high:
            self.recv_window += self.owed
            self.sender.control(h2.window_update(0, self.owed))
            self.owed = 0

    # ---- the life of streams --------------------

    def later(self, stream: Stream) -> None:
        """Have a stream settled at the end of this wake-up, or in one of its own."""
        self.fresh.append(stream)
        self.sender.wake()

    def settle(self) -> None:
        """Tell the users of streams what has happened on them."""
        while self.fresh:
            fresh, self.fresh = self.fresh, []
            for stream in fresh:
                if not stream.is_over:
                    stream.settle()
        # What was handed over whole here is owed as well, and the peer may have nothing to send
        # that would make us look again.
        self._give_back()

    @property
    def is_overfull(self) -> bool:
        """Whether so much of answers waits that no further request is to be begun."""
        return self.sender.queued >= self.max_unsent_bytes

    def begin_postponed(self) -> None:
        """Begin what was postponed, as far as there is room."""
        postponed = self.postponed
        while postponed and not self.is_overfull:
            stream = next(iter(postponed))
            del postponed[stream]
            stream.begin()

    def forget(self, stream: Stream) -> None:
        """It is over; what it held goes back to the peer as window."""
        stream.is_over = True
        stream.is_flowing = False
        self.streams.pop(stream.id, None)
        if self.postponed:
            self.postponed.pop(stream, None)
        if stream.queued:
            self.sender.drop(stream)
        if stream.held:
            self.owed += stream.drop_held()
            self._give_back()
        self.side.on_closed()

    def reset(self, stream: Stream, code: int) -> None:
        """End it with RST_STREAM, by our own choice."""
        self.forget(stream)
        self.remember(stream.id)
        self.sender.control(h2.rst_stream(stream.id, code))

    def break_off(self, stream: Stream, code: int, cause: str) -> None:
        """End it with RST_STREAM because the peer broke a rule or a bound on it. Counts as a reset
        of the peer's: it could make us reset as fast as it can (CVE-2025-8671)."""
        self.side.refused(cause)
        self.reset(stream, code)
        stream.lost(cause)
        self.charge_reset()

    def refuse(self, stream_id: int, code: int, cause: str = "protocol_error") -> None:
        """RST_STREAM for a stream that we know nothing of."""
        self.side.refused(cause)
        self.remember(stream_id)
        self.sender.control(h2.rst_stream(stream_id, code))
        self.charge_reset()

    def remember(self, stream_id: int) -> None:
        """Frames of this stream that are still on their way are no mistake."""
        self.recent[stream_id] = None
        if len(self.recent) > _MAX_RECENT:
            del self.recent[next(iter(self.recent))]

    def charge_reset(self) -> None:
        """Raises:
        H2Error: the peer reset streams, or made us do so, too often.
        """
        self.resets.left -= 1.0
        if self.resets.left < 0:
            raise H2Error(h2.ENHANCE_YOUR_CALM, "too many resets", "reset_flood")

    def charge_control(self, cost: float = 1.0) -> None:
        """Raises:
        H2Error: the peer sent frames that carry nothing too often.
        """
        self.controls.left -= cost
        if self.controls.left < 0:
            raise H2Error(h2.ENHANCE_YOUR_CALM, "too many control frames", "control_flood")

    def lose_all(self, cause: str) -> None:
        """The connection is gone: tell every stream."""
        streams = list(self.streams.values())
        self.fresh.clear()
        for stream in streams:
            self.forget(stream)
        for stream in streams:
            stream.lost(cause)
