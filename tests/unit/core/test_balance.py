from __future__ import annotations

from random import Random
from typing import NamedTuple

import pytest

from gateway.core.balance import RULES, Balancer, BalanceSettings

SETTINGS = BalanceSettings()


class R(NamedTuple):
    replica_id: str


A, B, C, D = map(R, "abcd")


def heard(**took_s: float) -> Balancer:
    """One that has had an answer from each of these at 0.0, with nothing else in flight."""
    balancer = Balancer(SETTINGS)
    for replica_id, took in took_s.items():
        balancer.answered(replica_id, took, 0, None, 0.0)
    return balancer


def chosen(balancer, targets, in_flight=None, now=0.0, seeds=20):
    """Everybody who is chosen, over many draws."""
    return {balancer.choose(targets, in_flight or {}, now, Random(s)) for s in range(seeds)}


@pytest.mark.parametrize(("targets", "expected"), [((), {None}), ((A,), {A})])
def test_nothing_and_one_leave_no_choice(targets, expected):
    assert chosen(heard(), targets) == expected


@pytest.mark.parametrize(
    ("in_flight", "expected"),
    [
        ({}, {A}),  # 10 ms against 50 ms
        ({"a": 3}, {A}),  # 40 against 50
        ({"a": 4}, {A, B}),  # 50 against 50: whoever is first in the draw
        ({"a": 5}, {B}),  # 60 against 50
        ({"a": 5, "b": 1}, {A}),  # 60 against 100
    ],
)
def test_load_is_the_work_of_one_request_times_what_would_be_held(in_flight, expected):
    assert chosen(heard(a=0.010, b=0.050), (A, B), in_flight) == expected


def test_work_is_what_an_answer_took_by_what_its_replica_held():
    balancer = heard()
    balancer.answered("a", 0.5, 9, None, 0.0)  # ten at once, half a second
    balancer.answered("b", 0.1, 0, None, 0.0)
    assert balancer.load("a").work_s == pytest.approx(0.05)
    assert chosen(balancer, (A, B)) == {A}


def test_what_others_have_there_counts_while_the_report_is_fresh():
    balancer = heard(b=0.150)
    balancer.answered("a", 0.100, 0, 4, 0.0)  # four of others, and ours, which is answered
    assert balancer.load("a").others == 4
    assert balancer.held("a", 1, 0.05) == pytest.approx(1 + 4 * 0.5)
    assert balancer.held("a", 1, 0.1) == 1
    assert chosen(balancer, (A, B), now=0.04) == {B}  # 100 ms times 3.4, against 150
    assert chosen(balancer, (A, B), now=0.099) == {A}


def test_a_report_of_less_than_we_have_on_the_way_means_no_others():
    balancer = heard()
    balancer.answered("a", 0.01, 3, 1, 0.0)
    assert balancer.load("a").others == 0


def test_a_newcomer_gets_one_request_at_once_and_more_when_it_has_answered():
    balancer = heard(a=0.010)
    assert chosen(balancer, (A, B)) == {B}
    assert chosen(balancer, (A, B), {"b": 1}) == {A}
    assert chosen(balancer, (A, B), {"b": 1, "a": 300}) == {B}


def test_who_failed_is_asked_last_for_a_second_or_until_it_answers():
    balancer = heard(a=0.010, b=0.5)
    balancer.failed("a", 1.0)
    assert chosen(balancer, (A, B), {"b": 5}, now=1.5) == {B}
    assert chosen(balancer, (A, B), now=2.1) == {A}
    balancer.failed("a", 3.0)
    balancer.answered("a", 0.01, 0, None, 3.1)
    assert chosen(balancer, (A, B), now=3.2) == {A}


def test_of_those_who_all_failed_somebody_is_asked():
    balancer = heard(a=0.010, b=0.5)
    balancer.failed("a", 1.0)
    balancer.failed("b", 1.0)
    assert chosen(balancer, (A, B), now=1.1) == {A}


def test_a_newcomer_that_fails_draws_no_more_requests():
    balancer = heard(a=0.010)
    balancer.failed("b", 1.0)
    assert chosen(balancer, (A, B), now=1.1) == {A}


def test_an_estimate_fades_while_nothing_is_heard():
    balancer = heard(slow=0.5)
    slow = R("slow")
    for at in (10.0, 60.0, 110.0, 130.0):
        balancer.answered("a", 0.1, 0, None, at)
        # 0.5 * 30 / (30 + t) is below 0.1 after two minutes
        assert chosen(balancer, (A, slow), now=at) == ({slow} if at > 120 else {A})


def test_giving_up_counts_where_it_took_longer_than_thought():
    balancer = heard(a=0.010)
    balancer.abandoned("a", 0.005, 0, 0.1)
    assert balancer.load("a").work_s == pytest.approx(0.010)
    balancer.failed("a", 0.1)
    balancer.abandoned("a", 5.0, 0, 0.1)
    assert balancer.load("a").work_s == pytest.approx(0.010 + 0.1 * (5.0 - 0.010))
    assert balancer.load("a").failed_at == 0.1


def test_time_that_runs_backwards_does_no_harm():
    balancer = heard()
    balancer.answered("a", 0.01, 0, 3, 100.0)
    assert chosen(balancer, (A, B), {"b": 1}, now=99.0) == {A}


def test_who_left_is_forgotten():
    balancer = heard(a=0.01, b=0.02)
    balancer.keep({"b": ""})
    assert balancer.load("a").work_s == 0.0
    assert balancer.load("b").work_s == 0.02


def test_only_the_drawn_are_compared_and_all_get_their_turn():
    balancer = heard(a=0.01, b=0.01, c=0.01, d=0.01, e=0.01, f=0.02)
    targets = tuple(map(R, "abcdef"))
    rng, counts = Random(7), dict.fromkeys("abcdef", 0)
    for _ in range(6000):
        counts[balancer.choose(targets, {}, 0.0, rng).replica_id] += 1
    assert counts["f"] == 0
    assert all(600 < counts[r] < 2600 for r in "abcde")


@pytest.mark.parametrize(
    ("in_flight", "expected"), [({"a": 1}, A), ({"a": 50}, B), ({"a": 60, "b": 50}, B)]
)
def test_hot_cold_takes_the_faster_of_cold_ones_and_the_emptier_of_hot_ones(in_flight, expected):
    balancer = Balancer(BalanceSettings(rule="hot_cold"))
    for replica_id, took in (("a", 0.010), ("b", 0.050)):
        balancer.answered(replica_id, took, 0, None, 0.0)
    assert balancer.choose((A, B), in_flight, 0.0, Random(1)) == expected


def test_in_flight_is_plain_p2c():
    balancer = Balancer(BalanceSettings(rule="in_flight"))
    balancer.answered("a", 5.0, 0, 100, 0.0)
    assert chosen(balancer, (A, B), {"b": 1}) == {A}


def test_a_rule_that_there_is_not_is_refused():
    assert RULES == ("work", "hot_cold", "in_flight")
    with pytest.raises(ValueError, match="work, hot_cold, in_flight"):
        BalanceSettings(rule="random")


def test_suspects_are_those_that_have_just_failed():
    balancer = Balancer(BalanceSettings())
    balancer.failed("a", 10.0)
    balancer.failed("b", 10.0)
    balancer.answered("b", 0.1, 0, None, 10.1)
    assert balancer.suspects(10.5) == ["a"]
    assert balancer.suspects(10.0 + BalanceSettings().suspect_s) == []
