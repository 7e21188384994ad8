"""Header blocks read once, and recognised when they come again.

A block's bytes mean the same as long as the connection's dynamic table is unchanged, so what was
made of a block is kept by its bytes until a block inserts into the table or resizes it. Callers
that send the same request again and again (a gRPC channel) pay for a dictionary look-up.

Decoding itself is `jh2`'s (native). Every block is walked before: to see whether it changes the
table, and because the decoder trusts its input where RFC 7541 does not (it panics on a string that
ends early, takes a resize that comes after a field, and any padding of Huffman codes).
"""

from __future__ import annotations

from typing import Any

# The stub is there but not marked as such (no py.typed in the wheel).
from jh2._hazmat import (  # type: ignore[import-untyped]
    Decoder,
    HPACKError,
    OversizedHeaderListError,
)
from jh2.hpack.huffman_constants import REQUEST_CODES_LENGTH  # type: ignore[import-untyped]

from gateway.wire.h2_frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, H2Error

_BOMB_RATIO = 4
"""A list that is so many times larger than allowed ends the connection; below that, the request is
refused and the table stays in step."""

_MAX_KEPT = 64
_MAX_KEPT_BYTES = 2048
_MAX_KEPT_LIST_BYTES = 4096
"""Blocks that are remembered, how long they may be, and what their fields may come to (each 32
bytes more, as RFC 9113 section 6.5.2 counts): a short block may mean a long list. 1 MB of a
connection at the very worst. A channel calls a handful of methods; clearing all when it is full
costs one walk each."""

_CODE_BITS = bytes(REQUEST_CODES_LENGTH[:256])
"""RFC 7541 appendix B: how many bits a byte takes in Huffman's code."""

RawFields = list[tuple[bytes, bytes]]


class BlockReader:
    """Reads one direction of one connection."""

    __slots__ = ("_decoder", "kept", "kept_tails")

    def __init__(self, max_list_bytes: int) -> None:
        self._decoder = Decoder(max_list_bytes * _BOMB_RATIO)
        self.kept: dict[bytes, Any] = {}
        """What was made of a block that opened a request or an answer."""
        self.kept_tails: dict[bytes, Any] = {}
        """The same of trailers: one block may be valid as one and not as the other."""

    def read(self, block: bytes) -> tuple[RawFields, bool]:
        """The fields of a block, and whether its bytes may be kept: `keep` what you make of it.

        Raises:
            H2Error: it is no HPACK, or a bomb. The table is out of step: the connection must end.
        """
        walk = _Walk(block)
        if not walk.is_plain:
            self.kept.clear()
            self.kept_tails.clear()
        try:
            fields = self._decoder.decode(block, True)
        except OversizedHeaderListError as error:
            raise H2Error(ENHANCE_YOUR_CALM, "header list too large", "head_too_large") from error
        except HPACKError as error:
            raise H2Error(COMPRESSION_ERROR, str(error)) from error
        for field, part, end, size in walk.huffman:
            _check_padding(block, end, size, fields[field][part])
        raw = [(field[0], field[1]) for field in fields]
        return raw, walk.is_plain and _is_short(block, raw)


def keep(kept: dict[bytes, Any], block: bytes, made: object) -> None:
    """Remember what was made of a block that `BlockReader.read` said may be kept."""
    if len(kept) >= _MAX_KEPT:
        kept.clear()
    kept[block] = made


def _is_short(block: bytes, raw: RawFields) -> bool:
    return len(block) <= _MAX_KEPT_BYTES and (
        sum([len(name) + len(value) + 32 for name, value in raw]) <= _MAX_KEPT_LIST_BYTES
    )


class _Walk:
    """What a block is, as far as can be told without decoding it (RFC 7541 section 6)."""

    __slots__ = ("huffman", "is_plain")

    def __init__(self, block: bytes) -> None:
        """Raises:
        H2Error: it is cut short, or resizes the table after a field.
        """
        self.is_plain = True
        """It leaves the dynamic table as it is."""
        self.huffman: list[tuple[int, int, int, int]] = []
        """Strings in Huffman's code: of which field, 0 for its name and 1 for its value, where it
        ends, how long it is."""
        try:
            is_whole = self._fields(block) == len(block)
        except IndexError:
            is_whole = False
        if not is_whole:
            raise H2Error(COMPRESSION_ERROR, "a header block is cut short")

    def _fields(self, block: bytes) -> int:
        """Walk to the end, or beyond it."""
        at, end, field = 0, len(block), 0
        while at < end:
            first = block[at]
            if first & 0x80:  # 6.1, an indexed field
                at = at + 1 if first != 0xFF else _past_int(block, at)
            elif first & 0xE0 == 0x20:  # 6.3, the table's size
                if field:
                    raise H2Error(COMPRESSION_ERROR, "the table is resized after a field")
                self.is_plain = False
                at = at + 1 if first != 0x3F else _past_int(block, at)
                continue
            else:  # 6.2, a literal
                most = 0x0F
                if first & 0x40:
                    self.is_plain, most = False, 0x3F
                index = first & most
                at = at + 1 if index != most else _past_int(block, at)
                if index == 0:
                    at = self._string(block, at, field, 0)
                at = self._string(block, at, field, 1)
            field += 1
        return at

    def _string(self, block: bytes, at: int, field: int, part: int) -> int:
        first = block[at]
        size = first & 0x7F
        at += 1
        if size == 0x7F:
            more, at = _int_after(block, at)
            size += more
        at += size
        if first & 0x80:
            self.huffman.append((field, part, at, size))
        return at


def _past_int(block: bytes, at: int) -> int:
    """After an integer whose prefix is all ones."""
    return _int_after(block, at + 1)[1]


def _int_after(block: bytes, at: int) -> tuple[int, int]:
    """The rest of such an integer (section 5.1), and where it ends."""
    value = shift = 0
    while shift <= 28:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise H2Error(COMPRESSION_ERROR, "an integer is too large")


def _check_padding(block: bytes, end: int, size: int, text: bytes) -> None:
    """Section 5.2: what fills the last byte must be ones. The decoder does not look."""
    bits = size * 8 - sum(text.translate(_CODE_BITS))
    ones = (1 << bits) - 1 if 0 <= bits < 8 else -1
    if ones < 0 or (size and block[end - 1] & ones != ones):
        raise H2Error(COMPRESSION_ERROR, "a Huffman code with wrong padding")
