"""Canaries with replicas of their own: the reconcile loop in a world of fakes, in a time that
jumps. Every table that is published is checked against what the replicas hold at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from random import Random

import pytest

from gateway.domain.models import All, Backend, CanaryPlan, ModelSpec, VersionState
from gateway.domain.replicas import CANARY_GROUP, Replica, ReplicaState
from gateway.domain.rollouts import Phase
from gateway.lifecycle import Lifecycle, LifecycleSettings
from tests.parts.fakes_lifecycle import (
    FakeControl,
    FakePlanes,
    FakeScheduler,
    LoopClock,
    published,
)
from tests.parts.jumping_loop import run_jumping
from tests.unit.lifecycle.conftest import URI, World
from tests.unit.lifecycle.test_rollouts import canary, phase, tally

PLAN = CanaryPlan((5.0, 50.0), min_samples=20, step_s=0.0, replicas=2)
SLOW = replace(PLAN, min_samples=10**6)
GOOD = {1: tally(100), 2: tally(30)}
BAD = {1: tally(300), 2: tally(20, failed=6)}


class Watched(FakePlanes):
    """Notes every table that sends somebody where no answer is."""

    def __init__(self, control: FakeControl) -> None:
        super().__init__()
        self.control = control
        self.wrong: list[str] = []
        self.canary_targets: set[str] = set()

    def publish(self, table):
        super().publish(table)
        model = table.models.get("m")
        if model is None or model.live is None:
            return
        if not model.targets.get(model.live) and any(t.models["m"].live for t in self.tables[:-1]):
            self.wrong.append(f"nobody answers for {model.live}")
        for version, target in model.held():
            held = self.control.server(target.endpoint).states.get(version)
            if held is None or held.state is not VersionState.READY:
                self.wrong.append(f"{version} at {target.replica_id}")
        if model.canary is not None:
            self.canary_targets |= {t.replica_id for t in model.canary_targets(model.canary)}


class Ending(FakeScheduler):
    """Notes a replica that is ended while a table sends somebody there."""

    planes: Watched

    async def remove(self, replica_id):
        model = self.planes.table.models.get("m")
        held = model.held() if model is not None else ()
        if any(t.replica_id == replica_id for _, t in held):
            self.planes.wrong.append(f"{replica_id} is ended and still in the table")
        await super().remove(replica_id)


@dataclass
class Apart(World):
    """Two replicas of the model's own, two of a canary's, with the settings that people have."""

    planes: Watched = field(default_factory=lambda: Watched(FakeControl()))
    scheduler: Ending = field(default_factory=Ending)

    def make(self) -> Lifecycle:
        self.planes.control, self.scheduler.planes = self.control, self.planes
        return Lifecycle(
            store=self.store,
            source=self.source,
            scheduler=self.scheduler,
            control=self.control,
            planes=self.planes,
            emit=self.emitted,
            clock=LoopClock(),
            rng=Random(1),
            settings=LifecycleSettings(),
        )

    async def until(self, said: Callable[[], object], seconds: float = 60.0) -> None:
        await super().until(said, seconds)

    def group(self, name: str = CANARY_GROUP, *, draining: bool = False) -> list[Replica]:
        found = [r for r in self.scheduler.replicas() if r.group == name]
        return [r for r in found if (r.state is ReplicaState.DRAINING) is draining]

    def told(self, name: str = CANARY_GROUP) -> set[tuple[int, ...]]:
        return {self.control.server(r.endpoint).told for r in self.group(name) if r.endpoint}

    def is_over(self) -> bool:
        """Only the model's own replicas are left."""
        return self.converged() and {r.group for r in self.scheduler.replicas()} == {""}

    async def deployed(self, plan: CanaryPlan = PLAN, **changes) -> None:
        self.source.show(URI, published(1))
        await self.deploy(replicas=2, canary=plan, **changes)
        await self.until(lambda: self.live() == 1 and self.converged())

    async def begun(self, plan: CanaryPlan = PLAN, **changes) -> None:
        """Version 2 has its first step."""
        await self.deployed(plan, **changes)
        self.source.show(URI, published(1), published(2))
        await self.until(lambda: canary(self) is not None)

    async def update(self, **changes) -> None:
        (record,) = await self.store.models()
        await self.store.put(replace(record.spec, **changes), record.generation)
        self.lifecycle.poke("m")

    async def restarted(self) -> asyncio.Task[None]:
        """Another gateway finds what this one left."""
        self.running.cancel()
        await asyncio.sleep(0.01)
        self.lifecycle = self.make()
        self.planes.tables.clear()
        return asyncio.get_running_loop().create_task(self.lifecycle.run())


