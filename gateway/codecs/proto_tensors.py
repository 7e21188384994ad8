"""Serialized messages that carry tensors, taken apart and put together without copying the tensors.

Through protobuf's own classes a tensor is copied three or four times (parse, attribute, assignment,
serialize). Here a message is split into its large fields, as views, and the rest, which protobuf
parses; and it is written as the serialized rest followed by tag, length and bytes of each large
field, joined once. Field order means nothing in protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message

from gateway.codecs.proto_walk import BYTES, Walk, varint
from gateway.domain.errors import InvalidRequest

Buffer = bytes | bytearray | memoryview


def split(view: memoryview, number: int, walk: Walk) -> tuple[bytes, list[memoryview]]:
    """The message without its length-delimited fields `number`, and those fields' payloads.

    Raises:
        InvalidRequest: no protobuf message, or beyond the bounds of the walk (`bad_message`).
    """
    rest: list[memoryview] = []
    found: list[memoryview] = []
    copied = 0
    for field, wire, start, end, value in walk.fields(view):
        if field == number and wire == BYTES and isinstance(value, memoryview):
            rest.append(view[copied:start])
            found.append(value)
            copied = end
    rest.append(view[copied:])
    return b"".join(rest), found


def field_head(number: int, size: int) -> bytes:
    """Tag and length of a length-delimited field of `size` bytes."""
    return varint(number << 3 | BYTES) + varint(size)


def with_fields(rest: bytes, number: int, payloads: Iterable[Buffer]) -> list[Buffer]:
    """The pieces of a message: its serialized rest and each payload as a field `number`."""
    pieces: list[Buffer] = [rest]
    for payload in payloads:
        pieces += (field_head(number, len(payload)), payload)
    return pieces


def packed(message: Message, number: int) -> bytes | None:
    """The bytes of a packed list of floats in `message`, None where they cannot be found.

    Protobuf hands single-precision floats out as Python's doubles, and that conversion turns a
    signaling NaN into a quiet one. Packed, they are what was sent.
    """
    try:
        _, found = split(memoryview(message.SerializeToString()), number, Walk())
    except InvalidRequest:  # beyond the bounds of the walk: another list in it has very many values
        return None
    return b"".join(found)
