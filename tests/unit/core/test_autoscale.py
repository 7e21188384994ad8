"""How many replicas there should be: one look after the other, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.autoscale import (
    AutoscaleSettings,
    Demand,
    Memory,
    Seen,
    Span,
    average,
    begun,
    decide,
    default_target,
)
from gateway.domain.models import Batching, Scaling

SETTINGS = AutoscaleSettings()
SCALING = Scaling(least=1, most=10, target=4.0)
TO_ZERO = Scaling(least=0, most=10, target=4.0, idle_s=300.0)


class Model:
    """Looks once a second, with so many in flight since the last look."""

    def __init__(
        self, existing: int = 1, scaling: Scaling = SCALING, *, is_proven: bool = True
    ) -> None:
        self.scaling = scaling
        self.now = 1000.0
        self.request_s, self.came = 7.0, 3
        self.memory = begun(existing, scaling, self.now, is_proven=is_proven)
        self.ready: int | None = None
        """None: all that are wanted are ready."""
        self.look(0.0, seconds=0.0)

    def look(
        self, in_flight: float, times: int = 1, seconds: float = 1.0, needed: str = "", **seen
    ) -> Memory:
        for _ in range(times):
            self.now += seconds
            self.request_s += in_flight * seconds
            self.came += in_flight > 0
            ready = self.memory.wanted if self.ready is None else self.ready
            demand = Demand(self.request_s, self.came)
            one = Seen(self.now, self.scaling, demand, ready, needed=needed, **seen)
            self.memory = decide(self.memory, one, SETTINGS)
        return self.memory

    def until_changed(self, in_flight: float, most: int = 1000) -> int:
        """Seconds until the number of replicas changed."""
        before = self.memory.wanted
        for seconds in range(1, most):
            if self.look(in_flight).wanted != before:
                return seconds
        raise AssertionError(f"it stays at {before}")


@pytest.mark.parametrize(("rows", "target"), [(1, 2.0), (2, 4.0), (4, 8.0), (32, 8.0), (1024, 8.0)])
def test_the_target_follows_from_the_batch_and_is_small(rows, target):
    assert default_target(Batching(max_rows=rows)) == target


def test_an_average_takes_what_lies_in_the_window_and_what_was_not_seen_as_quiet():
    spans = [Span(until=10.0, seconds=10.0, request_s=50.0), Span(12.0, 2.0, 20.0)]
    assert average(spans, 2.0, 12.0) == 10.0
    assert average(spans, 4.0, 12.0) == (20.0 + 10.0) / 4
    assert average(spans, 24.0, 12.0) == 70.0 / 24
    assert average(spans, 2.0, 13.0) == 5.0
    assert average([], 2.0, 12.0) == 0.0


@pytest.mark.parametrize(
    ("existing", "scaling", "is_proven", "wanted"),
    [
        (0, SCALING, True, 1),
        (3, SCALING, True, 3),
        (12, SCALING, True, 10),
        (0, TO_ZERO, True, 0),
        (2, TO_ZERO, True, 2),
        (0, TO_ZERO, False, 1),
    ],
)
def test_a_new_gateway_begins_with_what_there_is(existing, scaling, is_proven, wanted):
    assert begun(existing, scaling, 5.0, is_proven=is_proven).wanted == wanted


def test_the_long_average_decides_and_says_its_numbers():
    model = Model(existing=2)
    model.look(6.0, times=60)
    assert model.memory.wanted == 2
    # 12 in flight become the average of a minute: 8.8 (and a bit) are too many for two.
    seconds = model.until_changed(12.0)
    assert 25 <= seconds <= 35
    assert model.memory.wanted == 3
    assert model.memory.why == "4.5 in flight per replica over 60 s, target 4"


def test_a_burst_is_followed_at_once_by_the_short_average():
    model = Model(existing=1)
    seconds = model.until_changed(30.0)
    assert seconds <= 2
    assert "over 6 s" in model.memory.why
    model.look(30.0, times=6)
    assert model.memory.wanted == 7  # the eighth is within the tolerance
    assert model.now < model.memory.panic_until


def test_less_than_twice_the_target_is_no_burst():
    model = Model(existing=2)
    model.look(15.0, times=10)
    assert model.memory.wanted == 2


def test_no_more_than_four_for_each_that_is_ready_are_wanted_at_once():
    model = Model(existing=1, scaling=replace(SCALING, most=100))
    model.ready = 1
    model.look(400.0, times=10)
    assert model.memory.wanted == 4
    model.ready = 4
    model.look(400.0)
    assert model.memory.wanted == 16


def test_in_a_panic_nothing_is_taken_away_and_afterwards_step_by_step():
    model = Model(existing=1)
    model.look(33.0, times=8)
    assert model.memory.wanted == 9
    model.look(0.5, times=59)
    assert model.memory.wanted == 9
    steps = [(model.until_changed(0.5), model.memory.wanted) for _ in range(4)]
    assert [wanted for _, wanted in steps] == [5, 3, 2, 1]
    assert all(seconds >= SETTINGS.down_delay_s for seconds, _ in steps[1:])
    assert model.memory.why == "0.2 in flight per replica over 60 s, target 4"


def test_nothing_is_taken_away_before_a_whole_long_window_was_seen():
    model = Model(existing=8)
    assert model.until_changed(1.0) >= SETTINGS.stable_s
    assert model.memory.wanted == 4


@pytest.mark.parametrize("in_flight", [7.3, 8.0, 8.7])
def test_a_load_at_the_edge_moves_nothing(in_flight):
    model = Model(existing=2)
    model.look(in_flight, times=600)
    assert model.memory.wanted == 2


def test_a_load_that_comes_back_in_time_ends_the_way_down():
    model = Model(existing=2)
    model.look(8.0, times=70)
    model.look(1.0, times=45)
    assert model.memory.low_since is not None
    model.look(12.0, times=40)
    assert model.memory.low_since is None
    assert model.memory.wanted >= 2


def test_without_a_request_for_long_enough_there_is_none_and_a_call_brings_one_back():
    model = Model(existing=1, scaling=TO_ZERO)
    model.look(0.3, times=5)
    assert model.until_changed(0.0) == 300
    assert model.memory.wanted == 0
    assert model.memory.why == "no request for 300 s"
    model.look(0.0, times=1000)
    assert model.memory.wanted == 0
    before = model.now
    model.look(0.0, seconds=0.001, is_called=True)
    assert (model.memory.wanted, model.memory.why) == (1, "a request came")
    assert model.now - before < SETTINGS.look_s


def test_one_short_request_in_a_while_keeps_it_up():
    model = Model(existing=1, scaling=TO_ZERO)
    for _ in range(10):
        model.look(0.0, times=200)
        model.came += 1  # too short to be seen in flight
    assert model.memory.wanted == 1


def test_a_request_that_takes_longer_than_the_idle_time_keeps_it_up():
    model = Model(existing=1, scaling=TO_ZERO)
    for _ in range(400):
        model.look(1.0)
        model.came = 4
    assert model.memory.wanted == 1


def test_a_lost_call_is_made_good_by_the_count():
    model = Model(existing=0, scaling=TO_ZERO)
    model.look(0.0, times=5)
    assert model.memory.wanted == 0
    model.came += 1
    assert model.look(0.0).wanted == 1


def test_a_restart_while_there_is_none_wakes_nothing():
    model = Model(existing=0, scaling=TO_ZERO)
    model.look(0.0, times=100)
    assert model.memory.wanted == 0


def test_what_has_to_be_tried_has_a_replica_until_it_was():
    model = Model(existing=0, scaling=TO_ZERO)
    model.look(0.0, needed="version 2 has to be loaded")
    assert (model.memory.wanted, model.memory.why) == (1, "version 2 has to be loaded")
    model.look(0.0, times=400, needed="version 2 has to be loaded")
    assert model.memory.wanted == 1
    assert model.until_changed(0.0) == 300


def test_what_waits_while_none_is_ready_is_no_reason_for_more():
    model = Model(existing=0, scaling=TO_ZERO)
    model.ready = 0
    model.look(0.0, is_called=True, seconds=0.01)
    model.look(200.0, times=30)
    assert model.memory.wanted == 1
    model.ready = 1
    model.look(100.0)
    assert model.memory.wanted == 4


@pytest.mark.parametrize(
    ("scaling", "wanted", "why"),
    [
        (Scaling(5, 10, 4.0), 5, "at least 5 are asked for"),
        (Scaling(1, 2, 4.0), 2, "at most 2 are asked for"),
    ],
)
def test_other_bounds_hold_at_once(scaling, wanted, why):
    model = Model(existing=3)
    model.scaling = scaling
    model.look(0.0, seconds=0.001)
    assert (model.memory.wanted, model.memory.why) == (wanted, why)


def test_asking_more_often_than_it_measures_changes_nothing():
    model = Model(existing=2)
    model.look(100.0, seconds=0.01, times=90)
    assert model.memory.wanted == 2
    assert model.memory.spans == ()


def test_counts_that_begin_anew_are_no_negative_demand():
    model = Model(existing=2)
    model.look(8.0, times=60)
    model.request_s = 0.0
    model.look(8.0, times=5)
    assert 7.0 < model.memory.stable <= 8.0
