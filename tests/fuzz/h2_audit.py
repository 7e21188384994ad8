"""The other end of an HTTP/2 connection as an auditor: what may ours say, given what it was told?

It reads both directions and keeps the books that RFC 9113 asks of a peer: windows, frame sizes, the
order of frames on a stream, header blocks (by another HPACK decoder), acknowledgements. What it
collects of bodies is what the users of both sides are compared with.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import hpack

from gateway.wire import h2_frames as h2
from tests.fuzz.script import must

Pairs = list[tuple[bytes, bytes]]


@dataclass
class Flow:
    """What ours has said on one stream."""

    window: int
    head: Pairs = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: Pairs = field(default_factory=list)
    is_ended: bool = False
    reset_code: int | None = None


class Audit:
    """Of a server or a client of ours."""

    def __init__(self, *, is_server: bool) -> None:
        self._is_server = is_server
        self.flows: dict[int, Flow] = {}
        """By stream: opened by the fuzzer where ours is the server, by ours where it is not."""
        self.bodies: dict[int, bytearray] = {}
        """What the fuzzer has sent of each, until it ended it."""
        self._ended: set[int] = set()
        self.has_reset = False
        """The fuzzer has reset a stream."""
        self.last_goaway: int | None = None
        self._heard = bytearray()
        self._said = bytearray()
        self._greeting = h2.PREFACE if is_server else b""
        self._own_greeting = b"" if is_server else h2.PREFACE
        self._is_lost = False
        """What the fuzzer sends cannot be read any more."""
        self._window = self._initial = h2.INITIAL_WINDOW_BYTES
        self._max_frame = h2.LEAST_MAX_FRAME_BYTES
        self._unacknowledged: deque[list[tuple[int, int]]] = deque()
        self._pings: deque[bytes] = deque()
        self._decoder = hpack.Decoder()
        self._block: tuple[int, int, bytearray] | None = None
        self._last_id = -1
        self._has_greeted = False

    # ---- what ours is told --------------------

    def heard(self, piece: bytes) -> None:
        """Bytes that ours has got."""
        self._heard += piece
        if self._greeting:
            if len(self._heard) < len(self._greeting):
                return
            self._is_lost = not self._heard.startswith(self._greeting)
            del self._heard[: len(self._greeting)]
            self._greeting = b""
        while not self._is_lost and (frame := self._next(self._heard)) is not None:
            self._take(*frame)

    def _next(self, data: bytearray) -> tuple[int, int, int, bytes] | None:
        if len(data) < h2.FRAME_HEAD_BYTES:
            return None
        high, low, kind, flags, stream_id = h2.unpack_head(data)
        end = h2.FRAME_HEAD_BYTES + (high << 8 | low)
        if len(data) < end:
            return None
        payload = bytes(data[h2.FRAME_HEAD_BYTES : end])
        del data[:end]
        return kind, flags, stream_id & h2.MAX_STREAM_ID, payload

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == h2.HEADERS and self._is_server and stream_id & 1:
            if stream_id > self._last_id:
                self._last_id = stream_id
                self.flows[stream_id] = Flow(self._initial)
                self.bodies[stream_id] = bytearray()
        elif kind == h2.DATA:
            if stream_id not in self._ended:
                body = _unpadded(flags, payload, len(payload))
                self.bodies.setdefault(stream_id, bytearray()).extend(body)
        elif kind == h2.SETTINGS and not flags & h2.ACK and not len(payload) % 6:
            values = [payload[at : at + 6] for at in range(0, len(payload), 6)]
            pairs = [(int.from_bytes(v[:2]), int.from_bytes(v[2:])) for v in values]
            self._unacknowledged.append(pairs)
        elif kind == h2.PING and not flags & h2.ACK:
            self._pings.append(payload)
        elif kind == h2.RST_STREAM:
            self.has_reset = True
            self._ended.add(stream_id)
        elif kind == h2.WINDOW_UPDATE and len(payload) == 4:
            more = int.from_bytes(payload) & h2.MAX_WINDOW_BYTES
            if not stream_id:
                self._window += more
            elif (flow := self.flows.get(stream_id)) is not None:
                flow.window += more
        if kind in (h2.HEADERS, h2.DATA) and flags & h2.END_STREAM:
            self._ended.add(stream_id)

    def body(self, stream_id: int) -> bytes:
        """What the fuzzer has sent of a body, the beginning of a DATA frame included."""
        whole = bytes(self.bodies.get(stream_id, b""))
        if len(self._heard) < h2.FRAME_HEAD_BYTES or stream_id in self._ended:
            return whole
        high, low, kind, flags, target = h2.unpack_head(self._heard)
        if kind != h2.DATA or target & h2.MAX_STREAM_ID != stream_id:
            return whole
        payload = bytes(self._heard[h2.FRAME_HEAD_BYTES :])
        return whole + _unpadded(flags, payload, high << 8 | low)

    # ---- what ours says --------------------

    def said(self, piece: bytes) -> None:
        """Bytes that ours has written: whole frames."""
        data = self._said
        data += piece
        if self._own_greeting and data:
            must(data.startswith(self._own_greeting), "it does not begin as HTTP/2 does")
            del data[: len(self._own_greeting)]
            self._own_greeting = b""
        while (frame := self._next(data)) is not None:
            self._check(*frame)
        must(not data, "half a frame was written", bytes(data))

    def _check(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        must(len(payload) <= self._max_frame, "a frame is larger than the peer takes", len(payload))
        must(self._has_greeted or kind == h2.SETTINGS, "the first frame is no SETTINGS", kind)
        must(self._block is None or kind == h2.CONTINUATION, "a header block is interrupted")
        is_of_connection = kind in (h2.SETTINGS, h2.PING, h2.GOAWAY)
        if is_of_connection or (kind == h2.WINDOW_UPDATE and not stream_id):
            must(not stream_id, "a frame of the connection on a stream")
            self._connection_frame(kind, flags, payload)
            return
        if kind == h2.HEADERS and not self._is_server and stream_id > self._last_id:
            must(stream_id & 1, "a client's stream with an even number")
            self._last_id = stream_id
            self.flows[stream_id] = Flow(self._initial)
        flow = self.flows.get(stream_id)
        if flow is None:
            # A block that breaks the rules is refused before it counts as a stream.
            must(kind == h2.RST_STREAM, "a frame on a stream that is not open", kind, stream_id)
            return
        if kind == h2.RST_STREAM:
            must(len(payload) == 4, "RST_STREAM of a wrong length")
            flow.reset_code = int.from_bytes(payload)
            return
        must(flow.reset_code is None, "a frame after RST_STREAM", kind, stream_id)
        if kind == h2.WINDOW_UPDATE:
            must(len(payload) == 4 and any(payload), "WINDOW_UPDATE of nothing")
            return
        must(not flow.is_ended, "a frame after END_STREAM", kind, stream_id)
        self._message_frame(flow, kind, flags, stream_id, payload)

    def _connection_frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == h2.GOAWAY:
            self.last_goaway = int.from_bytes(payload[4:8])
        elif kind == h2.PING and flags & h2.ACK:
            must(self._pings and self._pings.popleft() == payload, "an answer to no PING", payload)
        elif kind == h2.SETTINGS and flags & h2.ACK:
            must(self._unacknowledged, "an acknowledgement of no SETTINGS")
            for name, value in self._unacknowledged.popleft():
                self._set(name, value)
        elif kind == h2.SETTINGS:
            must(not self._has_greeted, "SETTINGS twice")
            self._has_greeted = True
        elif kind == h2.WINDOW_UPDATE:
            must(len(payload) == 4 and any(payload), "WINDOW_UPDATE of nothing")

    def _set(self, name: int, value: int) -> None:
        """Counts from the acknowledgement on: what was said before it was said by the old ones."""
        if name == h2.INITIAL_WINDOW_SIZE:
            for flow in self.flows.values():
                flow.window += value - self._initial
            self._initial = value
        elif name == h2.MAX_FRAME_SIZE:
            self._max_frame = value
        elif name == h2.HEADER_TABLE_SIZE:
            self._decoder.max_allowed_table_size = min(value, 4096)

    def _message_frame(
        self, flow: Flow, kind: int, flags: int, stream_id: int, payload: bytes
    ) -> None:
        if kind == h2.DATA:
            must(flow.head, "a body before its head", stream_id)
            flow.window -= len(payload)
            self._window -= len(payload)
            must(not payload or flow.window >= 0, "more than the stream's window", flow.window)
            must(not payload or self._window >= 0, "more than the connection's window")
            flow.body += payload
            flow.is_ended = bool(flags & h2.END_STREAM)
        elif kind == h2.HEADERS:
            self._block = (stream_id, flags, bytearray(payload))
        elif kind == h2.CONTINUATION:
            must(self._block is not None and self._block[0] == stream_id, "CONTINUATION of nothing")
            assert self._block is not None
            self._block[2].extend(payload)
        else:
            must(False, "a frame that nobody may send", kind)
        if self._block is not None and flags & h2.END_HEADERS:
            _, flags, block = self._block
            self._block = None
            self._on_block(flow, flags, bytes(block))

    def _on_block(self, flow: Flow, flags: int, block: bytes) -> None:
        fields = [(bytes(n), bytes(v)) for n, v in self._decoder.decode(block, raw=True)]
        flow.is_ended = bool(flags & h2.END_STREAM)
        names = [n for n, _ in fields]
        must(all(n == n.lower() for n in names), "a name that is not in lower case", names)
        if flow.head:
            must(flow.is_ended, "trailers that do not end their stream")
            must(not any(n.startswith(b":") for n in names), "a pseudo-field in trailers")
            flow.trailers = fields
        elif dict(fields).get(b":status", b"200") >= b"200":
            flow.head = fields
        else:
            must(not flow.is_ended, "an interim answer that ends its stream")


def _unpadded(flags: int, payload: bytes, size: int) -> bytes:
    """The body in (the beginning of) a DATA frame whose payload has `size` bytes."""
    if not flags & h2.PADDED or not payload:
        return payload
    return payload[1 : max(1, size - payload[0])]
