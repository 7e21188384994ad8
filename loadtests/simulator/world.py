"""Discrete events: requests arrive, wait, are served, fail and are asked again.

Every gateway chooses by its own knowledge only: what it has in flight, and what came back to it.
A request that meets a dead replica, or one that is killed, is asked again as `core.retry` says. The
latency of a request is counted from its arrival, whatever happened to it (open loop).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from gateway.core.retry import Attempt, Failure, RetrySettings, candidates
from gateway.core.route import Target
from gateway.domain.replicas import Endpoint
from loadtests.simulator.policies import Name, Policy, made
from loadtests.simulator.setups import ReplicaSetup, Setup

_NOWHERE = Endpoint("", "", "")
_MAX_ATTEMPTS = RetrySettings().max_attempts


@dataclass(eq=False, slots=True)
class _Request:
    came_at: float
    gateway: Policy
    attempts: list[Attempt] = field(default_factory=list)
    sent_at: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What one policy came to."""

    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0
    retries: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    """By replica."""

    def quantile_s(self, share: float) -> float:
        """Of all answered requests' latencies."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


class _Replica:
    def __init__(self, world: World, replica_id: str, setup: ReplicaSetup) -> None:
        self._world = world
        self.id = replica_id
        self.setup = setup
        self.slowness = setup.slowness
        self.is_up = True
        self._life = 0
        self._waiting: deque[_Request] = deque()
        self._running: dict[_Request, None] = {}

    def arrive(self, request: _Request) -> None:
        if not self.is_up:
            self._world.reply_failed(request, self.id, Failure.CONNECT)
        elif len(self._running) < self.setup.workers:
            self._start(request)
        else:
            self._waiting.append(request)

    def _start(self, request: _Request) -> None:
        self._running[request] = None
        self._world.after(self._world.service_s() * self.slowness, self._done, request, self._life)

    def _done(self, request: _Request, life: int) -> None:
        if life != self._life:
            return
        del self._running[request]
        if self._waiting:
            self._start(self._waiting.popleft())
        self._world.reply(request, self.id, len(self._running) + len(self._waiting))

    def flip(self) -> None:
        """Killed, or back."""
        world, setup = self._world, self.setup
        self.is_up = not self.is_up
        world.after(setup.up_s if self.is_up else setup.down_s, self.flip)
        if not self.is_up:
            self._life += 1
            broken = [*self._running, *self._waiting]
            self._running.clear()
            self._waiting.clear()
            for request in broken:
                world.reply_failed(request, self.id, Failure.RESET)


class World:
    """One run of one policy."""

    def __init__(self, setup: Setup, policy: str, seed: int) -> None:
        self._setup = setup
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._number = count()
        # The same seed is the same load for every policy: what it draws is drawn apart.
        self._arrivals, self._services = Random(seed), Random(seed + 1)
        ids = [f"replica-{n}" for n in range(len(setup.replicas))]
        self._targets = tuple(Target(i, _NOWHERE) for i in ids)
        self._replicas = {
            i: _Replica(self, i, one) for i, one in zip(ids, setup.replicas, strict=True)
        }
        names = [Name(i) for i in ids]
        self.gateways = [made(policy, names, Random(seed + 2 + n)) for n in range(setup.gateways)]
        mean_s, sigma = setup.service_s, setup.sigma
        self._mu = math.log(mean_s) - sigma * sigma / 2.0
        self._rate = setup.rate_per_s()
        self.outcome = Outcome(calls=dict.fromkeys(ids, 0))

    def run(self) -> Outcome:
        """Until every request has ended."""
        setup = self._setup
        for replica in self._replicas.values():
            if replica.setup.down_s:
                self.after(replica.setup.up_s, replica.flip)
        for at, index, slowness in setup.slowed:
            self.after(at, self._slow, f"replica-{index}", slowness)
        self._next_arrival()
        while self._events:
            self._now, _, act, args = heapq.heappop(self._events)
            if self._now > setup.duration_s and act.__name__ == "flip":
                continue
            act(*args)
        return self.outcome

    # ---- for the replicas --------------------

    def after(self, delay_s: float, act: Callable[..., None], *args: object) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self._now + delay_s, next(self._number), act, args))

    def service_s(self) -> float:
        """How long the next request takes on a replica that is not slowed."""
        return self._services.lognormvariate(self._mu, self._setup.sigma)

    def reply(self, request: _Request, replica_id: str, in_flight: int) -> None:
        """The answer, with what the replica then holds."""
        self.after(self._setup.network_s, self._answered, request, replica_id, in_flight)

    def reply_failed(self, request: _Request, replica_id: str, failure: Failure) -> None:
        """It will not be answered."""
        self.after(self._setup.network_s, self._failed, request, replica_id, failure)

    # ---- events --------------------

    def _slow(self, replica_id: str, slowness: float) -> None:
        self._replicas[replica_id].slowness = slowness

    def _next_arrival(self) -> None:
        setup, rng = self._setup, self._arrivals
        is_burst = self._now % setup.burst_every_s < setup.burst_s
        rate = self._rate * (setup.burst_factor if is_burst else 1.0)
        wait_s = rng.expovariate(rate)
        if self._now + wait_s < setup.duration_s:
            self.after(wait_s, self._arrive, rng.randrange(setup.gateways))

    def _arrive(self, gateway: int) -> None:
        self._next_arrival()
        self._ask(_Request(self._now, self.gateways[gateway]))

    def _ask(self, request: _Request) -> None:
        left = candidates(self._targets, 1, request.attempts)
        gateway = request.gateway
        chosen = gateway.choose([Name(t.replica_id) for t in left], self._now).replica_id
        gateway.in_flight[chosen] = gateway.in_flight.get(chosen, 0) + 1
        request.sent_at = self._now
        self.outcome.calls[chosen] += 1
        self.after(self._setup.network_s, self._replicas[chosen].arrive, request)

    def _answered(self, request: _Request, replica_id: str, in_flight: int) -> None:
        gateway = request.gateway
        gateway.in_flight[replica_id] -= 1
        gateway.answered(replica_id, self._now - request.sent_at, in_flight, self._now)
        if request.came_at >= self._setup.warm_up_s:
            self.outcome.latencies_s.append(self._now - request.came_at)

    def _failed(self, request: _Request, replica_id: str, failure: Failure) -> None:
        gateway = request.gateway
        gateway.in_flight[replica_id] -= 1
        gateway.failed(replica_id, self._now)
        request.attempts.append(Attempt(replica_id, 1, failure))
        if len(request.attempts) < _MAX_ATTEMPTS:
            self.outcome.retries += 1
            self._ask(request)
        else:
            self.outcome.failed += 1


def simulate(setup: Setup, policy: str, seed: int) -> Outcome:
    """Run one policy through one setup; the same arguments give the same outcome."""
    return World(setup, policy, seed).run()
