"""A fuzzer's bytes as HTTP/2 frames: most of them well formed, so that cases get somewhere.

Each record begins with a byte that says what it is: 0 to 9 a frame of that type, its flags, stream,
length and payload as the bytes are; above, something that would seldom come about by chance. Data
may also be taken as it is (`raw`).
"""

from __future__ import annotations

from gateway.wire import h2_frames as h2
from gateway.wire.fields import hpack_field
from tests.fuzz.script import Script

_MOST_BYTES = 1 << 18
"""Of one case. Large DATA takes three bytes to ask for."""

_SETTINGS = (1, 2, 3, 4, 5, 6, 8, 99)
_VALUES = (0, 1, 2, 10, 100, 4096, 16_384, 20_000, 65_535, 100_000, 1 << 24, (1 << 31) - 1, 1 << 31)


def block(*pairs: tuple[str, str]) -> bytes:
    return b"".join([hpack_field(n, v) for n, v in pairs])


def indexed(name: str, value: str) -> bytes:
    """A literal that goes into the dynamic table."""
    field = hpack_field("x" + name, value)
    return (
        b"\x40" + bytes((len(name),)) + name.encode() + field[field.index(name.encode()[-1]) + 1 :]
    )


_METHODS = ("POST", "GET", "HEAD", "POST", "POST", "POST", "OPTIONS", "POST")
_MORE: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (),
    (),
    (("content-length", "5"),),
    (("expect", "100-continue"),),
    (("te", "trailers"), ("content-type", "application/grpc")),
    (),
    (("cookie", "a=b"), ("cookie", "c=d"), ("x-long", "y" * 100)),
)
"""By the method's place."""


def request_block(number: int) -> bytes:
    """A request: the low four bits are the front's manner, the next three what kind it is; the
    highest puts a field into the dynamic table."""
    kind = number >> 4 & 7
    fields = block(
        (":method", _METHODS[kind]), (":scheme", "http"), (":path", f"/{0x30 + (number & 15):c}"),
        (":authority", "h"), *_MORE[kind],
    )  # fmt: skip
    return fields + (b"\x40\x03x-i\x01\x31\xbe" if number & 0x80 else b"")


_STATUSES = ("200", "200", "204", "304", "100", "103", "404", "500")


def answer_block(number: int) -> bytes:
    """An answer: three bits of status, then what else."""
    fields = block((":status", _STATUSES[number & 7]), ("content-type", "application/grpc"))
    if number & 8:
        fields += block(("content-length", "5"))
    if number & 16:
        fields += block(("grpc-status", "0"))
    return fields + (b"\x40\x03x-i\x01\x31\xbe" if number & 0x80 else b"")


def trailer_block(number: int) -> bytes:
    return block(("grpc-status", str(number & 15))) + (
        b"\x40\x03x-t\x01\x32" if number & 16 else b""
    )


class Frames:
    """Writes the frames of one case, of a client or a server."""

    def __init__(self, *, is_client: bool) -> None:
        self._block = request_block if is_client else answer_block
        self._last_id = -1
        self.out = bytearray()

    def write(self, script: Script) -> bytes:
        """All of them."""
        while not script.is_empty and len(self.out) < _MOST_BYTES:
            kind = script.byte() % 16
            if kind < len(h2_kinds):
                flags, stream_id = script.byte(), self._stream_id(script.byte())
                self.out += h2.frame(kind, flags, stream_id, script.take(script.byte()))
            else:
                getattr(self, _SPECIAL[kind])(script)
        return bytes(self.out)

    def _stream_id(self, byte: int) -> int:
        if byte & 0x80:
            self._last_id += 2
            return self._last_id
        return max(0, self._last_id) if byte & 0x40 else byte & 0x1F

    def _head(self, script: Script) -> None:
        """A head in one frame or several, with padding and priority or without."""
        flags, stream_id = script.byte(), self._stream_id(script.byte())
        whole = self._block(script.byte())
        known = h2.END_STREAM | h2.PADDED | h2.HAS_PRIORITY
        first, rest = (whole[:9], whole[9:]) if flags & 0x40 else (whole, b"")
        if flags & h2.HAS_PRIORITY:
            first = b"\0\0\0\0\x10" + first
        if flags & h2.PADDED:
            first = b"\x03" + first + bytes(3)
        ends = 0 if rest else h2.END_HEADERS
        self.out += h2.frame(h2.HEADERS, flags & known | ends, stream_id, first)
        while rest:
            part, rest = rest[:40], rest[40:]
            ends = 0 if rest else h2.END_HEADERS
            self.out += h2.frame(h2.CONTINUATION, ends, stream_id, part)

    def _much(self, script: Script) -> None:
        """DATA that is large."""
        flags, stream_id, size = script.byte(), self._stream_id(script.byte()), script.byte()
        body = bytes((size,)) * (size * 257)
        if flags & h2.PADDED:
            body = b"\x05" + body + bytes(5)
        self.out += h2.frame(h2.DATA, flags & (h2.END_STREAM | h2.PADDED), stream_id, body)

    def _trailers(self, script: Script) -> None:
        stream_id = self._stream_id(script.byte())
        tail = trailer_block(script.byte())
        self.out += h2.frame(h2.HEADERS, h2.END_STREAM | h2.END_HEADERS, stream_id, tail)

    def _raw(self, script: Script) -> None:
        self.out += script.take(script.byte())

    def _window(self, script: Script) -> None:
        stream_id = self._stream_id(script.byte())
        self.out += h2.window_update(stream_id, 1 << script.below(32))

    def _settings(self, script: Script) -> None:
        name = _SETTINGS[script.below(len(_SETTINGS))]
        self.out += h2.settings_frame({name: _VALUES[script.below(len(_VALUES))]})


h2_kinds = range(10)
_SPECIAL = {10: "_head", 11: "_much", 12: "_trailers", 13: "_raw", 14: "_window", 15: "_settings"}
