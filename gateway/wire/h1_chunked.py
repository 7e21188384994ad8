"""Chunked bodies (RFC 9112 section 7.1), decoded as they come and as strictly as they can be.

Strictly, because what one party takes for the end of a body and another does not is where a request
is smuggled: sizes are hexadecimal digits and nothing else, line ends are CR LF.
"""

from __future__ import annotations

import re

from gateway.wire.exchange import Data
from gateway.wire.fields import Pairs

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\r\n\0]*)?")
_TRAILER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*)")

_MAX_LINE_BYTES = 256
"""A chunk's size line. Eight digits and an extension that nobody uses."""
_MAX_TRAILER_BYTES = 8192
_TRAILER_BYTES = 32
"""What a trailer field counts beside its text, as on HTTP/2: many short ones are a burden too."""
_MAX_PIECES = 16
"""More in one read are joined: chunks of one byte must not cost a call each, all the way down."""


class BadChunk(Exception):
    """The body is not what Transfer-Encoding says it is."""


class ChunkedDecoder:
    """One body."""

    __slots__ = ("_kept", "_left", "_state", "_tiny", "trailers")

    def __init__(self) -> None:
        self._state = "size"
        self._left = 0
        self._kept = b""
        self._tiny = 0
        self.trailers: Pairs = ()

    @property
    def is_done(self) -> bool:
        """The last chunk and the trailers have come."""
        return self._state == "done"

    def feed(self, data: bytes) -> tuple[list[Data], bytes]:
        """Pieces of the body, and what follows the body's end (b"" before it).

        Raises:
            BadChunk: it is malformed, or beyond a bound.
        """
        if self._kept:
            data, self._kept = self._kept + data, b""
        pieces: list[Data] = []
        at = 0
        while self._state != "done":
            if self._state == "data":
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if piece:
                    pieces.append(piece)
                if self._left:
                    break
                self._state = "after"
            elif self._state == "after":
                if len(data) - at < 2:
                    self._kept = data[at:]
                    break
                if data[at : at + 2] != b"\r\n":
                    raise BadChunk("a chunk is longer than its size")
                at += 2
                self._state = "size"
            else:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._keep(data[at:])
                    break
                line = data[at:end]
                at = end + 2
                if self._state == "size":
                    self._size(line)
                else:
                    self._trailer(line)
        if len(pieces) > _MAX_PIECES:
            pieces = [b"".join(pieces)]
        return pieces, (data[at:] if self._state == "done" else b"")

    def _keep(self, data: bytes) -> None:
        most = _MAX_LINE_BYTES if self._state == "size" else _MAX_TRAILER_BYTES
        if len(data) > most or b"\n" in data or b"\r" in data[:-1]:
            raise BadChunk("a line of the chunked body is too long, or ends without CR LF")
        self._kept = data

    def _size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line) if len(line) <= _MAX_LINE_BYTES else None
        if found is None:
            raise BadChunk("a chunk's size is not a hexadecimal number")
        self._left = int(found[1], 16)
        self._state = "data" if self._left else "trailers"

    def _trailer(self, line: bytes) -> None:
        if not line:
            self._state = "done"
            return
        found = _TRAILER.fullmatch(line)
        self._tiny += len(line) + _TRAILER_BYTES
        if found is None or self._tiny > _MAX_TRAILER_BYTES:
            raise BadChunk("a trailer field is malformed, or the trailers are too long")
        name, value = found[1].decode("latin-1").lower(), found[2].decode("latin-1").strip(" \t")
        self.trailers = (*self.trailers, (name, value))
