"""What keeps replicas from starting is told once, and that it is over."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.observed import ModelView, ReplicaView
from gateway.domain.replicas import Replica, ReplicaState
from gateway.lifecycle.waits import AGAIN_S, MOST, Waits, waits
from tests.parts.fakes_lifecycle import published

GPU = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu"
GPU_OF_3 = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
VOLUME = 'FailedMount: secret "model-storage" not found'


def view(**reasons: str) -> ModelView:
    """A model with replicas that are held up, each by its reason; an empty one is not."""
    found = [
        Replica(name, "m", ReplicaState.STARTING, reason=why or "begins", is_held_up=bool(why))
        for name, why in reasons.items()
    ]
    return ModelView("m", replicas=tuple(ReplicaView(r, r.state, (), r.reason) for r in found))


class Log:
    """What was told, look by look."""

    def __init__(self) -> None:
        self.memory = Waits()

    def look(self, at: float, **reasons: str) -> list[str]:
        self.memory, told = waits(self.memory, view(**reasons), at)
        return [one.message for one in told]


def test_a_reason_is_told_once_and_not_once_per_look():
    log = Log()
    assert log.look(0.0, a="") == []
    assert log.look(1.0, a=GPU) == [f"replica a is waiting: {GPU}"]
    assert [log.look(float(at), a=GPU) for at in range(2, 1000)] == [[]] * 998
    assert log.look(1000.0, a="") == ["no replica of m is waiting any more"]
    assert log.look(1001.0, a="") == []


def test_it_names_the_replica_and_the_reason_for_programs():
    _, (told,) = waits(Waits(), view(a=GPU, b=GPU), 0.0)
    assert told.type == "replica.waiting"
    assert told.fields == {"replica": "a", "reason": GPU}
    assert told.message == f"replica a and 1 more are waiting: {GPU}"


def test_another_reason_is_told_at_once():
    log = Log()
    log.look(0.0, a=GPU)
    assert log.look(1.0, a=VOLUME) == [f"replica a is waiting: {VOLUME}"]
    assert log.look(2.0, a=VOLUME, b=GPU) == []


def test_numbers_that_change_are_told_after_a_while_if_they_still_differ():
    log = Log()
    log.look(0.0, a=GPU)
    flapping = [log.look(at, a=GPU if at % 2 else GPU_OF_3) for at in range(1, int(AGAIN_S))]
    assert flapping == [[]] * len(flapping)
    assert log.look(AGAIN_S, a=GPU) == []
    assert log.look(AGAIN_S + 1, a=GPU_OF_3) == [f"replica a is waiting: {GPU_OF_3}"]


def test_one_that_waits_again_is_told_again_after_a_while():
    log = Log()
    log.look(0.0, a=GPU)
    assert log.look(1.0, a="") == ["no replica of m is waiting any more"]
    assert log.look(2.0, a=GPU) == []
    assert log.look(3.0, a="") == []
    assert log.look(AGAIN_S - 1, b=GPU) == []
    assert log.look(AGAIN_S, b=GPU) == [f"replica b is waiting: {GPU}"]
    assert log.look(AGAIN_S + 1, b="") == ["no replica of m is waiting any more"]


def test_replacing_the_pod_that_waits_is_no_news():
    log = Log()
    log.look(0.0, a=GPU)
    assert log.look(1.0, b=GPU) == []


def test_it_is_over_only_when_no_replica_waits():
    log = Log()
    log.look(0.0, a=GPU, b=GPU)
    assert log.look(1.0, a="", b=GPU) == []
    assert log.look(2.0, a="", b="") == ["no replica of m is waiting any more"]


def test_too_many_kinds_of_reasons_are_not_told():
    log = Log()
    names = "abcdefghijklmnop"
    told = [log.look(float(at), a=f"volume {name}") for at, name in enumerate(names)]
    assert [bool(one) for one in told] == [True] * MOST + [False] * (len(names) - MOST)
    assert log.look(AGAIN_S + MOST, a="volume p") == ["replica a is waiting: volume p"]


@pytest.mark.parametrize("state", [ReplicaState.FAILED, ReplicaState.DRAINING])
def test_one_that_failed_or_goes_is_not_waiting(state):
    gone = Replica("a", "m", state, reason=GPU, is_held_up=True)
    seen = ModelView("m", replicas=(ReplicaView(gone, state, (), GPU),))
    assert waits(Waits(), seen, 0.0) == (Waits(), [])


@given(st.lists(st.sampled_from(["", GPU, GPU_OF_3, VOLUME, *"abcdefghijkl"]), max_size=300))
def test_whatever_comes_the_log_and_the_memory_are_bounded(reasons):
    log = Log()
    told = [log.look(float(at), a=why) for at, why in enumerate(reasons)]
    # No longer than AGAIN_S: at most so many, and the end of each.
    assert sum(len(one) for one in told) <= 2 * MOST
    assert len(log.memory.said) <= MOST


@given(st.lists(st.sampled_from(["", GPU, GPU_OF_3, VOLUME]), min_size=1, max_size=50))
def test_what_lasts_is_what_the_log_says_in_the_end(reasons):
    log = Log()
    said = [m for at, why in enumerate(reasons) for m in log.look(float(at), a=why)]
    later = float(len(reasons)) + AGAIN_S
    said += log.look(later, a=reasons[-1])
    ends = [m for m in said if m.startswith("no replica")]
    if reasons[-1]:
        assert said[-1] == f"replica a is waiting: {reasons[-1]}"
    else:
        assert said[-1:] == ends[-1:]


@pytest.mark.virtual_time
async def test_it_is_an_event_of_the_model_and_the_end_of_it_too(world):
    world.scheduler.held_up = GPU
    world.source.show("s3://models/m", published(1))
    await world.deploy(replicas=2)
    await world.until(lambda: "replica.waiting" in world.emitted.types)
    types = world.emitted.types
    # After the replicas' own beginning, and no more often than once however often is looked.
    assert types.index("replica.waiting") > types.index("replica.started")
    for _ in range(20):
        world.lifecycle.poke("m")
        await asyncio.sleep(0.05)
    world.scheduler.let_start()
    await world.until(world.converged)
    assert world.emitted.types.count("replica.waiting") == 1
    assert world.emitted.types.count("replica.resumed") == 1


@pytest.mark.virtual_time
async def test_a_replica_that_fails_long_after_its_start_is_seen_to(world, compared):
    world.scheduler.held_up = GPU
    world.source.show("s3://models/m", published(1))
    await world.deploy()
    await world.until(lambda: "replica.waiting" in world.emitted.types)
    await world.until(lambda: compared.kept)
    world.scheduler.crashing[""] = "exited with code 1"
    world.scheduler.let_start()
    await world.until(lambda: "replica.failed" in world.emitted.types)
