"""What goes out on one connection, in frames, within the peer's windows and our own bounds.

`out` collects all frames of a wake-up; the protocol class writes them at once. Bodies that do not
fit wait in their stream and are cut into frames turn by turn, so that a large one does not hold up
the small ones. Views are cut, nothing is copied. Control frames and heads never wait here; how much
of those may pile up in front of a peer that does not read is the protocol class' to bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from gateway.wire.exchange import Data
from gateway.wire.h2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    HEADERS,
    INITIAL_WINDOW_BYTES,
    LEAST_MAX_FRAME_BYTES,
    MAX_WINDOW_BYTES,
    H2Error,
    pack_head,
)
from gateway.wire.h2_streams import Stream

TABLE_BYTES = 4096
"""The HPACK table that every encoder starts with."""

_MAX_FRAME_BYTES = 1 << 18
"""Longest frame we send, if the peer takes such. One goes to the transport whole, so this is how
far beyond its bound the transport's buffer may be filled."""

_PIECE_OVERHEAD_BYTES = 128
"""What a waiting piece counts beside its bytes: many small ones are memory too."""

UPDATES = 2
_UPDATE_SHIFT = 12
_MAX_UPDATES = 20_000
"""How many WINDOW_UPDATE frames a request or a DATA frame accounts for: two, and one for each 4 KiB
of DATA (some peers give back what they read by the piece; gRPC's core widens each call's window
when it begins to read, even where no DATA comes). And how many a peer may save up."""


