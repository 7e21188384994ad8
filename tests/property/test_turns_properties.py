"""Whoever comes, waits, leaves or is answered: turns are counted right, and nobody is forgotten."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.limits import Limit, LimitSettings
from gateway.core.queueing import Priority, QueueSettings, Turns
from gateway.domain.errors import Overloaded

PLACES = 5


class TurnsMachine(RuleBasedStateMachine):
    """As dataplane.turns and forwarding use it, with lists beside it of what is to be true."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        limit = Limit(LimitSettings(initial=2, least=1, window_answers=4), 8, 0.0)
        self.turns: Turns[int] = Turns("m", limit, QueueSettings(most=PLACES))
        self.active: list[int] = []
        self.waiting: list[tuple[Priority, int]] = []

    def _wake(self) -> None:
        while (item := self.turns.next()) is not None:
            assert item == min(self.waiting)[1], "by priority, then by time"
            self.waiting.remove(min(self.waiting))
            self.active.append(item)

    def refused(self, error: Overloaded) -> None:
        assert error.retry_after_s
        assert self.active, "one with nobody before it is let in"

    @rule(priority=st.sampled_from(Priority), left_s=st.sampled_from([0.01, 0.5, 30.0]))
    def come(self, priority: Priority, left_s: float) -> None:
        self.number += 1
        try:
            if self.turns.active > self.turns.limit.free:
                self.turns.check(priority, left_s)
        except Overloaded as refused:
            self.refused(refused)
            return
        if self.turns.take(self.number, priority):
            self.active.append(self.number)
            return
        self.waiting.append((priority, self.number))
        last = self.turns.displaced()
        if last is not None:
            lowest = max(p for p, _ in self.waiting)
            assert last == max(n for p, n in self.waiting if p == lowest)
            self.waiting = [(p, n) for p, n in self.waiting if n != last]

    @rule(data=st.data(), latency_s=st.sampled_from([0.001, 0.02, 0.3, 5.0]),
          fate=st.sampled_from(["answered", "dropped", "rejected", "gone"]))  # fmt: skip
    def end_one(self, data: st.DataObject, latency_s: float, fate: str) -> None:
        if not self.active:
            return
        self.active.remove(data.draw(st.sampled_from(self.active)))
        self.now += latency_s / 2
        limit = self.turns.limit
        if fate == "answered":
            limit.observe(latency_s, self.now)
        elif fate == "dropped":
            limit.dropped(latency_s, self.now)
        elif fate == "rejected":
            limit.rejected(self.now)
        if self.turns.give_back():
            self._wake()

    @rule(data=st.data())
    def leave_the_queue(self, data: st.DataObject) -> None:
        if self.waiting:
            priority, item = data.draw(st.sampled_from(self.waiting))
            self.turns.queue.remove(item, priority)
            self.waiting.remove((priority, item))

    @rule(most=st.integers(1, 12))
    def change_the_owners_limit(self, most: int) -> None:
        self.turns.limit.most = most

    @invariant()
    def counts_are_true(self) -> None:
        assert self.turns.active == len(self.active)
        assert self.turns.queue.size == len(self.waiting) <= PLACES
        assert self.turns.limit.value >= 1

    @invariant()
    def nobody_waits_while_there_is_a_turn(self) -> None:
        if self.waiting:
            assert self.turns.active >= self.turns.limit.value

    @invariant()
    def what_is_learnt_is_a_number_that_can_be_divided_by(self) -> None:
        per_s = self.turns.limit.per_s
        assert per_s is None or 0 < per_s < 1e9
        assert 0 <= self.turns.limit.finish_s(5) < 1e9
        assert 0 <= self.turns.limit.finish_surely_s(5, 1.25) < 1e9


TurnsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestTurns = TurnsMachine.TestCase
