"""The simulator shows that the choice is right: ratios with margins, not figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.simulator.policies import POLICIES
from loadtests.simulator.setups import SETUPS, ReplicaSetup, Setup
from loadtests.simulator.world import Outcome, simulate

UNEVEN = replace(SETUPS["uneven"], duration_s=120.0)


def several(setup: Setup, policy: str) -> Outcome:
    """Two seeds together."""
    both = Outcome()
    for seed in (1, 2):
        one = simulate(setup, policy, seed)
        both.latencies_s += one.latencies_s
        both.failed += one.failed
    return both


def test_the_same_seed_gives_the_same_outcome():
    first, second = (simulate(replace(UNEVEN, duration_s=20.0), "ours", 7) for _ in range(2))
    assert first == second
    assert first != simulate(replace(UNEVEN, duration_s=20.0), "ours", 8)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_answered_or_fails(policy):
    setup = replace(UNEVEN, duration_s=30.0, warm_up_s=0.0)
    outcome = simulate(setup, policy, 1)
    ended = len(outcome.latencies_s) + outcome.failed
    assert sum(outcome.calls.values()) == ended + outcome.retries
    assert outcome.failed == 0


def test_one_replica_that_is_hardly_loaded_answers_in_its_service_time():
    setup = Setup((ReplicaSetup(),), gateways=1, sigma=0.0, utilisation=0.05, burst_factor=1.0)
    outcome = simulate(replace(setup, duration_s=100.0), "ours", 1)
    assert outcome.quantile_s(0.5) == pytest.approx(0.051)


@pytest.mark.parametrize("busy", [0.4, 0.7])
def test_uneven_replicas_cost_half_of_plain_p2c_and_a_fifth_of_round_robin(busy):
    setup = replace(UNEVEN, utilisation=busy)
    ours = several(setup, "ours")
    assert ours.failed == 0
    assert ours.quantile_s(0.999) <= 0.5 * several(setup, "plain P2C").quantile_s(0.999)
    assert ours.quantile_s(0.999) <= 0.5 * several(setup, "least connections").quantile_s(0.999)
    assert ours.quantile_s(0.999) <= 0.2 * several(setup, "round robin").quantile_s(0.999)


def test_even_replicas_cost_nothing_of_it():
    setup = replace(SETUPS["even"], duration_s=60.0)
    ours, plain = several(setup, "ours"), several(setup, "plain P2C")
    assert ours.quantile_s(0.99) <= 1.15 * plain.quantile_s(0.99)
    assert ours.quantile_s(0.5) <= 1.15 * plain.quantile_s(0.5)


def test_one_that_was_slow_and_is_not_any_more_gets_its_share_back():
    even = replace(SETUPS["even"], utilisation=0.5, duration_s=120.0)
    setup = replace(even, slowed=((0.0, 3, 5.0), (60.0, 3, 1.0)))
    still = replace(even, slowed=((0.0, 3, 5.0),))
    healed, slow = simulate(setup, "ours", 1).calls, simulate(still, "ours", 1).calls
    assert healed["replica-3"] > 3 * slow["replica-3"]


def test_ejection_saves_most_of_the_attempts_on_one_that_flaps():
    setup = replace(UNEVEN, duration_s=60.0)
    ejecting, asking = simulate(setup, "P2C, ejection", 1), simulate(setup, "plain P2C", 1)
    assert ejecting.retries < asking.retries / 3
