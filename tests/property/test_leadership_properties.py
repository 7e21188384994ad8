"""An election simulated in virtual time: clocks of their own, slow answers, lost ones, deaths.

Every gateway has a clock that runs up to a quarter too fast or too slow and shows anything. The
database executes what one gateway asks in the order in which it was asked, as one connection does.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from itertools import combinations, count
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.leadership import (
    LeaseSettings,
    Standing,
    answered,
    ends_at,
    granted,
    leads,
    pause_s,
    unanswered,
)
from gateway.domain.gateways import Lease

S = LeaseSettings()


@dataclass
class Candidate:
    name: str
    rate: float
    """Its seconds in one second of the database's."""
    offset: float
    standing: Standing = field(default_factory=Standing)
    is_alive: bool = True
    busy_until: float = 0.0
    """When its connection has executed what it was given."""
    led: list[list[float]] = field(default_factory=list)
    """[epoch, from, to] in true time."""

    def clock(self, t: float) -> float:
        return self.offset + self.rate * t

    def true(self, clock: float) -> float:
        return (clock - self.offset) / self.rate

    def take(self, standing: Standing, t: float) -> None:
        if self.led and self.led[-1][2] > t:
            self.led[-1][2] = t
        self.standing = standing
        if standing.epoch is not None and leads(standing, self.clock(t), S):
            self.led.append([standing.epoch, t, self.true(ends_at(standing, S))])


class World:
    def __init__(self, rng: Random, candidates: list[Candidate], trouble: float) -> None:
        self.rng = rng
        self.candidates = candidates
        self.trouble = trouble
        self.lease = Lease("", 0)
        self.ends_at = 0.0
        self.now = 0.0
        self.written: list[int] = []
        self._order = count()
        self._events: list[tuple[float, int, object]] = []
        for one in candidates:
            self.at(rng.random(), lambda one=one: self.ask(one))

    def at(self, t: float, what: object) -> None:
        heapq.heappush(self._events, (t, next(self._order), what))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()  # type: ignore[operator]
        self.now = until

    def delay(self) -> float:
        if self.rng.random() < self.trouble:
            return self.rng.choice((0.5, 3.0, 9.0, 14.0, 30.0)) * self.rng.random()
        return 0.01 * self.rng.random()

    def ask(self, one: Candidate) -> None:
        if not one.is_alive:
            return
        sent = one.clock(self.now)
        is_leader = leads(one.standing, sent, S)
        asked = one.standing.epoch if is_leader else None
        limit = ends_at(one.standing, S) - sent if is_leader else S.renew_s
        state = {"answered": False}
        executed = max(self.now + self.delay(), one.busy_until)
        one.busy_until = executed
        is_lost = self.rng.random() < self.trouble / 3

        def execute() -> None:
            seen = replace(self.lease, remaining_s=self.ends_at - self.now)
            mine = granted(seen, one.name, "", asked, "")
            if mine is not None:
                self.lease, self.ends_at = mine, self.now + S.lease_s
                seen = replace(mine, remaining_s=S.lease_s)
            if not is_lost:
                self.at(self.now + self.delay(), lambda: answer(seen))

        def answer(seen: Lease) -> None:
            if state["answered"] or not one.is_alive:
                return
            state["answered"] = True
            now = one.clock(self.now)
            one.take(answered(one.name, asked, sent, seen, now, S), self.now)
            self.again(one)

        def give_up() -> None:
            if state["answered"] or not one.is_alive:
                return
            state["answered"] = True
            one.take(unanswered(one.standing, one.clock(self.now), S), self.now)
            self.again(one)

        self.at(executed, execute)
        self.at(self.now + limit / one.rate, give_up)

    def again(self, one: Candidate) -> None:
        if one.standing.epoch is not None:
            self.write(one, one.standing.epoch)
        pause = pause_s(one.standing, one.clock(self.now), S, self.rng)
        self.at(self.now + max(0.001, pause / one.rate), lambda: self.ask(one))

    def write(self, one: Candidate, epoch: int) -> None:
        """A write of the term, which may arrive long after it is over."""

        def arrive() -> None:
            if self.lease.epoch == epoch:
                self.written.append(epoch)

        self.at(self.now + self.delay() + (30.0 if self.rng.random() < 0.2 else 0.0), arrive)

    def leaders(self) -> list[Candidate]:
        return [
            c for c in self.candidates if c.is_alive and leads(c.standing, c.clock(self.now), S)
        ]


def made(seed: int, size: int, trouble: float) -> World:
    rng = Random(seed)
    candidates = [
        Candidate(f"g{i}", rng.uniform(0.75, 1.25), rng.uniform(-1e6, 1e6)) for i in range(size)
    ]
    return World(rng, candidates, trouble)


worlds = st.builds(
    made, st.integers(0, 2**32), st.integers(2, 5), st.sampled_from((0.0, 0.1, 0.4, 0.8))
)


@settings(deadline=None, max_examples=150)
@given(worlds, st.lists(st.tuples(st.floats(1, 280), st.integers(0, 4)), max_size=4))
def test_two_never_lead_at_once_and_epochs_only_grow(world, deaths):
    for t, which in sorted(deaths):
        world.run(t)
        victim = world.candidates[which % len(world.candidates)]
        if victim.led and victim.led[-1][2] > t:
            victim.led[-1][2] = t
        victim.is_alive = False
    world.run(300.0)
    terms = sorted(
        (begin, end, epoch, c.name) for c in world.candidates for epoch, begin, end in c.led
    )
    for (_, end, epoch, name), (begin, _, later, other) in combinations(terms, 2):
        if name != other:
            assert end <= begin
            assert epoch < later
        else:
            assert epoch <= later
    assert world.written == sorted(world.written)


@settings(deadline=None, max_examples=80)
@given(worlds, st.integers(0, 2**16))
def test_after_trouble_somebody_leads_and_a_dead_leader_is_followed_within_its_lease(world, seed):
    world.run(120.0)
    world.trouble = 0.0
    # What is under way from before takes a minute to die down.
    world.run(200.0)
    assert len(world.leaders()) == 1
    (leader,) = world.leaders()
    world.run(200.0 + Random(seed).uniform(0.0, 5.0))
    leader.is_alive = False
    died = world.now
    # Each waits by its own clock, which may be a quarter off; the lease itself is the database's.
    world.run(died + S.lease_s + (S.lease_s + 0.2 * S.retry_s) * 0.34 + 0.1)
    assert len(world.leaders()) == 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 5), st.floats(0.0, 5.0))
def test_with_right_clocks_the_next_leads_within_the_lease_and_a_moment(seed, size, after):
    world = made(seed, size, 0.0)
    for one in world.candidates:
        one.rate = 1.0
    world.run(60.0 + after)
    (leader,) = world.leaders()
    leader.is_alive = False
    world.run(world.now + S.lease_s + 0.1 * S.retry_s + 0.05)
    assert len(world.leaders()) == 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 5))
def test_without_trouble_the_same_one_leads_for_ever(seed, size):
    world = made(seed, size, 0.0)
    world.run(5.0)
    (leader,) = world.leaders()
    world.run(600.0)
    assert world.leaders() == [leader]
    assert {epoch for epoch, _, _ in leader.led} == {1}
