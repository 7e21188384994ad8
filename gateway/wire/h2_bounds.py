"""Bounds that are counted over several frames: buckets of tokens, and header blocks in pieces."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.wire.h2_frames import END_STREAM, ENHANCE_YOUR_CALM, H2Error


class Bucket:
    """`burst` at once and `per_s` beyond. Time comes in by `refill` at coarse steps, so that taking
    (and giving back) costs a subtraction (an addition) of `left`."""

    __slots__ = ("_burst", "_per_s", "_refilled_at", "left")

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._refilled_at: float | None = None
        self.left = float(burst)
        """Below 0: too often."""

    def refill(self, now: float) -> None:
        """Add what has come since the last time."""
        if self._refilled_at is not None:
            more = (now - self._refilled_at) * self._per_s
            self.left = min(self._burst, self.left + more)
        self._refilled_at = now


@dataclass(frozen=True, slots=True)
class BlockBounds:
    """How large a header block may be before anybody has looked into it."""

    max_bytes: int
    max_continuations: int


class OpenBlock:
    """A header block that did not fit its HEADERS frame."""

    __slots__ = ("_bounds", "_fragments", "_size", "ends", "stream_id")

    def __init__(self, stream_id: int, flags: int, fragment: bytes, bounds: BlockBounds) -> None:
        self.stream_id = stream_id
        self.ends = bool(flags & END_STREAM)
        """Whether the stream ends with it."""
        self._bounds = bounds
        self._fragments = [fragment]
        self._size = len(fragment)

    def add(self, fragment: bytes) -> None:
        """One CONTINUATION more.

        Raises:
            H2Error: there are too many, or they are too long.
        """
        self._fragments.append(fragment)
        self._size += len(fragment)
        if len(self._fragments) > self._bounds.max_continuations + 1:
            message = "too many CONTINUATION frames"
            raise H2Error(ENHANCE_YOUR_CALM, message, "continuation_flood")
        if self._size > self._bounds.max_bytes:
            raise H2Error(ENHANCE_YOUR_CALM, "header block too large", "head_too_large")

    @property
    def whole(self) -> bytes:
        """All fragments as one."""
        return b"".join(self._fragments)
