"""Who is working on what: counts that are released whatever way a request ends.

Counted by model (admission), by replica (load) and by (model, version, replica), which tells the
lifecycle when a version may be unloaded.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from gateway.core.route import RoutingTable
from gateway.domain.names import Version

T = TypeVar("T")

Use = tuple[str, Version, str]
"""(model, version, replica id)."""


class InFlight:
    """The counts of one process. Nothing in here awaits while it changes them."""

    def __init__(self) -> None:
        self.by_model: Counter[str] = Counter()
        self.by_replica: Counter[str] = Counter()
        self._uses: Counter[Use] = Counter()
        self._ended = asyncio.Event()
        self._waiting = 0

    @contextmanager
    def request(self, model: str) -> Iterator[None]:
        """One request of `model`, from admission to its answer."""
        self.by_model[model] += 1
        try:
            yield
        finally:
            _decrement(self.by_model, model)
            self._wake()

    @contextmanager
    def call(self, use: Use) -> Iterator[None]:
        """One call to a replica."""
        self.by_replica[use[2]] += 1
        self._uses[use] += 1
        try:
            yield
        finally:
            _decrement(self.by_replica, use[2])
            _decrement(self._uses, use)
            self._wake()

    def busy(self, table: RoutingTable) -> Collection[Use]:
        """Uses under way that `table` no longer names."""
        return {use for use in self._uses if not _names(table, use)}

    async def change(self) -> None:
        """Wait until something has ended."""
        self._waiting += 1
        try:
            await self._ended.wait()
        finally:
            self._waiting -= 1

    def _wake(self) -> None:
        # A waiter holds the event that it waits for, so a new one can take its place at once.
        if self._waiting:
            self._ended.set()
            self._ended = asyncio.Event()


def _decrement(counts: Counter[T], key: T) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        # Removed, not kept at 0: replicas and versions come and go for ever.
        del counts[key]


def _names(table: RoutingTable, use: Use) -> bool:
    name, version, replica_id = use
    model = table.models.get(name)
    targets = model.targets.get(version, ()) if model is not None else ()
    return any(t.replica_id == replica_id for t in targets)