def jumping(test: Callable[[Apart], Awaitable[None]]) -> Callable[[], None]:
    """A test with a world of its own; its running gateway is `world.running`."""

    @wraps(test)
    def run() -> None:
        async def played() -> None:
            world = Apart()
            world.scheduler.start_s = 0.5
            world.control.load_s = 0.5
            world.running = asyncio.get_running_loop().create_task(world.lifecycle.run())
            try:
                await test(world)
                assert world.planes.wrong == []
            finally:
                world.running.cancel()
                await asyncio.wait([world.running])
                if not world.running.cancelled():
                    world.running.result()

        run_jumping(played())

    del run.__wrapped__  # pytest would ask for fixtures named as its arguments
    return run


@jumping
async def test_replicas_are_started_for_a_canary_and_hold_it_alone(world):
    world.control.holding.add(2)
    await world.deployed()
    assert world.group() == []
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: world.told() == {(2,)} and len(world.group()) == 2)
    assert (phase(world), canary(world), world.told("")) == (Phase.PENDING, None, {(1,)})
    assert not world.converged()
    world.control.finish(2)
    await world.until(lambda: canary(world) is not None)
    assert world.routed(2) == {r.id for r in world.group()}
    assert world.routed(1) == {r.id for r in world.group("")}
    assert (world.told(""), world.told()) == ({(1,)}, {(2,)})
    await world.until(world.converged)


@jumping
async def test_one_of_them_is_not_enough_to_begin(world):
    await world.deployed()
    world.scheduler.start_s = 5.0
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: len(world.group()) == 2)
    world.scheduler.kill(world.group()[0].id)
    await world.until(lambda: world.routed(2))
    assert (phase(world), canary(world)) == (Phase.PENDING, None)
    await world.until(lambda: canary(world) is not None)
    assert len(world.routed(2)) == 2


@jumping
async def test_a_good_one_is_promoted_and_its_replicas_end_when_all_others_have_it(world):
    await world.begun()
    own = {r.id for r in world.group()}
    world.control.load_s = 20.0
    world.planes.counted = GOOD
    await world.until(lambda: phase(world) is Phase.PROMOTING)
    # Half of the traffic is still theirs while the others load it.
    await world.until(lambda: world.told("") == {(1, 2)})
    assert (canary(world).weight, world.live(), world.routed(2)) == (0.5, 1, own)
    await world.until(lambda: world.live() == 2)
    assert {r.id for r in world.group("")} <= world.routed(2)
    await world.until(world.is_over)
    assert set(world.scheduler.removed) == own
    assert (phase(world), world.told("")) == (Phase.SUCCEEDED, {(2,)})
    assert world.planes.canary_targets == own


@jumping
async def test_a_bad_one_leaves_the_table_first_and_then_its_replicas_go(world):
    await world.begun()
    before = len(world.planes.tables)
    world.planes.counted = BAD
    await world.until(lambda: canary(world) is None)
    assert (world.live(), world.routed(2)) == (1, set())
    await world.until(world.is_over)
    assert phase(world) is Phase.FAILED
    weights = {c.weight for t in world.planes.tables[before:] if (c := t.models["m"].canary)}
    assert weights <= {0.05}
    assert world.told("") == {(1,)}
    assert len(world.scheduler.removed) == 2


@jumping
async def test_replicas_go_only_when_their_requests_have_ended(world):
    await world.begun(SLOW)
    busy = world.group()[0].id
    world.planes.hold("m", 2, busy)
    await world.lifecycle.order("m", "abort")
    await world.until(lambda: len(world.scheduler.removed) == 1)
    await asyncio.sleep(10)
    assert (phase(world), [r.id for r in world.group(draining=True)]) == (
        Phase.ROLLING_BACK, [busy],
    )  # fmt: skip
    world.planes.let_go()
    await world.until(world.is_over)


