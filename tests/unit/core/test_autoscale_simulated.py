"""The autoscaler against replicas that take time to start: it settles, and does not flap."""

from __future__ import annotations

from math import pi, sin

import pytest

from gateway.domain.models import Scaling
from tests.parts.autoscale_simulator import World

SCALING = Scaling(least=1, most=20, target=4.0)
TO_ZERO = Scaling(least=0, most=20, target=4.0, idle_s=300.0)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_steady_load_gets_its_replicas_and_keeps_them(seed):
    # 100/s of 0.2 s each: 20 at work at once, five replicas by the target, six with the tolerance.
    world = World(SCALING, lambda _: 100.0, existing=1, seed=seed).run(900)
    assert len(world.wanted_between(300, 900)) == 1
    assert world.wanted_between(300, 900) <= {5, 6}
    assert world.turns() == 1
    assert max(in_flight for at, _, _, in_flight in world.over_time if at > 60) < 60


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_ramp_is_followed_up_and_down_without_turning(seed):
    def rate(now: float) -> float:
        return max(0.0, 200.0 - abs(now - 600.0) / 3)

    world = World(SCALING, rate, seed=seed).run(1500)
    assert world.turns() <= 3  # one; a burst by chance while there are few is two more
    peak = max(wanted for _, wanted, _, _ in world.over_time)
    assert 10 <= peak <= 12
    assert world.over_time[-1][1] == 1
    assert max(in_flight for _, _, _, in_flight in world.over_time) < 100


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_burst_gets_replicas_within_seconds_and_they_go_slowly(seed):
    world = World(SCALING, lambda now: 200.0 if 300 <= now < 400 else 5.0, seed=seed).run(900)
    first = next(at for at, wanted, _ in world.changes if at >= 300 and wanted > 1)
    assert first <= 304
    assert max(world.wanted_between(300, 330)) >= 10
    assert min(world.wanted_between(330, 400)) >= 10
    assert world.over_time[-1][1] == 1
    assert world.turns(300) == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_wave_is_followed_and_what_is_faster_than_the_window_is_not(seed):
    def slow(now: float) -> float:
        return 80 + 60 * sin(2 * pi * now / 1800)

    def fast(now: float) -> float:
        return 80 + 20 * sin(2 * pi * now / 20)

    world = World(SCALING, slow, existing=5, seed=seed).run(3600)
    assert world.turns() <= 6  # three for two waves; a burst by chance at their bottom is two more
    assert 7 <= max(world.wanted_between(450, 900)) <= 9
    assert 2 in world.wanted_between(1200, 1700)
    world = World(SCALING, fast, existing=5, seed=seed).run(1800)
    assert world.changes == []


def test_the_first_request_after_a_while_starts_one_and_silence_ends_it():
    world = World(TO_ZERO, lambda now: 3.0 if 100 <= now < 130 else 0.0).run(600)
    (up, one, came), (down, none, _) = world.changes
    assert (one, came, none) == (1, "a request came", 0)
    assert up < 102
    assert 425 <= down <= 432
    assert world.queue == 0


def test_a_crowd_that_finds_none_gets_one_first_and_more_when_that_answers():
    world = World(TO_ZERO, lambda now: 120.0 if now >= 10 else 0.0, start_s=8.0).run(300)
    sizes = [wanted for _, wanted, _ in world.changes]
    assert sizes[0] == 1
    assert world.changes[1][0] >= 18
    assert world.wanted_between(250, 300) <= {6, 7, 8}
    assert world.turns() == 1
    assert world.queue < 40
