"""Who is working on what.

Requests are counted by callbacks and not by blocks, as they have none: `Forwarding` is the one
place that counts, and undoes it at its one end. Counted by model (admission), by replica (load) and
by (model, version, replica), which tells the lifecycle when a version may be unloaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TypeVar

from gateway.core.route import RoutingTable, names
from gateway.domain.names import Version

T = TypeVar("T")

Use = tuple[str, Version, str]
"""(model, version, replica id)."""


class InFlight:
    """The counts of one process. Nothing in here awaits while it changes them."""

    def __init__(self) -> None:
        self.by_model: dict[str, int] = {}
        self.by_replica: dict[str, int] = {}
        self._uses: dict[Use, int] = {}
        self._ended = asyncio.Event()
        self._waiting = 0

    def enter(self, model: str) -> None:
        """A request of `model` has been admitted; `leave` must follow, however it ends."""
        self.by_model[model] = self.by_model.get(model, 0) + 1

    def leave(self, model: str) -> None:
        """It has been answered, or has gone."""
        _decrement(self.by_model, model)
        if self._waiting:
            self._wake()

    def begin(self, use: Use) -> None:
        """A call to a replica begins; `end` must follow, however it ends."""
        by_replica, uses, replica_id = self.by_replica, self._uses, use[2]
        by_replica[replica_id] = by_replica.get(replica_id, 0) + 1
        uses[use] = uses.get(use, 0) + 1

    def end(self, use: Use) -> None:
        """It has ended."""
        _decrement(self.by_replica, use[2])
        _decrement(self._uses, use)
        if self._waiting:
            self._wake()

    def busy(self, table: RoutingTable) -> Collection[Use]:
        """Uses under way that `table` no longer names."""
        models = table.models
        return {use for use in self._uses if not names(models.get(use[0]), use[1], use[2])}

    async def change(self) -> None:
        """Wait until something has ended."""
        self._waiting += 1
        try:
            await self._ended.wait()
        finally:
            self._waiting -= 1

    def _wake(self) -> None:
        # A waiter holds the event that it waits for, so a new one can take its place at once.
        self._ended.set()
        self._ended = asyncio.Event()


def _decrement(counts: dict[T, int], key: T) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        # Removed, not kept at 0: replicas and versions come and go for ever.
        del counts[key]
