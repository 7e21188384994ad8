"""HTTP/2 frames and the numbers of RFC 9113: what they are called and how they are written.

Reading is the connection's loop (`h2_core.py`), because a call for each frame would cost more than
the frame. A frame: length (24 bits), type, flags, stream (31 bits), payload.
"""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client begins with (section 3.4)."""

FRAME_HEAD_BYTES = 9
_HEAD = struct.Struct(">HBBBI")
pack_head = _HEAD.pack
"""(length >> 8, length & 0xFF, type, flags, stream)"""
unpack_head = _HEAD.unpack_from

# Frame types, section 6.
DATA = 0
HEADERS = 1
PRIORITY = 2
RST_STREAM = 3
SETTINGS = 4
PUSH_PROMISE = 5
PING = 6
GOAWAY = 7
WINDOW_UPDATE = 8
CONTINUATION = 9

# Flags. END_STREAM and ACK are the same bit, on different types.
END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

# Error codes, section 7.
NO_ERROR = 0
PROTOCOL_ERROR = 1
INTERNAL_ERROR = 2
FLOW_CONTROL_ERROR = 3
STREAM_CLOSED = 5
FRAME_SIZE_ERROR = 6
REFUSED_STREAM = 7
CANCEL = 8
COMPRESSION_ERROR = 9
ENHANCE_YOUR_CALM = 11

ERROR_NAMES = {
    0: "NO_ERROR", 1: "PROTOCOL_ERROR", 2: "INTERNAL_ERROR", 3: "FLOW_CONTROL_ERROR",
    4: "SETTINGS_TIMEOUT", 5: "STREAM_CLOSED", 6: "FRAME_SIZE_ERROR", 7: "REFUSED_STREAM",
    8: "CANCEL", 9: "COMPRESSION_ERROR", 10: "CONNECT_ERROR", 11: "ENHANCE_YOUR_CALM",
    12: "INADEQUATE_SECURITY", 13: "HTTP_1_1_REQUIRED",
}  # fmt: skip

# Settings, section 6.5.2.
HEADER_TABLE_SIZE = 1
ENABLE_PUSH = 2
MAX_CONCURRENT_STREAMS = 3
INITIAL_WINDOW_SIZE = 4
MAX_FRAME_SIZE = 5
MAX_HEADER_LIST_SIZE = 6

INITIAL_WINDOW_BYTES = 65_535
"""Every window before anything was said about it."""
LEAST_MAX_FRAME_BYTES = 16_384
MOST_MAX_FRAME_BYTES = (1 << 24) - 1
MAX_WINDOW_BYTES = (1 << 31) - 1
MAX_STREAM_ID = (1 << 31) - 1

SETTINGS_ACK = pack_head(0, 0, SETTINGS, ACK, 0)


class H2Error(Exception):
    """The peer broke a rule, or reached a bound, in a way that ends the connection."""

    def __init__(self, code: int, message: str, cause: str = "protocol_error") -> None:
        super().__init__(f"{ERROR_NAMES[code]}: {message}")
        self.code = code
        self.message = message
        self.cause = cause
        """One of `settings.CAUSES`."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A whole frame. Its length is the writer's to keep within the peer's bound."""
    size = len(payload)
    return pack_head(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings_frame(values: dict[int, int]) -> bytes:
    """SETTINGS with these values, in this order."""
    payload = b"".join([struct.pack(">HI", name, value) for name, value in values.items()])
    return frame(SETTINGS, 0, 0, payload)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The pairs of a SETTINGS frame, unknown ones too.

    Raises:
        H2Error: it holds no whole number of them, or a value that its setting may not have.
    """
    if len(payload) % 6:
        raise H2Error(FRAME_SIZE_ERROR, "SETTINGS holds half a setting")
    pairs = list(struct.iter_unpack(">HI", payload))
    for name, value in pairs:
        if name == ENABLE_PUSH and value > 1:
            raise H2Error(PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if name == INITIAL_WINDOW_SIZE and value > MAX_WINDOW_BYTES:
            raise H2Error(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        if name == MAX_FRAME_SIZE and not LEAST_MAX_FRAME_BYTES <= value <= MOST_MAX_FRAME_BYTES:
            raise H2Error(PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
    return pairs


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def window_update(stream_id: int, more_bytes: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, more_bytes.to_bytes(4, "big"))


def ping(opaque: bytes, *, is_ack: bool = False) -> bytes:
    return frame(PING, ACK if is_ack else 0, 0, opaque)


def goaway(last_stream_id: int, code: int, debug: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code) + debug.encode())


def unpadded(payload: bytes, flags: int, stream_id: int) -> bytes:
    """The header block fragment of a HEADERS frame, without padding and priority.

    Raises:
        H2Error: there is more padding than payload, or a stream that depends on itself.
    """
    start, stop = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise H2Error(FRAME_SIZE_ERROR, "HEADERS is too short for its padding's length")
        start, stop = 1, stop - payload[0]
    if flags & HAS_PRIORITY:
        if len(payload) - start < 5:
            raise H2Error(FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
        check_dependency(payload[start : start + 4], stream_id)
        start += 5
    if stop < start:
        raise H2Error(PROTOCOL_ERROR, "there is more padding than payload")
    return payload[start:stop]


def check_dependency(raw: bytes, stream_id: int) -> None:
    """Priorities are ignored (RFC 9113 deprecates them) but for this rule of RFC 7540.

    Raises:
        H2Error: the stream depends on itself.
    """
    if int.from_bytes(raw, "big") & MAX_STREAM_ID == stream_id:
        raise H2Error(PROTOCOL_ERROR, "a stream depends on itself")
