from __future__ import annotations

from random import Random
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.balance import RULES, Balancer, BalanceSettings


class R(NamedTuple):
    replica_id: str


seconds = st.floats(0.0, 1e4)
works = st.lists(st.floats(1e-4, 1e3), min_size=2, max_size=20, unique=True)
events = st.lists(
    st.tuples(
        st.sampled_from("abcde"),
        st.sampled_from(("answered", "reported", "failed", "abandoned")),
        st.floats(0.0, 100.0),
        st.integers(0, 50),
        st.integers(0, 50),
        st.floats(0.0, 10.0),
    ),
    max_size=40,
)


def played(said, rule="work"):
    """A balancer after these events, and the time then."""
    balancer, now = Balancer(BalanceSettings(rule=rule)), 0.0
    for replica_id, kind, took_s, in_flight, reported, passed_s in said:
        now += passed_s
        match kind:
            case "failed":
                balancer.failed(replica_id, now)
            case "abandoned":
                balancer.abandoned(replica_id, took_s, in_flight, now)
            case _:
                told = reported if kind == "reported" else None
                balancer.answered(replica_id, took_s, in_flight, told, now)
    return balancer, now


@given(works, st.integers())
def test_the_worst_of_several_is_never_chosen(values, seed):
    balancer = Balancer(BalanceSettings())
    for index, work_s in enumerate(values):
        balancer.answered(str(index), work_s, 0, None, 0.0)
    targets = [R(str(index)) for index in range(len(values))]
    worst = R(str(values.index(max(values))))
    assert balancer.choose(targets, {}, 0.0, Random(seed)) != worst


@given(
    events,
    st.sampled_from(RULES),
    st.integers(),
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 99)),
)
def test_whatever_happened_one_of_the_targets_is_chosen_and_it_replays(said, rule, seed, in_flight):
    targets = [R(r) for r in "abcde"]
    picked = []
    for _ in range(2):
        balancer, now = played(said, rule)
        picked.append(balancer.choose(targets, in_flight, now, Random(seed)))
    assert picked[0] in targets
    assert picked[0] == picked[1]


@given(events)
def test_estimates_stay_within_what_was_seen(said):
    balancer, _ = played(said)
    for replica_id in "abcde":
        mine = [e for e in said if e[0] == replica_id and e[1] != "failed"]
        load = balancer.load(replica_id)
        assert 0.0 <= load.work_s <= max([e[2] for e in mine], default=0.0) * (1 + 1e-9)
        assert 0 <= load.others <= max([e[4] for e in mine], default=0)


@given(seconds, st.integers(1, 1000), st.integers())
def test_of_two_equal_ones_the_emptier_is_chosen(work_s, more, seed):
    balancer = Balancer(BalanceSettings())
    for replica_id in "ab":
        balancer.answered(replica_id, work_s + 1e-3, 0, None, 0.0)
    targets = [R("a"), R("b")]
    assert balancer.choose(targets, {"a": more}, 0.0, Random(seed)) == R("b")
