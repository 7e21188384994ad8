"""Rollouts in the reconcile loop, in a world of fakes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from gateway.core.agreement import count as count_difference
from gateway.core.analysis import count, empty
from gateway.domain.agreement import AgreementTally, Difference
from gateway.domain.errors import FailedPrecondition, NotFound
from gateway.domain.models import CanaryPlan, ShadowPlan
from gateway.domain.rollouts import Phase
from tests.parts.fakes_lifecycle import published
from tests.unit.lifecycle.conftest import World

pytestmark = pytest.mark.virtual_time

URI = "s3://models/m"
PLAN = CanaryPlan((5.0, 50.0), min_samples=20, step_s=0.0)


def tally(answers: int, failed: int = 0) -> list[int]:
    made = empty()
    for _ in range(answers):
        count(made, 0.01, failed=False)
    made[0] = failed
    return made


def canary(world: World):
    model = world.planes.table.models.get("m")
    return None if model is None else model.canary


def phase(world: World) -> Phase | None:
    view = world.lifecycle.view("m")
    return None if view is None or view.rollout is None else view.rollout.rollout.phase


async def begun(world: World, plan: CanaryPlan = PLAN) -> None:
    """Version 1 is live, version 2 has its first step."""
    world.source.show(URI, published(1))
    await world.deploy(replicas=2, canary=plan)
    await world.until(lambda: world.live() == 1 and world.converged())
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: canary(world) is not None)


async def test_the_first_version_goes_live_without_steps(world):
    world.source.show(URI, published(1))
    await world.deploy(canary=PLAN)
    await world.until(lambda: world.live() == 1)
    assert phase(world) is None


async def test_a_new_version_gets_its_first_share_when_all_replicas_have_it(world):
    world.control.holding.add(2)
    world.source.show(URI, published(1))
    await world.deploy(replicas=2, canary=PLAN)
    await world.until(lambda: world.live() == 1)
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: phase(world) is Phase.PENDING)
    assert world.planes.table.models["m"].labels["canary"] == 2
    assert canary(world) is None
    world.control.finish(2)
    await world.until(lambda: canary(world) is not None)
    assert (canary(world).version, canary(world).weight, world.live()) == (2, 0.05, 1)
    assert len(world.routed(1)) == len(world.routed(2)) == 2
    assert (await world.store.models())[0].rollout.phase is Phase.PROGRESSING


async def test_a_good_version_is_promoted_step_by_step_with_its_numbers(world):
    await begun(world)
    weights: list[float] = []
    world.planes.counted = {1: tally(100), 2: tally(30)}
    await world.until(lambda: world.live() == 2)
    for table in world.planes.tables:
        model = table.models.get("m")
        if model is not None and model.canary is not None:
            weights.append(model.canary.weight)
    assert sorted(set(weights)) == [0.05, 0.5]
    assert weights == sorted(weights)
    await world.until(lambda: "rollout.succeeded" in world.emitted.types)
    assert [t for t in world.emitted.types if t.startswith("rollout.")] == [
        "rollout.started",
        "rollout.step",
        "rollout.step",
        "rollout.promoting",
        "rollout.succeeded",
    ]
    step = [f for t, _, _, f in world.emitted.events if t == "rollout.step"][1]
    assert step["canary"] == {"requests": 30, "failed": 0, "p50_s": pytest.approx(0.01, rel=0.2),
                              "p99_s": pytest.approx(0.01, rel=0.2)}  # fmt: skip
    assert (step["weight"], step["verdict"]) == (0.5, "pass")
    record = (await world.store.models())[0]
    assert (record.live_version, record.rollout.phase) == (2, Phase.SUCCEEDED)
    await world.until(lambda: all(s.told == (2,) for s in world.control.servers.values()))


async def test_each_step_is_counted_in_a_window_of_its_own(world):
    await begun(world)
    world.planes.counted = {1: tally(100), 2: tally(30)}
    await world.until(lambda: world.live() == 2)
    windows = [
        (c.weight, c.window)
        for t in world.planes.tables
        if "m" in t.models and (c := t.models["m"].canary) is not None
    ]
    assert len({w for w, _ in windows}) == len({n for _, n in windows}) == 2


async def test_a_bad_version_is_rolled_back_in_its_first_step_and_stays_out(world):
    await begun(world)
    before = len(world.planes.tables)
    world.planes.counted = {1: tally(300), 2: tally(20, failed=6)}
    await world.until(lambda: canary(world) is None)
    assert world.live() == 1
    await world.until(lambda: phase(world) is Phase.FAILED)
    assert {c.weight for t in world.planes.tables[before:] if (c := t.models["m"].canary)} <= {0.05}
    told = next(f for t, _, _, f in world.emitted.events if t == "rollout.rolled_back")
    assert told["canary"]["failed"] == 6
    assert told["error_evidence"] > told["limit"]
    await world.until(lambda: all(s.told == (1,) for s in world.control.servers.values()))
    assert "canary" not in world.planes.table.models["m"].labels
    await asyncio.sleep(0.1)
    assert phase(world) is Phase.FAILED
    # The next one is tried; the rejected one is not, whatever happens to it.
    world.planes.counted = {}
    world.source.show(URI, published(1), published(2), published(3))
    await world.until(lambda: canary(world) is not None and canary(world).version == 3)


async def test_a_version_that_predicts_otherwise_is_rolled_back_where_that_is_judged(world):
    plan = replace(PLAN, shadow=ShadowPlan(0.5, tolerance=0.02, max_flips=0.01))
    await begun(world, plan)
    assert (canary(world).shadow, canary(world).tolerance) == (0.5, 0.02)
    world.planes.counted = {1: tally(100), 2: tally(30)}
    world.planes.agreed = seen = AgreementTally()
    await world.until(
        lambda: "0 of 10 shadowed" in world.lifecycle.view("m").rollout.finding.reason
    )
    for _ in range(12):
        count_difference(seen, [Difference("scores", differing=1.0, flips=1.0, abs_error=0.5)])
    await world.until(lambda: phase(world) is Phase.FAILED)
    assert canary(world) is None
    assert world.live() == 1
    told = next(f for t, _, _, f in world.emitted.events if t == "rollout.rolled_back")
    assert "output scores" in told["reason"]
    assert "100% flip top-1 (1% allowed)" in told["reason"]
    shown = told["agreement"]
    assert (shown["compared"], shown["flips"], shown["needed"]) == (12, 1.0, 10)
    assert shown["outputs"][0]["max_abs_error"] == 0.5
    json.dumps(told)


async def test_a_rollout_begins_without_the_numbers_of_the_one_before(world):
    await begun(world)
    world.planes.counted = {1: tally(300), 2: tally(20, failed=6)}
    await world.until(lambda: phase(world) is Phase.FAILED)
    world.planes.counted = {}
    world.source.show(URI, published(1), published(2), published(3))
    await world.until(lambda: canary(world) is not None)
    second = [f for t, _, _, f in world.emitted.events if t == "rollout.started"][1]
    assert second["version"] == 3
    assert "canary" not in second


async def test_where_it_is_not_judged_it_is_only_shown(world):
    await begun(world, replace(PLAN, shadow=ShadowPlan(0.5)))
    world.planes.agreed = seen = AgreementTally()
    for _ in range(50):
        count_difference(seen, [Difference("scores", differing=1.0, flips=1.0)])
    world.planes.counted = {1: tally(100), 2: tally(30)}
    await world.until(lambda: world.live() == 2)
    steps = [f for t, _, _, f in world.emitted.events if t == "rollout.step"]
    assert steps[1]["agreement"]["flips"] == 1.0
    assert not any(t == "rollout.rolling_back" for t, *_ in world.emitted.events)


async def test_a_rollback_waits_for_requests_under_way_before_it_has_failed(world):
    await begun(world)
    replica = next(iter(world.routed(2)))
    world.planes.hold("m", 2, replica)
    await world.lifecycle.order("m", "abort")
    await world.until(lambda: canary(world) is None)
    await asyncio.sleep(0.05)
    assert phase(world) is Phase.ROLLING_BACK
    assert sum(2 in s.told for s in world.control.servers.values()) == 1
    world.planes.let_go()
    await world.until(lambda: phase(world) is Phase.FAILED)


async def test_a_paused_rollout_keeps_its_weight_and_goes_on_when_it_is_told(world):
    await begun(world)
    await world.lifecycle.order("m", "pause")
    world.planes.counted = {1: tally(100), 2: tally(30)}
    await asyncio.sleep(0.2)
    assert (canary(world).weight, phase(world)) == (0.05, Phase.PAUSED)
    await world.lifecycle.order("m", "resume")
    await world.until(lambda: world.live() == 2)


async def test_promote_and_undo(world):
    await begun(world)
    await world.lifecycle.order("m", "promote")
    await world.until(lambda: world.live() == 2)
    await world.until(lambda: all(s.told == (2,) for s in world.control.servers.values()))
    ordered = await world.lifecycle.order("m", "undo")
    assert (ordered.version, ordered.phase) == (1, Phase.PENDING)
    await world.until(lambda: world.live() == 1)
    await world.until(lambda: all(s.told == (1,) for s in world.control.servers.values()))
    await asyncio.sleep(0.1)
    assert world.live() == 1
    await world.lifecycle.order("m", "start")
    await world.until(lambda: canary(world) is not None)
    assert canary(world).version == 2


async def test_what_cannot_be_ordered_is_refused(world):
    with pytest.raises(NotFound):
        await world.lifecycle.order("m", "pause")
    world.source.show(URI, published(1))
    await world.deploy()
    await world.until(world.converged)
    with pytest.raises(FailedPrecondition, match="No rollout of m is under way"):
        await world.lifecycle.order("m", "pause")
    with pytest.raises(FailedPrecondition, match="--canary"):
        await world.lifecycle.order("m", "start")


async def test_a_restart_of_the_gateway_resumes_at_the_step(world):
    await begun(world, replace(PLAN, min_samples=10**6))
    world.planes.counted = {1: tally(100), 2: tally(30)}
    second = World(
        store=world.store, source=world.source, scheduler=world.scheduler, control=world.control
    )
    record = (await world.store.models())[0]
    await world.store.set_rollout("m", replace(record.rollout, step=1))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(second.lifecycle.run())
        await second.until(lambda: canary(second) is not None)
        assert (canary(second).version, canary(second).weight, second.live()) == (2, 0.5, 1)
        with_live = [t for t in second.planes.tables if t.models["m"].live == 2]
        assert with_live == []
        task.cancel()


async def test_a_crash_between_going_live_and_remembering_it_ends_well(world):
    await begun(world, replace(PLAN, min_samples=10**6))
    second = World(
        store=world.store, source=world.source, scheduler=world.scheduler, control=world.control
    )
    await world.store.set_live("m", 2)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(second.lifecycle.run())
        await second.until(lambda: phase(second) is Phase.SUCCEEDED)
        assert second.live() == 2
        task.cancel()


async def test_a_model_without_steps_goes_live_at_once_as_ever(world):
    world.source.show(URI, published(1))
    await world.deploy()
    await world.until(world.converged)
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: world.live() == 2)
    assert phase(world) is None
