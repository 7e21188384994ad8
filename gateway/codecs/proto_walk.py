"""Walk through a serialized protobuf message field by field, decoding only what is asked for.

Shared by the scans of both gRPC protocols. A length-delimited field is stepped over by its length,
so a tensor costs as much as a flag. What protobuf refuses is refused, and so is what would hold up
the loop that reads it: more than MAX_FIELDS fields, groups nested deeper than MAX_DEPTH.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.domain.errors import InvalidRequest
from gateway.domain.names import INT64_MAX

MAX_FIELDS = 4096
"""Fields looked at in one request. 2 ms of walking (8 at worst), and far above what requests have:
one for each input, output filter and task. Beyond it a request is refused, whatever protobuf would
say."""

MAX_DEPTH = 100
"""Nested groups, protobuf's own limit. Groups are only ever unknown fields here."""

VARINT, FIXED64, BYTES, START, END, FIXED32 = range(6)
"""Wire types."""

_REASON = "bad_message"


def varint(value: int) -> bytes:
    """`value` (0 to 2^64 - 1) as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> int:
    """A varint read as int64."""
    return value - (1 << 64) if value > INT64_MAX else value


def text(value: memoryview, field: str) -> str:
    """A string field.

    Raises:
        InvalidRequest: it is not UTF-8.
    """
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise bad(f"{field} is not UTF-8") from error


class Cut(InvalidRequest):
    """The message ends within a number. An error where it is whole; where it comes in pieces
    (proto_feed), a reason to wait for the next."""


class Walk:
    """Steps through messages, counting fields over the whole request."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int = MAX_FIELDS) -> None:
        self._limit = self._left = limit

    def fields(
        self, view: memoryview
    ) -> Iterator[tuple[int, int, int, int, int | memoryview | None]]:
        """(number, wire type, start, end, value) of each field; value is an int for varints, the
        payload for length-delimited ones, None for the rest."""
        at, size = 0, len(view)
        while at < size:
            start = at
            number, wire, at = self.tag(view, at, in_group=False)
            value: int | memoryview | None = None
            if wire == VARINT:
                value, at = read_varint(view, at)
            elif wire == BYTES:
                length, at = read_varint(view, at)
                if length > size - at:
                    raise bad(f"field {number} claims {length} bytes and has {size - at}")
                value = view[at : at + length]
                at += length
            else:
                at = self._skip(view, at, number, wire)
            yield number, wire, start, at, value

    def tag(self, view: memoryview | bytes, at: int, *, in_group: bool) -> tuple[int, int, int]:
        """(number, wire type, where its value begins) of the field at `at`, counted as one."""
        self._left -= 1
        if self._left < 0:
            raise bad(f"it has more than {self._limit} fields outside of its tensors")
        tag, at = read_varint(view, at, bits=32)
        # Inside of unknown groups upb steps over the illegal field number 0, so we do, too.
        if (tag >> 3 == 0 and not in_group) or tag & 7 > FIXED32:
            raise bad(f"there is no field with tag {tag}")
        return tag >> 3, tag & 7, at

    def uncount(self) -> None:
        """The last tag was cut off, and will be read again."""
        self._left += 1

    def _skip(self, view: memoryview, at: int, number: int, wire: int) -> int:
        """Step over a fixed-size field, or over a group with everything in it."""
        open_groups: list[int] = []
        while True:
            if wire == VARINT:
                _, at = read_varint(view, at)
            elif wire == BYTES:
                length, at = read_varint(view, at)
                at += length
            elif wire in (START, END):
                turn_group(open_groups, number, wire)
            else:
                at += 8 if wire == FIXED64 else 4
            if at > len(view):
                raise bad(f"field {number} ends behind the end of the message")
            if not open_groups:
                return at
            number, wire, at = self.tag(view, at, in_group=True)


def turn_group(open_groups: list[int], number: int, wire: int) -> None:
    """Enter or leave an unknown group.

    Raises:
        InvalidRequest: it is too deep, or ends where it has not begun.
    """
    if wire == START:
        open_groups.append(number)
        if len(open_groups) > MAX_DEPTH:
            raise bad(f"its groups are nested deeper than {MAX_DEPTH}")
    elif not open_groups or open_groups.pop() != number:
        raise bad(f"group {number} ends where it has not begun")


def read_varint(view: memoryview | bytes, at: int, bits: int = 64) -> tuple[int, int]:
    """The number at `at`, and where it ends.

    Raises:
        Cut: the bytes end before it does.
        InvalidRequest: it is too long.
    """
    value = shift = 0
    try:
        while True:
            byte = view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift >= bits:
                raise bad("a number in it has too many bytes")
    except IndexError:
        raise Cut(
            _words("it ends within a number; the message was cut off"), reason=_REASON
        ) from None
    if bits == 64:
        return value & 0xFFFF_FFFF_FFFF_FFFF, at
    if value >> bits:
        raise bad("a number in it has too many bits")
    return value, at


def bad(what: str) -> InvalidRequest:
    """The error for a body that is no message."""
    return InvalidRequest(_words(what), reason=_REASON)


def _words(what: str) -> str:
    return f"The request is no valid protobuf message: {what}"