class Sender:
    """The outgoing half of a connection."""

    __slots__ = (
        "_high_bytes", "_low_bytes", "_table_bytes", "_wake", "body_bytes", "initial_window",
        "is_awake", "is_paused", "max_frame", "out", "owes_resize", "queued", "ready",
        "updates_due", "window",
    )  # fmt: skip

    def __init__(self, high_bytes: int, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._high_bytes = high_bytes
        self._low_bytes = high_bytes // 4
        self.is_awake = False
        """Whether a flush is under way or announced."""
        self.is_paused = False
        """The transport's buffer is full."""
        self.out: list[Data] = []
        self.body_bytes = 0
        """Bytes of bodies that are in `out`: bounded, so that the transport can say that it is full
        before there is more."""
        self.queued = 0
        self.ready: dict[Stream, None] = {}
        """Streams with something queued and a window, in turn."""
        self.window = INITIAL_WINDOW_BYTES
        self.initial_window = INITIAL_WINDOW_BYTES
        self.max_frame = LEAST_MAX_FRAME_BYTES
        self._table_bytes = TABLE_BYTES
        self.owes_resize = False
        """The peer wants a smaller HPACK table than the protocol's: say that ours is empty."""
        self.updates_due = 0
        """WINDOW_UPDATE frames that what we sent or took accounts for."""

    def control(self, frame: bytes) -> None:
        """Send a frame as it is."""
        self.out.append(frame)
        if not self.is_awake:
            self.wake()

    def wake(self) -> None:
        """Have `out` written soon."""
        if not self.is_awake:
            self.is_awake = True
            self._wake()

    def limit_frames(self, size: int) -> None:
        """SETTINGS_MAX_FRAME_SIZE."""
        self.max_frame = min(size, _MAX_FRAME_BYTES)

    def limit_table(self, size: int) -> None:
        """SETTINGS_HEADER_TABLE_SIZE. We keep nothing in the table, yet a smaller one has to be
        acknowledged in the next block (RFC 7541 section 4.2): with 0, once and for all."""
        if size < self._table_bytes:
            self._table_bytes = 0
            self.owes_resize = True

    # ---- messages --------------------

    def whole(self, stream: Stream, block: bytes, body: Data, tail: bytes | None) -> None:
        """A head, its body and its trailers (`tail`, an HPACK block; None for none), the end of our
        side. In one go if windows allow."""
        size = len(body)
        if (
            size > self.window
            or size > stream.send_window
            or size > self.max_frame
            or len(block) > LEAST_MAX_FRAME_BYTES
            or (tail is not None and len(tail) > LEAST_MAX_FRAME_BYTES)
            or self.ready
            or self.is_paused
            or self.body_bytes >= self._high_bytes
            or self.owes_resize
        ):
            self._whole_slowly(stream, block, body, tail)
            return
        stream_id, length = stream.id, len(block)
        add = self.out.append
        ends = END_STREAM if tail is None else 0
        flags = END_HEADERS if size else END_HEADERS | ends
        add(pack_head(length >> 8, length & 0xFF, HEADERS, flags, stream_id))
        add(block)
        if size:
            self.window -= size
            self.body_bytes += size
            self.updates_due += UPDATES + (size >> _UPDATE_SHIFT)
            add(pack_head(size >> 8, size & 0xFF, DATA, ends, stream_id))
            add(body)
        if tail is not None:
            length = len(tail)
            flags = END_HEADERS | END_STREAM
            add(pack_head(length >> 8, length & 0xFF, HEADERS, flags, stream_id))
            add(tail)
        if not self.is_awake:
            self.wake()
        stream.is_local_done = True

    def _whole_slowly(self, stream: Stream, block: bytes, body: Data, tail: bytes | None) -> None:
        ends = not len(body) and tail is None
        self.head(stream, block, ends=ends)
        if ends:
            stream.is_local_done = True
        else:
            self.data(stream, body)
            self.finish(stream, tail)

    def head(self, stream: Stream, block: bytes, *, ends: bool = False) -> None:
        """HEADERS, and CONTINUATION where the block is long."""
        if self.owes_resize:
            self.owes_resize = False
            block = b"\x20" + block
        first, rest = block[: self.max_frame], block[self.max_frame :]
        flags = (END_STREAM if ends else 0) | (0 if rest else END_HEADERS)
        add = self.out.append
        add(pack_head(len(first) >> 8, len(first) & 0xFF, HEADERS, flags, stream.id))
        add(first)
        while rest:
            first, rest = rest[: self.max_frame], rest[self.max_frame :]
            flags = 0 if rest else END_HEADERS
            add(pack_head(len(first) >> 8, len(first) & 0xFF, CONTINUATION, flags, stream.id))
            add(first)
        self.wake()

    def data(self, stream: Stream, data: Data) -> None:
        """A piece of a body: now if it fits, else when its turn comes."""
        size = len(data)
        if not size:
            return
        if (
            not stream.queued
            and not self.ready
            and not self.is_paused
            and self.body_bytes < self._high_bytes
            and size <= self.window
            and size <= stream.send_window
            and size <= self.max_frame
        ):
            self.out.append(pack_head(size >> 8, size & 0xFF, DATA, 0, stream.id))
            self.out.append(data)
            self._sent(stream, size)
            self.wake()
            return
        if stream.queue is None:
            stream.queue = deque()
        if not stream.queued:
            stream.moved_at = stream.core.now
        stream.queue.append(memoryview(data))
        stream.queued += size + _PIECE_OVERHEAD_BYTES
        self.queued += size + _PIECE_OVERHEAD_BYTES
        # One that had nothing waiting is stopped only where its own is too much or all is.
        stream.is_congested = max(stream.queued, self.queued) >= self._high_bytes
        if stream.send_window > 0:
            self.ready[stream] = None
            self.wake()

    def finish(self, stream: Stream, tail: bytes | None) -> None:
        """End our side, once all that is queued has gone."""
        stream.tail = tail or b""
        if not stream.queued:
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        stream.is_local_done = True
        if stream.tail:
            self.head(stream, stream.tail, ends=True)
        else:
            self.control(pack_head(0, 0, DATA, END_STREAM, stream.id))

    def _sent(self, stream: Stream, size: int) -> None:
        self.window -= size
        stream.send_window -= size
        self.body_bytes += size
        self.updates_due += UPDATES + (size >> _UPDATE_SHIFT)

    # ---- turn by turn --------------------

    def pump(self) -> list[Stream]:
        """Cut queued bodies into frames while windows and the transport allow. The streams whose
        side of ours that has ended."""
        done: list[Stream] = []
        ready = self.ready
        while ready and self.window > 0 and not self.is_paused:
            if self.body_bytes >= self._high_bytes:
                break
            stream = next(iter(ready))
            del ready[stream]
            self._one_frame(stream)
            if stream.queued:
                if stream.send_window > 0:
                    ready[stream] = None
            elif stream.tail is not None:
                if not stream.is_local_done:
                    self._finish(stream)
                done.append(stream)
            if stream.is_congested and stream.queued <= self._low_bytes:
                stream.is_congested = False
                sink = stream.body_sink
                if sink is not None and not stream.is_over and stream.tail is None:
                    sink.on_writable()
        return done

    def _one_frame(self, stream: Stream) -> None:
        queue = stream.queue
        assert queue is not None  # `ready` holds only streams with something queued
        left = room = min(self.max_frame, self.window, stream.send_window)
        parts: list[Data] = []
        overhead = 0
        while queue and left:
            piece = queue[0]
            if len(piece) <= left:
                parts.append(queue.popleft())
                left -= len(piece)
                overhead += _PIECE_OVERHEAD_BYTES
            else:
                parts.append(piece[:left])
                queue[0] = piece[left:]
                left = 0
        size = room - left
        flags = 0
        if not queue and stream.tail == b"":
            flags = END_STREAM
            stream.is_local_done = True
        self.out.append(pack_head(size >> 8, size & 0xFF, DATA, flags, stream.id))
        self.out.extend(parts)
        stream.queued -= size + overhead
        self.queued -= size + overhead
        stream.moved_at = stream.core.now
        self._sent(stream, size)

    def drop(self, stream: Stream) -> None:
        """Forget what a stream has queued. Wakes: requests may have been postponed for it."""
        self.ready.pop(stream, None)
        self.queued -= stream.queued
        stream.queued = 0
        stream.queue = None
        self.wake()

    # ---- windows --------------------

    def takes_update(self) -> bool:
        """Whether a WINDOW_UPDATE is accounted for."""
        if self.updates_due <= 0:
            return False
        self.updates_due = min(_MAX_UPDATES, self.updates_due) - 1
        return True

    def widen(self, more_bytes: int) -> None:
        """WINDOW_UPDATE for the connection.

        Raises:
            H2Error: the window is larger than any may be.
        """
        self.window += more_bytes
        if self.window > MAX_WINDOW_BYTES:
            raise H2Error(FLOW_CONTROL_ERROR, "the connection's window is too large")
        if self.ready:
            self.wake()

    def widen_stream(self, stream: Stream, more_bytes: int) -> bool:
        """WINDOW_UPDATE for a stream; False: its window is larger than any may be."""
        stream.send_window += more_bytes
        if stream.send_window > MAX_WINDOW_BYTES:
            return False
        if stream.queued and stream.send_window > 0:
            self.ready[stream] = None
            self.wake()
        return True

    def widen_all(self, streams: Iterable[Stream], initial_window: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE. Windows may become negative.

        Raises:
            H2Error: a window is larger than any may be.
        """
        more = initial_window - self.initial_window
        self.initial_window = initial_window
        for stream in streams:
            if not self.widen_stream(stream, more):
                raise H2Error(FLOW_CONTROL_ERROR, "a stream's window is too large")
            if stream.send_window <= 0:
                self.ready.pop(stream, None)