@jumping
async def test_a_killed_one_is_replaced_and_meanwhile_the_stable_version_answers(world):
    await world.begun(replace(SLOW, replicas=1))
    (victim,) = world.group()
    world.scheduler.kill(victim.id)
    await world.until(lambda: not world.routed(2))
    # Its share falls to the stable version (core/route.py), and nothing is decided meanwhile.
    assert (canary(world).weight, world.live(), phase(world)) == (0.05, 1, Phase.PROGRESSING)
    await world.until(lambda: world.routed(2))
    assert world.group()[0].id != victim.id
    assert world.routed(1) == {r.id for r in world.group("")}


@jumping
async def test_those_that_cannot_start_hold_it_back_and_say_why(world):
    world.scheduler.crashing[CANARY_GROUP] = "exited with code 1: no space left"
    await world.deployed()
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: "rollout.started" in world.emitted.types)
    await asyncio.sleep(30)
    shown = world.lifecycle.view("m").rollout.rollout
    assert shown.phase is Phase.PENDING
    assert shown.reason.startswith("waits until it is loaded: canary replica m-")
    assert shown.reason.endswith("exited with code 1: no space left")
    assert (world.live(), canary(world)) == (1, None)
    assert (await world.store.models())[0].rollout.reason == "waits until it is loaded"
    world.scheduler.heal(CANARY_GROUP)
    await world.until(lambda: canary(world) is not None)


@jumping
async def test_a_version_that_does_not_load_holds_it_back_and_is_given_up_by_abort(world):
    world.control.broken[2] = "bad graph"
    await world.deployed()
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: "bad graph" in world.lifecycle.view("m").rollout.rollout.reason
                      if phase(world) else False)  # fmt: skip
    assert world.told("") == {(1,)}
    await world.lifecycle.order("m", "abort")
    await world.until(world.is_over)
    assert (phase(world), world.live()) == (Phase.FAILED, 1)


@jumping
async def test_pause_promote_and_undo(world):
    await world.begun()
    await world.lifecycle.order("m", "pause")
    world.planes.counted = GOOD
    await asyncio.sleep(30)
    assert (canary(world).weight, phase(world)) == (0.05, Phase.PAUSED)
    await world.lifecycle.order("m", "promote")
    await world.until(lambda: world.live() == 2)
    await world.until(world.is_over)
    world.planes.counted = {}
    await world.lifecycle.order("m", "undo")
    await world.until(lambda: world.live() == 1)
    await world.until(lambda: phase(world) is Phase.SUCCEEDED and world.told("") == {(1,)})
    # In place, with no replicas of its own.
    assert len(world.scheduler.removed) == 2


@jumping
async def test_an_undo_before_its_replicas_are_gone(world):
    await world.begun()
    world.planes.hold("m", 2, world.group()[0].id)
    await world.lifecycle.order("m", "promote")
    await world.until(lambda: phase(world) is Phase.SUCCEEDED)
    await world.lifecycle.order("m", "undo")
    await world.until(lambda: world.live() == 1)
    world.planes.let_go()
    await world.until(world.is_over)
    assert world.told("") == {(1,)}


@jumping
async def test_a_newer_version_takes_over_replicas_that_have_loaded_nothing_yet(world):
    world.control.holding.add(2)
    await world.deployed()
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: world.told() == {(2,)})
    world.source.show(URI, published(1), published(2), published(3))
    await world.until(lambda: canary(world) is not None)
    assert (canary(world).version, world.told(), world.told("")) == (3, {(3,)}, {(1,)})
    assert world.scheduler.removed == []


@jumping
async def test_a_newer_version_waits_for_the_end_and_then_has_its_own_turn(world):
    await world.begun()
    world.source.show(URI, published(1), published(2), published(3))
    await asyncio.sleep(30)
    assert (canary(world).version, world.told()) == (2, {(2,)})
    world.planes.counted = GOOD
    await world.until(lambda: world.live() == 2)
    world.planes.counted = {}
    await world.until(lambda: canary(world) is not None and canary(world).version == 3)
    await world.until(lambda: world.told() == {(3,)} and world.told("") == {(2,)})
    assert world.routed(3) == {r.id for r in world.group()}
    assert world.routed(2) == {r.id for r in world.group("")}


@jumping
async def test_another_gateway_goes_on_with_the_replicas_that_it_finds(world):
    await world.begun(SLOW)
    own = {r.id for r in world.group()}
    world.running = await world.restarted()
    await world.lifecycle.looked()
    assert (canary(world).version, canary(world).weight, world.routed(2)) == (2, 0.05, own)
    assert {r.id for r in world.group()} == own
    await world.lifecycle.order("m", "promote")
    await world.until(world.is_over)
    assert world.live() == 2


