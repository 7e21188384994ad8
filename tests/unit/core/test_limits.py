from __future__ import annotations

import pytest

from gateway.core.limits import Limit, LimitSettings

SETTINGS = LimitSettings()


def windows(limit, count, latency_s, *, rate=1000.0, is_full=True, start=0.0, dropped=0):
    """Let `count` windows pass in which calls take `latency_s`; returns the time."""
    now = start
    for _ in range(count):
        began = limit._window_at
        while limit._window_at == began:
            if is_full:
                limit.queued()
            for _ in range(dropped):
                limit.dropped(latency_s, now)
            now += 1 / rate
            limit.observe(latency_s, now)
    return now


def test_nothing_is_refused_or_known_before_anything_was_seen():
    limit = Limit(SETTINGS, 1024, 0.0)
    assert limit.value == SETTINGS.initial
    assert limit.free == 1024
    assert limit.finish_s(10_000) == limit.finish_surely_s(10_000, 2.0) == 0.0


def test_the_owners_limit_bounds_what_is_learnt():
    limit = Limit(SETTINGS, 40, 0.0)
    windows(limit, 20, 0.01)
    assert limit.value == 40
    assert Limit(SETTINGS, 5, 0.0).value == 5


def test_a_limit_that_is_not_reached_stays():
    limit = Limit(SETTINGS, 1024, 0.0)
    windows(limit, 20, 0.01, is_full=False)
    assert limit.value == SETTINGS.initial
    assert limit.per_s is None


def test_without_adaptation_the_owners_limit_is_the_limit():
    limit = Limit(LimitSettings(is_adaptive=False), 1024, 0.0)
    now = windows(limit, 5, 0.01)
    windows(limit, 20, 5.0, start=now)
    assert limit.value == 1024


def test_while_answers_get_no_slower_the_limit_doubles():
    limit = Limit(SETTINGS, 1024, 0.0)
    windows(limit, 3, 0.01)
    assert limit.value == SETTINGS.initial * 8
    assert limit.per_s is None


def test_slower_answers_cut_the_limit_and_tell_what_replicas_can_do():
    limit = Limit(SETTINGS, 1024, 0.0)
    now = windows(limit, 3, 0.01)
    before = limit.value
    windows(limit, 1, 0.2, start=now, rate=500)
    assert limit.value < before
    assert limit.per_s == pytest.approx(500, rel=0.1)
    assert limit.free == pytest.approx(5, abs=1)


@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize("idle_s", [2.0, 30.0, 3600.0])
def test_a_while_without_requests_says_nothing_of_what_replicas_can_do(idle_s, left):
    limit = Limit(SETTINGS, 1024, 0.0)
    now = windows(limit, 1, 0.005, rate=50, is_full=False)
    for _ in range(left):  # too few to end a window
        now += 0.005
        limit.observe(0.005, now)
    # A crowd that finds the model stopped: its first answers are the first that are waited for.
    now += idle_s
    while limit.per_s is None:
        limit.queued()
        now += 1 / 500
        limit.observe(0.02, now)
    assert limit.per_s == pytest.approx(500, rel=0.5)
    assert limit.finish_surely_s(200, 1.5) < 2.0


@pytest.mark.parametrize("latency_s", [0.0004, 0.004])
def test_a_queue_that_costs_less_than_five_milliseconds_is_let_be(latency_s):
    limit = Limit(SETTINGS, 1024, 0.0)
    now = windows(limit, 1, latency_s / 20)
    before = limit.value
    windows(limit, 3, latency_s, start=now)
    assert limit.value >= before


def test_a_cut_that_costs_throughput_is_taken_back_and_more_is_tolerated():
    limit = Limit(SETTINGS, 1024, 0.0)
    now = windows(limit, 2, 0.01, rate=1000)
    before, tolerated = limit.value, limit._tolerance
    now = windows(limit, 1, 0.1, rate=1000, start=now)
    assert limit.value < before
    windows(limit, 1, 0.05, rate=400, start=now)
    assert limit.value == before
    assert limit._tolerance > tolerated


def test_drops_cut_the_limit():
    limit = Limit(SETTINGS, 1024, 0.0)
    now = windows(limit, 2, 0.01)
    before = limit.value
    windows(limit, 1, 0.02, dropped=1, start=now)
    assert limit.value <= 0.9 * before


def test_replicas_that_say_they_have_too_much_to_do_cut_the_limit():
    limit = Limit(SETTINGS, 1024, 0.0)
    limit.rejected(5.0)
    assert not limit._latencies_s  # before anything is known it says nothing
    now = windows(limit, 2, 0.01)
    before = limit.value
    for _ in range(60):
        limit.queued()
        now += 0.005
        limit.rejected(now)
    assert limit.value < before


def test_deadlines_shorter_than_a_call_takes_say_nothing_of_load():
    limit = Limit(SETTINGS, 1024, 0.0)
    now = windows(limit, 1, 0.1, is_full=False)
    before = (limit.value, limit._base_s)
    for _ in range(100):
        limit.dropped(0.01, now + 10)
    assert (limit.value, limit._base_s) == before
    assert not limit._latencies_s


def test_what_comes_after_others_takes_what_they_take_at_least_a_call():
    limit = Limit(SETTINGS, 1024, 0.0)
    now = windows(limit, 2, 0.05, rate=500)
    windows(limit, 3, 0.2, rate=500, start=now)
    assert limit.finish_s(499) == pytest.approx(1.0, rel=0.1)
    assert limit.finish_s(1) == pytest.approx(0.05, rel=0.1)
    assert limit.finish_surely_s(499, 1.25) > limit.finish_s(499)
    assert limit.finish_s(0) == limit.finish_surely_s(0, 1.25) == 0.0


def test_a_replica_that_answers_nothing_any_more_gets_few():
    limit = Limit(SETTINGS, 1024, 0.0)
    now = windows(limit, 2, 0.01)
    for _ in range(200):
        now += 0.5
        for _ in range(10):
            limit.queued()
            limit.dropped(1.0, now)
    assert limit.value == SETTINGS.least
    assert limit.per_s is not None
    assert limit.per_s > 0
