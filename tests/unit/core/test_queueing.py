from __future__ import annotations

import pytest

from gateway.core.limits import Limit, LimitSettings
from gateway.core.queueing import Priority, QueueSettings, Turns, priority_of
from gateway.domain.errors import InvalidRequest, Overloaded

CRITICAL, STANDARD, SHEDDABLE = Priority


def turns(at_once=1, most=10, margin=1.25) -> Turns[str]:
    limit = Limit(LimitSettings(initial=at_once, least=1), 1024, 0.0)
    return Turns("m", limit, QueueSettings(most=most, margin=margin))


@pytest.mark.parametrize(
    ("said", "meant"),
    [(None, STANDARD), ("standard", STANDARD), (" Critical ", CRITICAL), ("SHEDDABLE", SHEDDABLE)],
)
def test_priorities_have_names(said, meant):
    assert priority_of(said) is meant


@pytest.mark.parametrize("said", ["", "0", "urgent", "critical,standard"])
def test_other_priorities_are_refused(said):
    with pytest.raises(InvalidRequest, match="critical, standard, sheddable"):
        priority_of(said)


def test_within_the_limit_nobody_waits():
    it = turns(at_once=2)
    assert it.take("a", STANDARD)
    assert it.take("b", SHEDDABLE)
    assert not it.take("c", CRITICAL)
    assert (it.active, it.queue.size) == (2, 1)


def test_who_waits_goes_by_priority_and_then_by_time():
    it = turns()
    assert it.take("first", STANDARD)
    for item, priority in [("s1", SHEDDABLE), ("n1", STANDARD), ("c1", CRITICAL), ("n2", STANDARD)]:
        assert not it.take(item, priority)
    order = []
    while it.give_back():
        order.append(it.next())
        assert it.next() is None
    assert order == ["c1", "n1", "n2", "s1"]
    assert it.active == 0


def test_who_leaves_the_queue_is_not_called():
    it = turns()
    it.take("first", STANDARD)
    it.take("a", STANDARD)
    it.take("b", STANDARD)
    it.queue.remove("a", STANDARD)
    it.queue.remove("a", STANDARD)
    assert it.give_back()
    assert it.next() == "b"


@pytest.mark.parametrize(
    ("newcomer", "goes"), [(CRITICAL, "s2"), (STANDARD, "s2"), (SHEDDABLE, "new")]
)
def test_in_a_full_queue_the_youngest_of_the_lowest_priority_gives_way(newcomer, goes):
    it = turns(most=3)
    it.take("first", STANDARD)
    for item, priority in [("c", CRITICAL), ("s1", SHEDDABLE), ("s2", SHEDDABLE)]:
        it.take(item, priority)
        assert it.displaced() is None
    it.take("new", newcomer)
    assert it.displaced() == goes
    assert it.queue.size == 3


def known(it: Turns[str], per_s: float, base_s: float) -> Turns[str]:
    it.limit.per_s, it.limit._base_s = per_s, base_s
    return it


@pytest.mark.parametrize(
    ("ahead", "left_s", "is_let_in"),
    [(0, 0.001, True), (9, 1.0, True), (99, 1.3, True), (99, 1.2, False), (9, 0.05, False)],
)
def test_the_door_lets_in_what_can_be_answered_in_time(ahead, left_s, is_let_in):
    it = known(turns(), 100.0, 0.1)
    it.active = ahead
    if is_let_in:
        it.check(STANDARD, left_s)
        return
    with pytest.raises(Overloaded) as refused:
        it.check(STANDARD, left_s)
    assert refused.value.reason == "too_late"
    assert 0 < refused.value.retry_after_s < 2


def test_the_door_counts_only_those_who_would_go_before():
    it = known(turns(most=1000), 100.0, 0.1)
    it.take("first", STANDARD)
    for n in range(200):
        it.take(f"s{n}", SHEDDABLE)
    it.check(STANDARD, 0.2)
    with pytest.raises(Overloaded):
        it.check(SHEDDABLE, 0.2)


def test_who_is_called_too_late_is_not_sent():
    it = known(turns(margin=1.5), 100.0, 0.1)
    it.active = 20  # 0.2 s of work, half of it waiting, and half of that as a margin
    assert it.is_worth_sending(0.26)
    assert not it.is_worth_sending(0.24)
    assert it.late(0.1).reason == "expired"
    it.active = 1
    assert it.is_worth_sending(0.001)
