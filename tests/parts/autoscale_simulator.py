"""A model whose replicas take time to start, under a changing load, scaled by the real decisions.

In steps of a twentieth of a second: requests come at a rate, each replica works on as many at once
as it has slots, for as long as one takes; the others wait. No sockets, no chance but the arrivals'.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from gateway.core import autoscale
from gateway.core.autoscale import AutoscaleSettings, Demand, Memory, Seen
from gateway.domain.models import Scaling

STEP_S = 0.05


@dataclass
class World:
    """One model. `rate_per_s` says how many requests come at a time."""

    scaling: Scaling
    rate_per_s: Callable[[float], float]
    service_s: float = 0.2
    slots: int = 6
    """Half as many again as the tests' target: Knative keeps a replica at 70% of its limit."""
    start_s: float = 5.0
    seed: int = 1
    settings: AutoscaleSettings = field(default_factory=AutoscaleSettings)
    existing: int = 0
    is_proven: bool = True
    now: float = 0.0
    ready: int = 0
    queue: int = 0
    working: deque[float] = field(default_factory=deque)
    """When each of those that are worked on will be done."""
    changes: list[tuple[float, int, str]] = field(default_factory=list)
    """When `wanted` changed, to what, and why."""
    over_time: list[tuple[float, int, int, int]] = field(default_factory=list)
    """Time, wanted, ready, in flight; every second."""

    def run(self, seconds: float) -> World:
        rng = Random(self.seed)
        self.ready = self.existing
        starting: list[float] = []
        request_s, came = 0.0, 0
        memory = autoscale.begun(self.existing, self.scaling, self.now, is_proven=self.is_proven)
        for step in range(round(seconds / STEP_S)):
            self.now = step * STEP_S
            arrivals = _poisson(self.rate_per_s(self.now) * STEP_S, rng)
            came += arrivals
            self.queue += arrivals
            while self.working and self.working[0] <= self.now:
                self.working.popleft()
            while self.queue and len(self.working) < self.ready * self.slots:
                self.queue -= 1
                self.working.append(self.now + self.service_s)
            request_s += (self.queue + len(self.working)) * STEP_S
            before = memory.wanted
            memory = self._look(memory, Demand(request_s, came), bool(arrivals))
            if memory.wanted != before:
                self.changes.append((self.now, memory.wanted, memory.why))
            up = [at for at in starting if at <= self.now]
            starting = [at for at in starting if at > self.now]
            self.ready += len(up)
            while self.ready + len(starting) < memory.wanted:
                starting.append(self.now + self.start_s)
            while self.ready + len(starting) > memory.wanted:
                if starting:
                    starting.pop()
                else:
                    self.ready -= 1
            if step % round(1 / STEP_S) == 0:
                in_flight = self.queue + len(self.working)
                self.over_time.append((self.now, memory.wanted, self.ready, in_flight))
        return self

    def _look(self, memory: Memory, demand: Demand, has_arrived: bool) -> Memory:
        is_called = has_arrived and self.ready == 0
        seen = Seen(self.now, self.scaling, demand, self.ready, is_called)
        return autoscale.decide(memory, seen, self.settings)

    def wanted_between(self, begin: float, end: float) -> set[int]:
        return {wanted for at, wanted, _, _ in self.over_time if begin <= at < end}

    def turns(self, begin: float = 0.0) -> int:
        """How often it went down after it had gone up, or up after down."""
        sizes = [wanted for at, wanted, _ in self.changes if at >= begin]
        moves = [b > a for a, b in pairwise(sizes)]
        return sum(a != b for a, b in pairwise(moves))


def _poisson(mean: float, rng: Random) -> int:
    """Knuth's; the means here are small."""
    count, left = 0, rng.expovariate(1.0) if mean else float("inf")
    while left < mean:
        count += 1
        left += rng.expovariate(1.0)
    return count
