"""How a fuzzer's bytes become a test case: a part that decides, and a part that is sent.

The first byte says how many bytes decide (`Script`); what follows them is sent as it is, so that a
dictionary and mutations of the traffic work on the traffic. Deciding bytes that are missing are 0,
and 0 is always the plain thing, so that every input is a case.
"""

from __future__ import annotations

MOST_DECISIONS = 64

_SHOWN = 300
"""Characters of a value in a message."""


class Broken(AssertionError):
    """Something that must always hold does not."""


def must(holds: object, what: str, *seen: object) -> None:
    """Raise `Broken` unless it holds. No `assert`: this must count under `python -O` too."""
    if not holds:
        raise Broken(": ".join([what, *[repr(one)[:_SHOWN] for one in seen]]))


class Script:
    """Reads decisions one by one."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        """The next byte; 0 after the last."""
        if self.is_empty:
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def below(self, count: int) -> int:
        return self.byte() % count

    def take(self, size: int) -> bytes:
        """At most so many bytes as they are."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken


def split(data: bytes) -> tuple[Script, bytes]:
    """The decisions of a case, and what is sent."""
    count = min(data[0] if data else 0, MOST_DECISIONS)
    return Script(data[1 : 1 + count]), data[1 + count :]


def joined(decisions: bytes, sent: bytes) -> bytes:
    """The opposite of `split`, for seeds."""
    return bytes((len(decisions),)) + decisions + sent
