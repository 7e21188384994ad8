from __future__ import annotations

from random import Random

import pytest

from gateway.core.balance import BalanceSettings, PeakEwma, choose, load

SETTINGS = BalanceSettings()


def test_a_slower_answer_replaces_the_estimate_at_once():
    assert PeakEwma(0.01, 0.0).observe(2.0, 0.1, 10.0) == PeakEwma(2.0, 0.1)


def test_a_faster_answer_draws_the_estimate_nearer_the_more_time_has_passed():
    soon = PeakEwma(1.0, 0.0).observe(0.1, 0.1, 10.0).latency_s
    late = PeakEwma(1.0, 0.0).observe(0.1, 30.0, 10.0).latency_s
    assert 0.1 < late < 0.2 < 0.9 < soon < 1.0


def test_an_estimate_fades_while_nothing_is_heard_until_nothing_is_known():
    slow = PeakEwma(5.0, 0.0)
    assert slow.estimate(0.0, 10.0) == 5.0
    assert slow.estimate(10.0, 10.0) == pytest.approx(5.0 / 2.718, rel=0.01)
    assert slow.estimate(200.0, 10.0) == 0.0


def test_time_that_runs_backwards_changes_nothing():
    assert PeakEwma(1.0, 5.0).estimate(4.0, 10.0) == 1.0


@pytest.mark.parametrize(
    ("latency_s", "in_flight", "expected"),
    [(0.0, 0, 0.0), (0.0, 1, 2.0), (0.1, 0, 0.1), (0.1, 3, 0.4)],
)
def test_load_is_latency_times_the_requests_it_would_hold(latency_s, in_flight, expected):
    assert load(PeakEwma(latency_s, 0.0), in_flight, 0.0, SETTINGS) == pytest.approx(expected)


def test_a_failed_replica_carries_more_load_than_a_busy_one():
    failed = PeakEwma(0.01, 0.0).observe(SETTINGS.failure_latency_s, 1.0, SETTINGS.decay_s)
    assert load(failed, 0, 1.0, SETTINGS) > load(PeakEwma(0.01, 1.0), 100, 1.0, SETTINGS)


@pytest.mark.parametrize(("candidates", "chosen"), [([], None), (["a"], "a")])
def test_nothing_and_one_leave_no_choice(candidates, chosen):
    assert choose(candidates, lambda _: 1.0, Random(1)) == chosen


def test_equal_load_is_spread_over_all():
    rng = Random(7)
    counts = dict.fromkeys("abcd", 0)
    for _ in range(4000):
        counts[choose("abcd", lambda _: 1.0, rng)] += 1
    assert all(800 < n < 1200 for n in counts.values())
