"""Header fields that are encoded once and sent often.

HTTP/1.1 wants lines, HTTP/2 wants HPACK. What a gateway sends repeats from request to request, so
the encoded forms are kept beside the pairs. HPACK is written without the dynamic table (RFC 7541
section 6.2.2, literals without indexing): such bytes mean the same on every connection at any time,
so they can be kept, and the receiver can remember the whole block by its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Pairs = tuple[tuple[str, str], ...]
"""Lower-case names and values. Text is latin-1: every byte of the wire survives the way through."""

_ILLEGAL = re.compile(r"[\r\n\0]")

_STATIC_NAMES = {
    ":authority": 1, ":method": 2, ":path": 4, ":scheme": 6, ":status": 8,
    "accept-charset": 15, "accept-encoding": 16, "accept-language": 17, "accept-ranges": 18,
    "accept": 19, "access-control-allow-origin": 20, "age": 21, "allow": 22, "authorization": 23,
    "cache-control": 24, "content-disposition": 25, "content-encoding": 26, "content-language": 27,
    "content-length": 28, "content-location": 29, "content-range": 30, "content-type": 31,
    "cookie": 32, "date": 33, "etag": 34, "expect": 35, "expires": 36, "from": 37, "host": 38,
    "if-match": 39, "if-modified-since": 40, "if-none-match": 41, "if-range": 42,
    "if-unmodified-since": 43, "last-modified": 44, "link": 45, "location": 46, "max-forwards": 47,
    "proxy-authenticate": 48, "proxy-authorization": 49, "range": 50, "referer": 51, "refresh": 52,
    "retry-after": 53, "server": 54, "set-cookie": 55, "strict-transport-security": 56,
    "transfer-encoding": 57, "user-agent": 58, "vary": 59, "via": 60, "www-authenticate": 61,
}  # fmt: skip
"""RFC 7541 appendix A: the first index of each name."""

_STATIC_PAIRS = {
    (":method", "GET"): 2, (":method", "POST"): 3, (":path", "/"): 4, (":scheme", "http"): 6,
    (":scheme", "https"): 7, (":status", "200"): 8, (":status", "204"): 9, (":status", "206"): 10,
    (":status", "304"): 11, (":status", "400"): 12, (":status", "404"): 13, (":status", "500"): 14,
    ("accept-encoding", "gzip, deflate"): 16,
}  # fmt: skip


class Fields:
    """Immutable header fields, with what they look like on each wire."""

    __slots__ = ("_h1", "_h2", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs: Pairs = tuple(pairs)
        self._h1: bytes | None = None
        self._h2: bytes | None = None

    def __repr__(self) -> str:
        return f"Fields({list(self.pairs)!r})"

    @property
    def pairs(self) -> Pairs:
        """Names and values."""
        return self._pairs

    @property
    def h1(self) -> bytes:
        """`name: value` lines, each with its line end.

        Raises:
            ValueError: a value would break out of its line.
        """
        if self._h1 is None:
            self._h1 = "".join([f"{_checked(n)}: {_checked(v)}\r\n" for n, v in self.pairs]).encode(
                "latin-1"
            )
        return self._h1

    @property
    def h2(self) -> bytes:
        """An HPACK block fragment; fragments may be joined, pseudo-fields first.

        Raises:
            ValueError: a value holds what no field may.
        """
        if self._h2 is None:
            self._h2 = b"".join([hpack_field(_checked(n), _checked(v)) for n, v in self.pairs])
        return self._h2


NO_FIELDS = Fields(())


def hpack_field(name: str, value: str) -> bytes:
    """One field as HPACK: from the static table where it is there, else a literal that is not
    indexed, without Huffman coding, which on a fast network costs both sides more than it saves."""
    whole = _STATIC_PAIRS.get((name, value))
    if whole is not None:
        return bytes((0x80 | whole,))
    index = _STATIC_NAMES.get(name)
    if index is None:
        raw = name.encode("latin-1")
        start = b"\0" + hpack_int(len(raw), 7) + raw
    else:
        start = hpack_int(index, 4)
    raw = value.encode("latin-1")
    return start + hpack_int(len(raw), 7) + raw


def hpack_int(value: int, prefix_bits: int) -> bytes:
    """RFC 7541 section 5.1, with the bits before the prefix 0."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((value,))
    out = bytearray((most,))
    value -= most
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _checked(text: str) -> str:
    if _ILLEGAL.search(text):
        raise ValueError("a header field may not hold CR, LF or NUL")
    return text
