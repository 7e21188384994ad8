from __future__ import annotations

from random import Random
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.core.ejection import Ejections, EjectionSettings, Standing

SETTINGS = EjectionSettings()
IDS = st.sampled_from("abcdef")


class R(NamedTuple):
    replica_id: str


class EjectionMachine(RuleBasedStateMachine):
    """Answers, errors, failures, replicas that come and go, and time, in any order."""

    @initialize()
    def begin(self):
        self.ejections = Ejections(SETTINGS)
        self.now = 0.0
        self.until: dict[str, float] = {}
        self.there: set[str] = set()
        self.keep({"a", "b", "c"})

    def seen(self, flips):
        for flip in flips:
            if flip is None:
                continue
            if flip.standing is Standing.EJECTED:
                assert flip.cause is not None
                lasts_s = flip.until - self.now
                assert SETTINGS.base_s * 0.999 <= lasts_s <= SETTINGS.max_s * 1.001
                self.until[flip.replica_id] = flip.until
            else:
                assert self.now >= self.until[flip.replica_id]

    @rule(ids=st.sets(IDS, max_size=6))
    def keep(self, ids):
        self.there = ids
        self.until = {r: at for r, at in self.until.items() if r in ids}
        self.ejections.keep({"m": ids}, self.now)

    @rule(replica_id=IDS, times=st.integers(1, 12))
    def answered(self, replica_id, times):
        for _ in range(times):
            self.ejections.answered(replica_id, 0.01)

    @rule(replica_id=IDS, times=st.integers(1, 12))
    def slow(self, replica_id, times):
        for _ in range(times):
            self.ejections.answered(replica_id, 1.0)

    @rule(replica_id=IDS, times=st.integers(1, 12))
    def failed(self, replica_id, times):
        for _ in range(times):
            self.seen([self.ejections.failed(replica_id, self.now)])

    @rule(replica_id=IDS, times=st.integers(1, 30))
    def erred(self, replica_id, times):
        for _ in range(times):
            self.seen([self.ejections.erred(replica_id, self.now)])

    @rule(passed_s=st.floats(0.0, 100.0))
    def wait(self, passed_s):
        self.now += passed_s
        if self.now >= self.ejections.next_look:
            self.seen(self.ejections.look(self.now))

    @invariant()
    def half_at_most_and_never_the_last_of_those_that_an_ejection_could_count(self):
        ejected = {r for r in "abcdef" if self.ejections.standing(r) is Standing.EJECTED}
        assert ejected <= self.there
        targets = [R(r) for r in sorted(self.there)]
        asked = self.ejections.admitted(targets, self.now, Random(1))
        assert bool(asked) is bool(targets)
        if ejected != self.there:
            assert not {t.replica_id for t in asked} & ejected

    @invariant()
    def what_is_marked_is_what_is_not_in_good_standing(self):
        marked = {r for r in self.there if self.ejections.standing(r) is not Standing.GOOD}
        assert self.ejections.marked == marked

    @invariant()
    def nobody_is_forgotten_there(self):
        """Whoever is marked has its end ahead, or at the next look."""
        for replica_id in self.ejections.marked:
            if self.ejections.standing(replica_id) is Standing.EJECTED:
                assert self.ejections.next_look <= self.until[replica_id]

    def teardown(self):
        """Left in peace, everybody is trusted again: what is in the two windows may still eject."""
        for _ in range(5):
            self.now += SETTINGS.max_s + SETTINGS.window_s
            self.ejections.look(self.now)
        assert not self.ejections.marked


class HalfMachine(EjectionMachine):
    """Without replicas that leave, the bound holds at all times."""

    @rule(ids=st.just(set("abcde")))
    def keep(self, ids):
        if not self.there:
            super().keep(set("abcde"))

    @invariant()
    def half_at_most(self):
        ejected = [r for r in self.there if self.ejections.standing(r) is Standing.EJECTED]
        assert len(ejected) <= len(self.there) // 2


EjectionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
HalfMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestEjections = EjectionMachine.TestCase
TestHalf = HalfMachine.TestCase
