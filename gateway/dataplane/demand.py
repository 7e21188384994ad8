"""What is asked of the models whose replicas follow from that, in this process.

How many requests are in flight is looked at ten times a second instead of being added up by each
request: over a minute the average is as good, and a request costs nothing but one addition
(`ModelState.came`). While the table names no such model, nothing runs here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from gateway.core.autoscale import Demand
from gateway.core.route import RoutingTable
from gateway.dataplane.turns import ModelState

LOOK_S = 0.1
"""Between two looks. A sixtieth of the short window: what comes and goes in between is met by as
many looks as its share of the time says, on average."""


_SAME_LOOK_S = 0.001
"""Whoever wants all models' counts asks for one after the other; that is one look."""


class DemandCounts:
    """Counts of one process, since it began."""

    def __init__(
        self,
        in_flight: Mapping[str, int],
        states: Mapping[str, ModelState],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._in_flight = in_flight
        self._states = states
        self._loop = loop
        self._request_s: dict[str, float] = {}
        self._at = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._told: set[str] = set()
        self._calls: set[str] = set()
        self._calling = asyncio.Event()

    def keep(self, table: RoutingTable) -> None:
        """Count for the models that this table says."""
        self._look()
        scaled = [name for name, model in table.models.items() if model.is_scaled]
        self._request_s = {name: self._request_s.get(name, 0.0) for name in scaled}
        self._told.clear()
        if scaled and self._timer is None and not self._is_closed:
            self._timer = self._loop.call_later(LOOK_S, self._tick)

    def of(self, model: str) -> Demand:
        """What was asked of `model` until now."""
        self._look()
        state = self._states.get(model)
        return Demand(self._request_s.get(model, 0.0), 0 if state is None else state.came)

    def all(self) -> dict[str, Demand]:
        """Of every model that is counted."""
        return {name: self.of(name) for name in self._request_s}

    def call(self, model: str) -> None:
        """A request of `model` waits, and there is no replica. Told once for each table."""
        if model not in self._told:
            self._told.add(model)
            self._calls.add(model)
            self._calling.set()

    async def called(self) -> Collection[str]:
        """Wait until models are called for; returns their names."""
        await self._calling.wait()
        self._calling.clear()
        calls, self._calls = self._calls, set()
        return calls

    def close(self) -> None:
        """Look no more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = None
        self._look()
        if self._request_s:
            self._timer = self._loop.call_later(LOOK_S, self._tick)

    def _look(self) -> None:
        now = self._loop.time()
        seconds = now - self._at
        if seconds < _SAME_LOOK_S:
            return
        self._at = now
        in_flight = self._in_flight
        for name in self._request_s:
            if name in in_flight:
                self._request_s[name] += in_flight[name] * seconds


def summed(demands: Collection[Demand]) -> Demand:
    """Of several processes."""
    return Demand(sum(d.request_s for d in demands), sum(d.came for d in demands))
