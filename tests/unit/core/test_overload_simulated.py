"""Half the capacity, three times the capacity, half again: in virtual time, with the decisions that
the gateway makes (loadtests.overload is the same with real processes)."""

from __future__ import annotations

import math
from statistics import quantiles

import pytest

from gateway.core.queueing import Priority, QueueSettings
from gateway.domain.models import Backend, ModelSpec
from tests.parts.overload_simulator import Outcome, Server, Simulation

PHASE_S = 10.0

SERVERS = {
    "one at a time": Server(lambda _, __: 0.02),
    "eight at once": Server(lambda _, __: 0.04, width=8),
    "uneven": Server(lambda rng, _: rng.lognormvariate(math.log(0.02) - 0.32, 0.8), width=4),
    "batches": Server(lambda _, rows: 0.01 + 0.0006 * rows, batch=32),
    "slow and wide": Server(lambda _, __: 0.2, width=64),
    "without a look at who has left": Server(lambda _, __: 0.04, width=8, drops_cancelled=False),
}


def run(server: Server, deadline_s: float, seed: int = 1, **options) -> Outcome:
    capacity = server.capacity_per_s()
    phases = [(PHASE_S, 0.5 * capacity), (PHASE_S, 3 * capacity), (PHASE_S, 0.5 * capacity)]
    return Simulation(server, seed=seed).run(
        phases, lambda rng: deadline_s * rng.uniform(0.8, 1.2), **options
    )


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_accepted_is_answered_in_time_and_the_server_stays_busy(name, seed):
    server = SERVERS[name]
    out = run(server, 1.0, seed)
    over = out.between(PHASE_S, 2 * PHASE_S)
    assert out.in_time_ratio(out.requests) >= 0.97
    assert out.in_time_ratio(over) >= 0.93  # the first second, of which nothing is known, included
    assert out.in_time_ratio(out.between(PHASE_S + 1, 2 * PHASE_S)) >= 0.99
    assert out.wasted_s < 0.02 * out.work_s
    answered = out.answered(out.between(PHASE_S + 1, 2 * PHASE_S)) / (PHASE_S - 1)
    assert answered > 0.9 * server.capacity_per_s()
    assert out.left == (0, 0)


@pytest.mark.parametrize("name", SERVERS)
def test_it_recovers_within_two_seconds(name):
    out = run(SERVERS[name], 1.0)
    after = out.between(2 * PHASE_S + 2, 3 * PHASE_S)
    assert after
    assert not [r for r in after if r.refused or r.missed]


@pytest.mark.parametrize("name", SERVERS)
def test_half_the_capacity_is_not_refused(name):
    out = run(SERVERS[name], 1.0)
    assert not [r for r in out.between(0, PHASE_S) if r.refused or r.missed]


def starved(**options) -> Outcome:
    """A quick server at a third of what it could do, if others did not take its processor for a
    tenth of a second again and again; deadlines are far."""
    server = Server(lambda _, __: 0.0002, width=2, works_s=0.15, pauses_s=0.1)
    phases = [(PHASE_S, 3000.0)]
    return Simulation(server, seed=3, **options).run(phases, lambda _: 30.0)


def test_a_quick_server_that_others_hold_up_is_neither_refused_nor_throttled():
    most = ModelSpec("m", "s3://m", Backend.ONNX).in_flight_limit
    out = starved(most=most, queue=QueueSettings(most=most))
    assert [r for r in out.requests if r.refused or r.missed] == []

    def p99_s(of: Outcome) -> float:
        return quantiles([r.ended_at - r.came_at for r in of.requests], n=100)[98]

    # What nobody guards takes as long: the waiting is for the server, not for the learnt limit.
    assert p99_s(out) < 1.2 * p99_s(starved(is_guarded=False))
    # That it can tell: bounded by a count that fills in a fifth of a second.
    few = starved(most=512, queue=QueueSettings(most=512))
    assert [r for r in few.requests if r.refused]


def test_higher_priorities_are_served_and_lower_ones_give_way():
    server = SERVERS["eight at once"]
    out = run(server, 1.0, priority=lambda rng: Priority(rng.choice([0, 1, 1, 2, 2, 2])))
    over = out.between(PHASE_S + 1, 2 * PHASE_S)

    def served(priority: Priority) -> float:
        mine = [r for r in over if r.priority is priority]
        return out.answered(mine) / len(mine)

    assert served(Priority.CRITICAL) > 0.99
    assert served(Priority.CRITICAL) > served(Priority.STANDARD) > served(Priority.SHEDDABLE)


def test_without_a_door_the_same_load_is_lost():
    """That the simulator can tell: everything let in, to a queue that knows no deadlines."""
    server = SERVERS["without a look at who has left"]
    phases = [(PHASE_S, 3 * server.capacity_per_s())]
    out = Simulation(server, is_guarded=False).run(phases, lambda rng: rng.uniform(0.8, 1.2))
    assert out.in_time_ratio(out.between(2, PHASE_S)) < 0.2
