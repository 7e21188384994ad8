"""Read chosen fields of a serialized message while it comes in, whatever the pieces.

For messages that are too large to wait for: a tensor is stepped over as it passes, so a piece costs
the same whether it has a kilobyte or a megabyte. What is refused is what `proto_walk.Walk` refuses
in a whole message, where it can be seen already; the rest is refused by `finish`.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.codecs.proto_walk import (
    BYTES,
    END,
    FIXED64,
    START,
    VARINT,
    Cut,
    Walk,
    bad,
    read_varint,
    turn_group,
)
from gateway.domain.errors import InvalidRequest

_HEADER_BYTES = 32
"""More than a tag (5) and a number (10) can have."""


class FieldFeed:
    """Takes a message piece by piece and keeps the payloads of `wanted` length-delimited fields.

    `is_settled` turns True when field `needed` has been seen and then a field with a higher number
    than all that are wanted: serializers write fields in the order of their numbers, so there will
    hardly be more of them. From `close` on one that comes all the same is refused.
    """

    __slots__ = (
        "_begun", "_groups", "_is_closed", "_last", "_left", "_needed", "_part", "_part_number",
        "_wanted", "fed", "is_settled", "settled_at", "taken", "walk",
    )  # fmt: skip

    def __init__(self, wanted: Collection[int], needed: int) -> None:
        self._wanted = frozenset(wanted)
        self._last = max(wanted)
        self._needed = needed
        self._is_closed = False
        self._begun = b""  # the first bytes of a field whose tag or length is not complete yet
        self._left = 0  # bytes of the present field that are still to come
        self._part: bytearray | None = None  # what has come of a wanted field
        self._part_number = 0
        self._groups: list[int] = []
        self.walk = Walk()
        """Counts the fields; to be used for those inside of what was taken as well."""
        self.taken: list[tuple[int, bytes]] = []
        """(number, payload) of the wanted fields so far, in order."""
        self.fed = 0
        """Bytes of the message so far."""
        self.is_settled = False
        self.settled_at = 0
        """Where the field begins that settled it."""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next piece.

        Raises:
            InvalidRequest: `bad_message`, or `late_field`: one of the wanted fields came after
                `close`.
        """
        size = len(data)
        if self._left >= size and self._part is None:
            self._left -= size
            self.fed += size
            return
        view = memoryview(data)
        at, before = 0, self.fed
        while at < size:
            self.fed = before + at
            at = self._payload(view, at, size) if self._left else self._field(view, at, size)
        self.fed = before + size

    def close(self) -> None:
        """What has been taken is acted upon: none of it may come any more."""
        self._is_closed = True

    def finish(self) -> None:
        """The message is complete.

        Raises:
            InvalidRequest: it ends within a field (`bad_message`).
        """
        if self._left or self._begun or self._groups:
            raise bad("it ends within a field; the message was cut off")

    def _field(self, view: memoryview, at: int, size: int) -> int:
        """Read a field's tag, and its length or number; returns where its payload begins."""
        begun = len(self._begun)
        start = self._begun + bytes(view[at : at + _HEADER_BYTES - begun])
        left = 0
        try:
            number, wire, used = self.walk.tag(start, 0, in_group=bool(self._groups))
            if wire == VARINT:
                _, used = read_varint(start, used)
            elif wire == BYTES:
                left, used = read_varint(start, used)
            elif wire not in (START, END):
                left = 8 if wire == FIXED64 else 4
        except Cut:
            self.walk.uncount()
            self._begun = start
            return size
        if not self._groups:
            self._see(number, wire, left, begun)
        if wire in (START, END):
            turn_group(self._groups, number, wire)
        self._begun = b""
        self._left = left
        return at + used - begun

    def _see(self, number: int, wire: int, length: int, before: int) -> None:
        """A field at the top of the message."""
        if wire != BYTES or number not in self._wanted:
            self._settle(number, before)
        elif self._is_closed:
            raise InvalidRequest(
                f"Field {number} of the message comes again, or only after its tensors; in a "
                "message of this size what says where it goes must come first, and once",
                reason="late_field",
            )
        elif length:
            self._part, self._part_number = bytearray(), number
        else:
            self.taken.append((number, b""))

    def _settle(self, number: int, before: int) -> None:
        if number <= self._last or self.is_settled:
            return
        if any(taken == self._needed for taken, _ in self.taken):
            self.is_settled = True
            self.settled_at = self.fed - before

    def _payload(self, view: memoryview, at: int, size: int) -> int:
        end = min(size, at + self._left)
        self._left -= end - at
        if self._part is not None:
            self._part += view[at:end]
            if not self._left:
                self.taken.append((self._part_number, bytes(self._part)))
                self._part = None
        return end
