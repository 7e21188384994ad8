"""An answer that comes in pieces: held back while it is small, then passed on as it comes.

Held is up to `hold.answer_bytes`, so that a replica which dies early in its answer costs no
request. After that the caller has its beginning, and it can no longer be asked for again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from gateway.dataplane.callers import DirectCaller
from gateway.wire.exchange import Data, ResponseHead
from gateway.wire.fields import Pairs

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding

_JOINED_BYTES = 64 * 1024
"""Up to here the pieces of an answer are put together: cheaper than several writes."""


class Pieces:
    """One call's answer, from its head on."""

    __slots__ = ("_asked", "_bytes", "_caller", "_head", "_held", "_most_bytes", "is_passing_on")

    def __init__(self, asked: Forwarding, head: ResponseHead, most_bytes: int) -> None:
        self._asked = asked
        self._caller = cast(DirectCaller, asked.caller)
        self._head = head
        self._held: list[Data] = []
        self._bytes = 0
        self._most_bytes = most_bytes
        self.is_passing_on = False
        """The caller has the beginning of it."""

    def add(self, data: Data) -> None:
        """One more has come."""
        if self.is_passing_on:
            self._caller.piece(data)
            self._keep_pace()
            return
        self._held.append(data)
        self._bytes += len(data)
        if self._bytes > self._most_bytes:
            self._pass_on()

    def end(self, trailers: Pairs) -> None:
        """All have come. Errors are small; one that is too large to be put together is passed on as
        the answer that it is."""
        asked, caller, held = self._asked, self._caller, self._held
        if self.is_passing_on:
            asked.passed_on()
            caller.end(asked, self._head, trailers)
        elif self._bytes <= _JOINED_BYTES or len(held) == 1:
            asked.on_whole(self._head, held[0] if len(held) == 1 else b"".join(held), trailers)
        else:
            copy = asked.completed(self._head, trailers)
            caller.start(asked, self._head, self._bytes)
            for piece in held:
                caller.piece(piece)
            caller.end(asked, self._head, trailers)
            if copy is not None:
                copy.answered(self._head, held)

    def _pass_on(self) -> None:
        """Too much to hold: the caller gets it as it comes."""
        self.is_passing_on = True
        held, self._held = self._held, []
        self._asked.begun()
        self._caller.start(self._asked, self._head, self._head.content_length)
        for piece in held:
            self._caller.piece(piece)
        self._keep_pace()

    def _keep_pace(self) -> None:
        exchange = self._asked.exchange
        if exchange is not None and self._caller.is_congested:
            exchange.pause()
