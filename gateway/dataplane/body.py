"""What has come of a request's body, and how much of it is still held.

A body that is small, or not yet on its way, is held whole. One that flows through to a replica is
held up to a bound, so that it can be sent once more; beyond it what was held is let go, and the
request stands or falls with its replica. All bodies of a process share one bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.core.admission import check_held, check_size
from gateway.wire.exchange import Data

if TYPE_CHECKING:
    from gateway.dataplane.plane import Dataplane

_COPIED_BYTES = 4096
"""A smaller view into a read buffer is copied: it would keep the whole buffer."""

JOINED_BYTES = 64 * 1024
"""Up to here pieces are put together: cheaper than several writes."""


def joined(pieces: Sequence[Data]) -> bytes:
    """Pieces as one."""
    if len(pieces) == 1:
        only = pieces[0]
        return only if type(only) is bytes else bytes(only)
    return b"".join(pieces)


class Body:
    """One request's body."""

    __slots__ = ("_plane", "held_bytes", "is_complete", "is_flowing", "is_kept", "pieces", "size")

    def __init__(self, plane: Dataplane, whole: Data | None) -> None:
        self._plane = plane
        self.is_complete = whole is not None
        self.is_kept = True
        """Whether all that has come is held."""
        self.is_flowing = False
        """Whether what comes is passed on at once."""
        self.pieces: list[Data] = [whole] if whole else []
        self.size = self.held_bytes = len(whole) if whole else 0
        plane.held_bytes += self.held_bytes

    def add(self, piece: Data) -> None:
        """A piece has come.

        Raises:
            TooLarge: there is more than `max_body_bytes`.
            Overloaded: it would have to be held, and all requests together hold too much
                (`held_bytes`).
        """
        plane = self._plane
        size = len(piece)
        self.size += size
        check_size(self.size, plane.settings.max_body_bytes)
        if not self.is_kept:
            return
        hold = plane.settings.hold
        is_full = plane.held_bytes + size > hold.total_bytes
        if self.is_flowing and (is_full or self.size > hold.request_bytes):
            self.let_go()
            return
        if is_full:
            check_held(plane.held_bytes + size, hold.total_bytes)
        self.held_bytes += size
        plane.held_bytes += size
        if size < _COPIED_BYTES and isinstance(piece, memoryview):
            piece = bytes(piece)
        self.pieces.append(piece)

    @property
    def is_at_bound(self) -> bool:
        """Whether it holds as much as one request may that waits for a replica: its caller is to be
        held back."""
        return not self.is_flowing and self.held_bytes > self._plane.settings.hold.request_bytes

    def whole(self) -> bytes:
        """All of it, as one."""
        return joined(self.pieces)

    def let_go(self) -> None:
        """Hold nothing any more."""
        self._plane.held_bytes -= self.held_bytes
        self.held_bytes = 0
        self.is_kept = False
        self.pieces = []