@pytest.mark.parametrize("at", [Phase.PENDING, Phase.PROMOTING, Phase.ROLLING_BACK, Phase.FAILED])
def test_another_gateway_finds_it_in_any_phase(at):
    @jumping
    async def play(world):
        if at is Phase.PENDING:
            await world.deployed(SLOW)
            world.scheduler.start_s = 10.0
            world.source.show(URI, published(1), published(2))
            await world.until(lambda: len(world.group()) == 2)
        else:
            await world.begun(SLOW)
            world.control.load_s = 10.0
            if at is Phase.ROLLING_BACK:
                world.planes.hold("m", 2, world.group()[0].id)
            await world.lifecycle.order("m", "promote" if at is Phase.PROMOTING else "abort")
            await world.until(lambda: phase(world) is at)
        world.running = await world.restarted()
        world.planes.let_go()
        await world.lifecycle.looked()
        assert world.live() == 1
        if at is Phase.PENDING:
            await world.until(lambda: canary(world) is not None)
            assert world.routed(2) == {r.id for r in world.group()}
        else:
            await world.until(world.is_over)
            assert world.live() == (2 if at is Phase.PROMOTING else 1)

    play()


@jumping
async def test_what_the_policy_wants_after_a_rollback_is_answered_without_a_gap(world):
    # Under `all`, the version that was taken back may still be asked for by its number.
    await world.begun(policy=All())
    world.control.load_s = 20.0
    await world.lifecycle.order("m", "abort")
    await world.until(lambda: phase(world) is Phase.FAILED)
    while not world.is_over():
        assert world.routed(2)
        await asyncio.sleep(0.1)
    assert world.routed(2) == {r.id for r in world.group("")}


@jumping
async def test_another_source_replaces_both_groups_and_neither_stops_answering(world):
    await world.begun(SLOW)
    before = {r.id for r in world.scheduler.replicas()}
    world.source.show("s3://models/moved", published(1), published(2))
    await world.update(source="s3://models/moved")

    def is_replaced() -> bool:
        assert world.routed(1)
        assert world.routed(2)
        now = {r.id for r in world.scheduler.replicas()}
        return not now & before and world.converged()

    await world.until(is_replaced, 120.0)
    assert (phase(world), canary(world).weight) == (Phase.PROGRESSING, 0.05)
    assert world.routed(2) == {r.id for r in world.group()}


@jumping
async def test_scaling_during_a_rollout_is_of_the_models_own_replicas(world):
    await world.begun(SLOW)
    own = {r.id for r in world.group()}
    await world.update(replicas=4)
    await world.until(lambda: len(world.routed(1)) == 4 and world.converged())
    await world.update(replicas=1)
    await world.until(lambda: len(world.routed(1)) == 1 and world.converged())
    assert ({r.id for r in world.group()}, world.routed(2)) == (own, own)


@jumping
async def test_another_number_is_for_the_next_rollout(world):
    await world.begun()
    await world.update(canary=replace(PLAN, replicas=0))
    await asyncio.sleep(30)
    assert len(world.group()) == 2
    world.planes.counted = GOOD
    await world.until(world.is_over)
    assert world.live() == 2


@jumping
async def test_deleting_the_model_ends_both_groups(world):
    await world.begun(SLOW)
    await world.store.delete("m", None)
    world.lifecycle.poke("m")
    await world.until(lambda: not world.scheduler.replicas())
    await world.until(lambda: world.lifecycle.view("m") is None)
    await world.store.put(ModelSpec("m", URI, Backend.ONNX, replicas=2, canary=PLAN), None)
    world.lifecycle.poke("m")
    await world.until(lambda: world.live() == 2 and world.converged())
    assert (world.group(), phase(world)) == ([], None)


@jumping
async def test_those_that_cannot_start_go_with_the_rollout(world):
    world.scheduler.crashing[CANARY_GROUP] = "exited with code 1"
    await world.deployed()
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: "replica.failed" in world.emitted.types)
    await world.lifecycle.order("m", "abort")
    await world.until(world.is_over)
    assert (phase(world), world.live()) == (Phase.FAILED, 1)
