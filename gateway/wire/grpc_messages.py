"""Messages in and out of the bytes of a gRPC call: a flag, a length, the message; five bytes ahead.

Nothing is decoded, and nothing larger than the bound is ever held, compressed or not.
"""

from __future__ import annotations

import zlib

from gateway.wire.exchange import Data
from gateway.wire.fields import Pairs
from gateway.wire.grpc_text import Code

PREFIX_BYTES = 5
MAX_MESSAGE_BYTES = 2**32 - 1
"""What the length in front of a message can say."""

ENCODINGS = {"gzip": 31, "deflate": 15}
"""Compressions that are understood, and zlib's name for each (window, and which wrapping)."""
ACCEPTED = "identity, deflate, gzip"


class GrpcAbort(Exception):
    """Ends a call with a status."""

    def __init__(self, code: int, details: str, trailers: Pairs = ()) -> None:
        super().__init__(details)
        self.code = int(code)
        self.details = details
        self.trailers = trailers

    def __repr__(self) -> str:
        return f"GrpcAbort({self.code}, {self.details!r})"


def prefix(size: int) -> bytes:
    """What stands in front of an uncompressed message of `size` bytes."""
    return b"\0" + size.to_bytes(4, "big")


def frame(message: Data) -> bytes:
    """A message as it goes out, copied once."""
    return b"".join((b"\0", len(message).to_bytes(4, "big"), message))


def whole_message(body: Data, max_bytes: int) -> bytes | None:
    """The message of a body that is one uncompressed message within the bound; None where it is
    anything else, and `Messages` has to look closer."""
    size = len(body) - PREFIX_BYTES
    if size < 0 or body[0] or size > max_bytes or int.from_bytes(body[1:5], "big") != size:
        return None
    return bytes(memoryview(body)[PREFIX_BYTES:])


class Messages:
    """Takes the bytes of one side of a call as they come, gives its messages."""

    __slots__ = ("_head", "_held", "_is_compressed", "_missing", "_window_bits", "max_bytes")

    def __init__(self, max_bytes: int, encoding: str = "identity") -> None:
        """
        Raises:
            GrpcAbort: UNIMPLEMENTED; the compression is not one of `ENCODINGS`. The answer should
                carry `grpc-accept-encoding`.
        """
        self.max_bytes = max_bytes
        if encoding != "identity" and encoding not in ENCODINGS:
            raise GrpcAbort(
                Code.UNIMPLEMENTED, f"Compression algorithm '{encoding[:40]}' is not supported"
            )
        self._window_bits = ENCODINGS.get(encoding, 0)
        self._head = bytearray()
        self._held: list[bytes] = []
        self._missing = -1
        """Bytes of the message under way that are still to come; -1 between messages."""
        self._is_compressed = False

    @property
    def is_partial(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self._missing >= 0 or bool(self._head)

    def feed(self, data: Data) -> list[bytes]:
        """The messages that are complete with `data`.

        Raises:
            GrpcAbort: RESOURCE_EXHAUSTED (larger than the bound; said before it is read) or
                INTERNAL (no gRPC, or a compression that cannot be undone).
        """
        found: list[bytes] = []
        view = memoryview(data)
        while view:
            if self._missing < 0:
                view = self._begin(view)
                if self._missing < 0:
                    break
            piece = view[: self._missing]
            if piece:
                self._held.append(bytes(piece))
                self._missing -= len(piece)
                view = view[len(piece) :]
            if not self._missing:
                found.append(self._complete())
        return found

    def _begin(self, view: memoryview) -> memoryview:
        """Read a prefix; returns what follows it."""
        wanted = PREFIX_BYTES - len(self._head)
        self._head += view[:wanted]
        if len(self._head) < PREFIX_BYTES:
            return view[:0]
        flag, size = self._head[0], int.from_bytes(self._head[1:], "big")
        self._head.clear()
        if flag > 1:
            raise GrpcAbort(Code.INTERNAL, f"Invalid frame: flags {flag:#04x}")
        if flag and not self._window_bits:
            raise GrpcAbort(
                Code.INTERNAL, "Compressed-Flag is set, and grpc-encoding names no compression"
            )
        if size > self.max_bytes:
            raise too_large(size, self.max_bytes)
        self._is_compressed = bool(flag)
        self._missing = size
        return view[wanted:]

    def _complete(self) -> bytes:
        message = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held.clear()
        self._missing = -1
        if self._is_compressed:
            return _decompressed(message, self._window_bits, self.max_bytes)
        return message


def _decompressed(message: bytes, window_bits: int, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(window_bits)
    try:
        # One byte more than may be, so that a bomb is seen without being blown up.
        plain = stream.decompress(message, max_bytes + 1)
    except zlib.error as error:
        raise GrpcAbort(Code.INTERNAL, f"Decompression failed: {error}") from error
    if len(plain) > max_bytes:
        raise too_large(len(plain), max_bytes)
    if not stream.eof or stream.unused_data:
        raise GrpcAbort(Code.INTERNAL, "Decompression failed: the message ends too early or late")
    return plain


def too_large(size: int, max_bytes: int) -> GrpcAbort:
    """In gRPC's own words, which people search for."""
    return GrpcAbort(
        Code.RESOURCE_EXHAUSTED, f"Received message larger than max ({size} vs. {max_bytes})"
    )
