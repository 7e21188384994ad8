"""Replicas by demand: the reconcile loop in a world of fakes, in a time that jumps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import wraps
from random import Random

from gateway.core.route import is_held
from gateway.domain.models import All, Backend, CanaryPlan, ModelSpec, Scaling, VersionState
from gateway.domain.replicas import ReplicaState
from gateway.lifecycle import Lifecycle, LifecycleSettings
from tests.parts.fakes_lifecycle import LoopClock, published
from tests.parts.jumping_loop import run_jumping
from tests.unit.lifecycle.conftest import URI, World

SETTINGS = LifecycleSettings()
TO_ZERO = Scaling(least=0, most=4, target=4.0, idle_s=300.0)


@dataclass
class Scaled(World):
    """The world with its real windows."""

    def make(self) -> Lifecycle:
        self.planes._asked_at = asyncio.get_running_loop().time()
        return Lifecycle(
            store=self.store,
            source=self.source,
            scheduler=self.scheduler,
            control=self.control,
            planes=self.planes,
            emit=self.emitted,
            clock=LoopClock(),
            rng=Random(1),
            settings=SETTINGS,
        )

    async def until(self, said: Callable[[], object], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not said():  # noqa: ASYNC110 - as in World, less often
                await asyncio.sleep(0.05)

    @property
    def route(self):
        return self.planes.table.models["m"]

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def running(self) -> int:
        states = [r.state for r in self.scheduler.replicas()]
        return sum(s is not ReplicaState.DRAINING for s in states)

    async def deployed(self, scaling: Scaling = TO_ZERO, **changes) -> None:
        self.source.show(URI, published(1))
        await self.deploy(scaling=scaling, **changes)
        await self.until(lambda: self.live() == 1 and self.converged())

    async def idle(self) -> None:
        await self.until(lambda: not self.scheduler.replicas(), 400.0)
        await self.until(lambda: self.converged() and self.lifecycle.view("m").is_idle)

    async def update(self, **changes) -> None:
        (record,) = await self.store.models()
        await self.deploy(expected=record.generation, **changes)


@asynccontextmanager
async def living() -> AsyncIterator[Scaled]:
    world = Scaled()
    world.scheduler.start_s = 3.0
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(world.lifecycle.run())
        yield world
        task.cancel()


def jumping(test: Callable[[Scaled], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        async with living() as world:
            await test(world)

    @wraps(test)
    def wrapped() -> None:
        run_jumping(run())

    del wrapped.__wrapped__  # else pytest looks for a fixture `world`
    return wrapped


@jumping
async def test_a_model_is_tried_once_and_goes_when_nobody_asks(world):
    await world.deployed()
    assert len(world.routed(1)) == 1
    begun = world.now
    await world.idle()
    assert 290 <= world.now - begun <= 310
    route = world.route
    assert (route.live, dict(route.targets), route.is_started_on_demand) == (1, {}, True)
    assert [(s.version, s.state) for s in route.statuses] == [(1, VersionState.READY)]
    assert is_held(world.planes.table, "m")
    assert is_held(world.planes.table, "m", 1)
    assert not is_held(world.planes.table, "m", 2)
    (version,) = world.lifecycle.view("m").versions
    assert (version.state, version.ready_replicas, version.total_replicas) == ("ready", 0, 0)
    assert "the next request starts one" in version.reason
    types = world.emitted.types
    assert "model.unavailable" not in types
    assert "version.unloaded" not in types
    (event,) = [e for e in world.emitted.events if e[0] == "model.autoscaled"]
    assert event[2] == "0 replicas instead of 1: no request for 300 s"
    assert types[-1] == "replica.stopped" or types[-1] == "model.idle"
    assert types.count("model.idle") == 1
    assert types.count("version.ready") == 1
    generation = world.planes.table.generation
    await asyncio.sleep(1000)
    assert world.running == 0
    assert world.planes.table.generation == generation


@jumping
async def test_a_request_that_waits_starts_one_at_once(world):
    await world.deployed()
    await world.idle()
    called = world.now
    world.planes.ask(1.0)
    world.planes.call("m")
    await world.until(lambda: world.routed(1), 10.0)
    assert world.now - called < world.scheduler.start_s + 0.5
    starting = [t.models["m"] for t in world.planes.tables[-3:]]
    assert all(s.state is VersionState.READY for route in starting for s in route.statuses)
    assert "model.unavailable" not in world.emitted.types
    world.planes.ask(0.0)
    await world.idle()


@jumping
async def test_who_comes_while_the_last_one_finishes_is_answered_by_that(world):
    await world.deployed()
    (last,) = world.routed(1)
    await asyncio.sleep(TO_ZERO.idle_s - 10)
    world.planes.hold("m", 1, last)
    await world.until(lambda: not world.routed(1), 20.0)
    (draining,) = world.scheduler.replicas()
    assert draining.state is ReplicaState.DRAINING
    world.planes.ask(1.0)
    world.planes.call("m")
    called = world.now
    await world.until(lambda: world.routed(1) == {last}, 5.0)
    assert world.now - called < 0.2
    world.planes.let_go()
    await asyncio.sleep(10)
    assert [r.id for r in world.scheduler.replicas()] == [last]


@jumping
async def test_a_call_that_was_lost_is_made_good_within_a_look(world):
    await world.deployed()
    await world.idle()
    world.planes.ask(1.0)
    asked = world.now
    await world.until(lambda: world.routed(1), 10.0)
    assert world.now - asked < world.scheduler.start_s + SETTINGS.autoscale.look_s + 0.5


@jumping
async def test_a_gateway_that_restarts_finds_none_and_leaves_it_at_that(world):
    await world.deployed()
    await world.idle()
    started = world.emitted.types.count("replica.started")
    async with asyncio.TaskGroup() as tasks:
        again = world.make()
        task = tasks.create_task(again.run())
        await world.until(lambda: again.view("m") is not None and again.view("m").converged)
        await asyncio.sleep(600)
        assert world.running == 0
        assert is_held(world.planes.table, "m")
        assert world.emitted.types.count("replica.started") == started
        task.cancel()


@jumping
async def test_a_gateway_that_restarts_goes_on_from_the_replicas_that_there_are(world):
    await world.deployed(Scaling(least=0, most=4, target=4.0))
    world.planes.ask(11.0)
    await world.until(lambda: len(world.routed(1)) == 3, 60.0)
    wanted = []
    async with asyncio.TaskGroup() as tasks:
        again = world.make()
        task = tasks.create_task(again.run())
        for _ in range(100):
            await asyncio.sleep(1)
            wanted.append(world.running)
        task.cancel()
    assert set(wanted) == {3}


@jumping
async def test_demand_brings_replicas_and_takes_them_and_no_moment_is_without(world):
    await world.deployed(Scaling(least=1, most=4, target=4.0))
    first = len(world.planes.tables)
    world.planes.ask(30.0)
    await world.until(lambda: len(world.routed(1)) == 4, 20.0)
    view = world.lifecycle.view("m").scale
    assert view.is_panicking
    assert re.fullmatch(r"[\d.]+ in flight per replica over 6 s, target 4", view.why)
    assert (view.wanted, view.at != "") == (4, True)
    world.planes.ask(1.0)
    await world.until(lambda: len(world.routed(1)) == 1, 300.0)
    await world.until(lambda: len(world.scheduler.replicas()) == 1, 5.0)
    tables = world.planes.tables[first - 1 :]
    assert all(t.models["m"].targets.get(1) for t in tables)
    sizes = [e[3]["replicas"] for e in world.emitted.events if e[0] == "model.autoscaled"]
    assert sizes[-3:] == [4, 2, 1]


@jumping
async def test_a_new_version_is_loaded_when_it_comes_and_not_when_somebody_waits(world):
    await world.deployed()
    await world.idle()
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: world.live() == 2, 30.0)
    reasons = [e[3]["reason"] for e in world.emitted.events if e[0] == "model.autoscaled"]
    assert reasons[-1] == "version 2 has to be loaded"
    await world.idle()
    assert world.live() == 2
    assert is_held(world.planes.table, "m", 2)
    assert not is_held(world.planes.table, "m", 1)


@jumping
async def test_a_version_that_cannot_be_loaded_is_tried_once_and_the_old_one_started(world):
    await world.deployed()
    await world.idle()
    world.control.broken[2] = "no ONNX model"
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: "version.failed" in world.emitted.types, 30.0)
    await world.until(lambda: not world.scheduler.replicas(), 400.0)
    assert (world.live(), is_held(world.planes.table, "m")) == (1, True)
    states = {v.version: v.state for v in world.lifecycle.view("m").versions}
    assert states == {1: VersionState.READY, 2: VersionState.FAILED}
    await asyncio.sleep(1000)
    assert world.running == 0


@jumping
async def test_replicas_that_only_fail_are_no_promise_to_who_waits(world):
    await world.deployed()
    await world.idle()
    world.planes.ask(1.0)
    world.planes.call("m")
    await world.until(lambda: world.scheduler.replicas())
    (one,) = world.scheduler.replicas()
    world.scheduler._settle = lambda: None  # a failed one keeps its place, as in the real ones
    for restarts, held in ((0, True), (1, True), (2, False), (3, False)):
        failed = replace(one, state=ReplicaState.FAILED, restarts=restarts, reason="exited")
        world.scheduler._replicas[one.id] = failed
        world.lifecycle.poke("m")
        await asyncio.sleep(0.1)
        assert is_held(world.planes.table, "m") == held, restarts


@jumping
async def test_other_settings_of_its_replicas_are_tried_once(world):
    await world.deployed()
    await world.idle()
    await world.update(scaling=TO_ZERO, before="true")
    assert not world.converged() or world.lifecycle.view("m").generation == 1
    await world.until(lambda: world.routed(1), 10.0)
    await world.idle()


@jumping
async def test_what_replicas_do_not_notice_starts_none(world):
    await world.deployed()
    await world.idle()
    await world.update(scaling=TO_ZERO, timeout_s=5.0)
    await world.until(lambda: world.route.timeout_s == 5.0, 10.0)
    await asyncio.sleep(30)
    assert world.running == 0


@jumping
async def test_a_fixed_number_ends_it_and_a_range_begins_with_what_there_is(world):
    await world.deployed()
    await world.idle()
    await world.update(replicas=2)
    await world.until(lambda: len(world.routed(1)) == 2, 10.0)
    assert not world.route.is_started_on_demand
    assert not world.route.is_scaled
    await world.update(scaling=Scaling(1, 4, 4.0))
    await world.until(lambda: world.route.is_scaled, 10.0)
    await asyncio.sleep(50)
    assert world.running == 2


@jumping
async def test_a_rollout_keeps_one_up_until_it_is_over(world):
    plan = CanaryPlan((50.0,), min_samples=1, step_s=1.0)
    await world.deployed(canary=plan)
    await world.idle()
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: world.route.canary is not None, 30.0)
    await asyncio.sleep(1000)
    assert world.running == 1
    await world.lifecycle.order("m", "abort")
    await world.idle()
    assert world.live() == 1


@jumping
async def test_all_versions_that_the_policy_holds_may_be_asked_for(world):
    world.source.show(URI, published(1), published(2), published(3))
    await world.deploy(scaling=TO_ZERO, policy=All())
    await world.until(lambda: world.live() == 3 and world.converged())
    await world.idle()
    assert all(is_held(world.planes.table, "m", v) for v in (1, 2, 3))
    assert not is_held(world.planes.table, "m", 4)


@jumping
async def test_a_model_without_replicas_is_deleted_at_once(world):
    await world.deployed()
    await world.idle()
    await world.store.delete("m")
    world.lifecycle.poke("m")
    await world.until(lambda: "model.deleted" in world.emitted.types, 5.0)
    assert "m" not in world.planes.table.models


@jumping
async def test_a_model_that_never_answered_keeps_trying(world):
    world.control.broken[1] = "no ONNX model"
    world.source.show(URI, published(1))
    await world.deploy(scaling=TO_ZERO)
    await world.until(lambda: "version.failed" in world.emitted.types, 10.0)
    await asyncio.sleep(1000)
    assert world.running == 1
    assert not is_held(world.planes.table, "m")


def test_a_model_spec_has_a_fixed_number_unless_it_says_otherwise():
    assert ModelSpec("m", URI, Backend.ONNX).scaling is None
