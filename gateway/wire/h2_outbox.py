"""Writes what a wake-up produced, once for each connection.

A chunk of bytes often holds several requests, and answering one means writing to another
connection. So connections that have something to write register here, and whoever was woken by the
loop has them all written at its end: one write for each, in the same turn of the loop. Waking up
once more (`call_soon`) costs an epoll call more; it is for what begins elsewhere: timers, tasks.
"""

from __future__ import annotations

import asyncio
from typing import Protocol
from weakref import WeakKeyDictionary


class Flushable(Protocol):
    """A connection."""

    def flush(self) -> None:
        """Write what waits. Must not raise."""
        ...


class Outbox:
    """Connections of one loop that have something to write."""

    __slots__ = ("_dirty", "_is_due", "depth")

    def __init__(self) -> None:
        # Without its loop, which is the key it is found by, and would live for ever with it.
        self._dirty: list[Flushable] = []
        self._is_due = False
        self.depth = 0
        """Above 0 while somebody runs who calls `leave` at the end: raise it on entering."""

    def add(self, connection: Flushable) -> None:
        """Have a connection written: at the end of what runs now, or in the loop's next turn."""
        self._dirty.append(connection)
        if not self.depth and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._run)

    def leave(self) -> None:
        """What raised `depth` is done."""
        try:
            if self.depth == 1:
                dirty = self._dirty
                while dirty:
                    dirty.pop().flush()
        finally:
            self.depth -= 1

    def _run(self) -> None:
        self._is_due = False
        self.depth += 1
        self.leave()


_outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()


def outbox_of(loop: asyncio.AbstractEventLoop) -> Outbox:
    """The one of this loop."""
    outbox = _outboxes.get(loop)
    if outbox is None:
        outbox = _outboxes[loop] = Outbox()
    return outbox
