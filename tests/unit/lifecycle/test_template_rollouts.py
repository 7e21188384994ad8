"""Rollouts of a template: the reconcile loop in a world of fakes, in a time that jumps."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.core.placement import template_of
from gateway.core.route import CANARY_SIDE
from gateway.core.templates import template_in
from gateway.domain.errors import FailedPrecondition
from gateway.domain.models import Batching, Scaling
from gateway.domain.replicas import CANARY_GROUP
from gateway.domain.rollouts import Phase
from tests.parts.fakes_lifecycle import published
from tests.unit.lifecycle.conftest import URI
from tests.unit.lifecycle.test_canary_replicas import PLAN, SLOW, Apart, jumping
from tests.unit.lifecycle.test_rollouts import canary, phase, tally

SMALL = {"batching": Batching(max_rows=1)}
TINY = {"batching": Batching(max_rows=2)}
GOOD = {1: tally(100), CANARY_SIDE: tally(30)}
BAD = {1: tally(300), CANARY_SIDE: tally(20, failed=6)}


def side(world: Apart) -> set[str] | None:
    found = world.planes.table.models["m"].side
    return None if found is None else {t.replica_id for t in found}


def ids(world: Apart, group: str) -> set[str]:
    return {r.id for r in world.group(group)}


async def started_with(world: Apart, group: str = "") -> set[int]:
    """Rows per run, by which templates differ in here."""
    (record,) = await world.store.models()
    known = {
        template_of(replace(record.spec, batching=Batching(max_rows=n))): n for n in (32, 1, 2)
    }
    return {known[r.template] for r in world.group(group)}


async def running(world: Apart) -> int:
    """The same, as it is stored."""
    (record,) = await world.store.models()
    return record.running.batching.max_rows


def is_undone(world: Apart) -> bool:
    rollout = world.lifecycle.view("m").rollout.rollout
    return rollout.is_undo and rollout.phase is Phase.SUCCEEDED and world.is_over()


async def begun(world: Apart, plan=PLAN, **changes) -> None:
    """The template with one row has its first step."""
    await world.deployed(plan, **changes)
    await world.update(**SMALL)
    await world.until(lambda: canary(world) is not None)


@jumping
async def test_the_canarys_replicas_have_the_new_template_and_the_live_version(world):
    await world.deployed()
    own = ids(world, "")
    world.control.holding.add(1)
    await world.update(**SMALL)
    await world.until(lambda: world.told() == {(1,)} and len(world.group()) == 2)
    assert (phase(world), canary(world), side(world)) == (Phase.PENDING, None, set())
    assert not world.converged()
    world.control.finish(1)
    await world.until(lambda: canary(world) is not None)
    assert (canary(world).version, canary(world).weight) == (1, 0.05)
    assert (side(world), world.routed(1)) == (ids(world, CANARY_GROUP), own)
    assert (await started_with(world), await started_with(world, CANARY_GROUP)) == ({32}, {1})
    assert world.planes.table.models["m"].labels == {"stable": 1, "canary": 1}
    await world.until(world.converged)
    assert world.lifecycle.view("m").template.changes == ("batch_size 32 → 1",)


@jumping
async def test_a_good_one_replaces_the_models_own_while_the_canary_keeps_its_share(world):
    await begun(world)
    before, apart = ids(world, ""), ids(world, CANARY_GROUP)
    world.control.load_s = 10.0
    world.planes.counted = GOOD
    await world.until(lambda: phase(world) is Phase.PROMOTING)
    while before & world.routed(1):
        assert (canary(world).weight, side(world)) == (0.5, apart)
        await asyncio.sleep(0.1)
    await world.until(world.is_over)
    assert (phase(world), await started_with(world), await running(world)) == (
        Phase.SUCCEEDED, {1}, 1,
    )  # fmt: skip
    assert set(world.scheduler.removed) == before | apart
    assert (canary(world), side(world), world.planes.canary_targets) == (None, None, apart)
    assert world.emitted.types.count("rollout.started") == 1
    told = [e for e in world.emitted.events if e[0] == "rollout.succeeded"]
    assert told[0][3]["template_changes"] == ["batch_size 32 → 1"]


@jumping
async def test_a_bad_one_leaves_the_table_in_the_tick_that_finds_it_and_is_not_tried_again(world):
    await begun(world)
    own, apart = ids(world, ""), ids(world, CANARY_GROUP)
    before = len(world.planes.tables)
    world.planes.counted = BAD
    await world.until(lambda: canary(world) is None)
    assert {c.weight for t in world.planes.tables[before:] if (c := t.models["m"].canary)} <= {0.05}
    assert (side(world), world.routed(1)) == (None, own)
    await world.until(world.is_over)
    await world.update(replicas=3)
    await world.until(lambda: len(world.routed(1)) == 3)
    await asyncio.sleep(60)
    assert (phase(world), set(world.scheduler.removed)) == (Phase.FAILED, apart)
    assert (await started_with(world), await running(world)) == ({32}, 32)
    shown = world.lifecycle.view("m")
    assert (shown.template.is_rejected, shown.template.changes) == (True, ("batch_size 32 → 1",))
    assert shown.rollout.rollout.rejected == ()
    told = [e for e in world.emitted.events if e[0] == "rollout.rolling_back"]
    assert (told[0][3]["verdict"], told[0][3]["canary"]["failed"]) == ("fail", 6)


@pytest.mark.parametrize("again", ["start", "deploy", "other"])
def test_a_template_that_was_taken_back_is_tried_when_somebody_asks_for_it(again):
    @jumping
    async def play(world):
        await begun(world)
        await world.lifecycle.order("m", "abort")
        await world.until(world.is_over)
        if again == "start":
            await world.lifecycle.order("m", "start")
        else:
            await world.update(**({"attempt": 1} if again == "deploy" else TINY))
        await world.until(lambda: canary(world) is not None)
        assert await started_with(world, CANARY_GROUP) == {2 if again == "other" else 1}
        await world.lifecycle.order("m", "promote")
        await world.until(world.is_over)
        assert (phase(world), await started_with(world)) == (
            Phase.SUCCEEDED, {2 if again == "other" else 1},
        )  # fmt: skip

    play()


@jumping
async def test_its_replicas_go_only_when_their_requests_have_ended(world):
    await begun(world, SLOW)
    busy = world.group()[0].id
    world.planes.hold("m", 1, busy)
    await world.lifecycle.order("m", "abort")
    await world.until(lambda: len(world.scheduler.removed) == 1)
    await asyncio.sleep(10)
    assert (phase(world), [r.id for r in world.group(draining=True)]) == (
        Phase.ROLLING_BACK, [busy],
    )  # fmt: skip
    assert busy not in world.routed(1)
    world.planes.let_go()
    await world.until(world.is_over)


@jumping
async def test_one_that_is_killed_leaves_its_share_to_the_others_until_it_is_replaced(world):
    await begun(world, replace(SLOW, replicas=1))
    (victim,) = world.group()
    world.scheduler.kill(victim.id)
    await world.until(lambda: side(world) == set())
    assert (canary(world).weight, phase(world)) == (0.05, Phase.PROGRESSING)
    await world.until(lambda: side(world))
    assert side(world) == {world.group()[0].id} != {victim.id}
    assert world.routed(1) == ids(world, "")


@jumping
async def test_canarys_answer_for_the_live_version_where_nobody_else_can(world):
    await begun(world, SLOW)
    world.control.load_s = 20.0
    for one in world.group(""):
        world.scheduler.kill(one.id)
    await world.until(lambda: world.routed(1) == ids(world, CANARY_GROUP))
    await world.until(lambda: world.routed(1) == ids(world, "") and len(world.routed(1)) == 2)
    assert phase(world) is Phase.PROGRESSING


@jumping
async def test_pause_promote_and_undo(world):
    await begun(world)
    await world.lifecycle.order("m", "pause")
    world.planes.counted = GOOD
    await asyncio.sleep(30)
    assert (canary(world).weight, phase(world)) == (0.05, Phase.PAUSED)
    await world.lifecycle.order("m", "promote")
    await world.until(world.is_over)
    assert (await started_with(world), len(world.scheduler.removed)) == ({1}, 4)
    await world.lifecycle.order("m", "undo")
    await world.until(lambda: is_undone(world))
    # In place, with no replicas of its own; what was undone does not come back by itself.
    assert (await started_with(world), len(world.scheduler.removed)) == ({32}, 6)
    await asyncio.sleep(60)
    assert (await running(world), world.lifecycle.view("m").template.is_rejected) == (32, True)
    with pytest.raises(FailedPrecondition):
        await world.lifecycle.order("m", "pause")


@jumping
async def test_an_abort_while_it_is_promoted_brings_the_former_ones_back(world):
    await begun(world)
    world.control.load_s = 10.0
    await world.lifecycle.order("m", "promote")
    await world.until(lambda: len(ids(world, "")) == 3)
    await world.lifecycle.order("m", "abort")
    await world.until(world.is_over)
    assert (phase(world), await started_with(world)) == (Phase.FAILED, {32})


@jumping
async def test_the_newest_wins_until_it_has_begun_and_waits_afterwards(world):
    await world.deployed()
    world.scheduler.start_s = 5.0
    await world.update(**SMALL)
    await world.until(lambda: phase(world) is Phase.PENDING)
    await world.update(**TINY)
    await world.until(lambda: canary(world) is not None)
    assert await started_with(world, CANARY_GROUP) == {2}
    await world.update(**SMALL)
    await asyncio.sleep(30)
    assert await started_with(world, CANARY_GROUP) == {2}
    world.planes.counted = GOOD
    await world.until(lambda: phase(world) is Phase.PROMOTING)
    world.planes.counted = {}
    await world.until(lambda: phase(world) is Phase.PENDING)
    assert (await running(world), await started_with(world)) == (2, {2})
    await world.until(lambda: canary(world) is not None)
    assert await started_with(world, CANARY_GROUP) == {1}


@pytest.mark.parametrize("at", [Phase.PENDING, Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTING])
def test_what_runs_is_deployed_again(at):
    @jumping
    async def play(world):
        await world.deployed(SLOW)
        if at is Phase.PENDING:
            world.control.holding.add(1)
        own = ids(world, "")
        await world.update(**SMALL)
        if at is not Phase.PENDING:
            await world.until(lambda: canary(world) is not None)
            world.control.load_s = 10.0
        order = {Phase.PAUSED: "pause", Phase.PROMOTING: "promote"}.get(at)
        if order:
            await world.lifecycle.order("m", order)
        await world.until(lambda: phase(world) is at)
        await world.update(batching=Batching())
        await world.until(world.is_over)
        assert (phase(world), world.lifecycle.view("m").template.is_rejected) == (
            Phase.FAILED, False,
        )  # fmt: skip
        assert await started_with(world) == {32}
        assert own <= ids(world, "") or at is Phase.PROMOTING

    play()


@jumping
async def test_a_version_waits_for_the_end_of_a_template_that_has_begun(world):
    await begun(world)
    world.source.show(URI, published(1), published(2))
    await asyncio.sleep(30)
    assert (canary(world).version, world.told(), world.told("")) == (1, {(1,)}, {(1,)})
    world.planes.counted = GOOD
    await world.until(lambda: phase(world) is Phase.PROMOTING)
    world.planes.counted = {}
    await world.until(lambda: canary(world) is not None and canary(world).version == 2)
    assert (await started_with(world), await started_with(world, CANARY_GROUP)) == ({1}, {1})
    assert (world.routed(2), side(world)) == (ids(world, CANARY_GROUP), None)


@jumping
async def test_a_version_and_a_template_that_come_together_are_one_canary(world):
    # As where a version needs the image that was deployed with it.
    await world.deployed()
    world.scheduler.start_s = 5.0
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: phase(world) is Phase.PENDING)
    await world.update(**SMALL)
    await world.until(lambda: canary(world) is not None)
    assert (canary(world).version, side(world)) == (2, None)
    assert (await started_with(world), await started_with(world, CANARY_GROUP)) == ({32}, {1})
    assert (world.told(""), world.told()) == ({(1,)}, {(2,)})
    world.control.load_s = 10.0
    world.planes.counted = {1: tally(100), 2: tally(30)}
    await world.until(lambda: world.live() == 2)
    # Not with the first of the new ones, but when there are as many as are wanted.
    assert len(world.routed(2) & ids(world, "")) == 2
    await world.until(world.is_over)
    assert (phase(world), await started_with(world), world.told("")) == (
        Phase.SUCCEEDED, {1}, {(2,)},
    )  # fmt: skip
    await world.lifecycle.order("m", "undo")
    await world.until(lambda: world.live() == 1 and is_undone(world))
    assert (await started_with(world), world.told("")) == ({32}, {(1,)})


@jumping
async def test_both_are_taken_back_together_and_started_again_together(world):
    await world.deployed()
    world.scheduler.start_s = 5.0
    world.source.show(URI, published(1), published(2))
    await world.update(**SMALL)
    await world.until(lambda: canary(world) is not None and canary(world).version == 2)
    await world.lifecycle.order("m", "abort")
    await world.until(world.is_over)
    await asyncio.sleep(30)
    assert (phase(world), world.live(), await started_with(world)) == (Phase.FAILED, 1, {32})
    await world.lifecycle.order("m", "start")
    await world.until(lambda: canary(world) is not None)
    assert (canary(world).version, await started_with(world, CANARY_GROUP)) == (2, {1})


@pytest.mark.parametrize(
    "at", [Phase.PENDING, Phase.PROGRESSING, Phase.PROMOTING, Phase.ROLLING_BACK, Phase.FAILED]
)
def test_another_gateway_finds_it_in_any_phase(at):
    @jumping
    async def play(world):
        await world.deployed(SLOW)
        world.scheduler.start_s = 10.0
        await world.update(**SMALL)
        await world.until(lambda: len(world.group()) == 2)
        if at is not Phase.PENDING:
            await world.until(lambda: canary(world) is not None)
            world.control.load_s = 10.0
            if at is Phase.ROLLING_BACK:
                world.planes.hold("m", 1, world.group()[0].id)
            if at is not Phase.PROGRESSING:
                await world.lifecycle.order("m", "promote" if at is Phase.PROMOTING else "abort")
            await world.until(lambda: phase(world) is at)
        own, apart = ids(world, ""), ids(world, CANARY_GROUP)
        world.running = await world.restarted()
        world.planes.let_go()
        await world.lifecycle.looked()
        if at is Phase.PENDING:
            await world.until(lambda: canary(world) is not None)
        if at in (Phase.PENDING, Phase.PROGRESSING):
            assert (world.routed(1), side(world)) == (own, apart)
            assert (await started_with(world), canary(world).weight) == ({32}, 0.05)
            return
        await world.until(world.is_over)
        assert await started_with(world) == ({1} if at is Phase.PROMOTING else {32})

    play()


@pytest.mark.parametrize(
    "changes",
    [{"canary": None}, {"canary": replace(PLAN, replicas=0)}],
    ids=["no steps", "no replicas of its own"],
)
def test_without_canary_replicas_they_are_replaced_as_ever(changes):
    @jumping
    async def play(world):
        await world.deployed()
        await world.update(**changes)
        await world.until(world.converged)
        before, was = ids(world, ""), world.lifecycle.view("m").template.running
        await world.update(**SMALL)
        await world.until(lambda: world.lifecycle.view("m").template.running != was)
        await world.until(lambda: not ids(world, "") & before and world.is_over())
        assert (phase(world), await running(world)) == (None, 1)
        assert await started_with(world) == {1}

    play()


@jumping
async def test_what_an_older_gateway_left_runs_on(world):
    await world.deployed()
    own = ids(world, "")
    record = world.store._models["m"]
    world.store._models["m"] = replace(record, running=None)
    world.running = await world.restarted()
    await world.until(world.converged)
    assert (ids(world, ""), phase(world), await running(world)) == (own, None, 32)
    assert template_in(record.spec) == record.running


@jumping
async def test_a_scaled_model_scales_while_it_is_tried_and_afterwards(world):
    await world.deployed(SLOW, scaling=Scaling(1, 3, 1.0))
    world.planes.ask(2.0)
    await world.until(lambda: len(ids(world, "")) >= 2, 300.0)
    await world.update(**SMALL)
    await world.until(lambda: canary(world) is not None)
    world.planes.ask(0.0)
    await asyncio.sleep(300)
    assert (len(world.routed(1)), len(side(world))) == (1, 2)
    await world.lifecycle.order("m", "promote")
    await world.until(world.is_over)
    assert (phase(world), await started_with(world)) == (Phase.SUCCEEDED, {1})
    world.planes.ask(3.0)
    await world.until(lambda: len(world.routed(1)) == 3, 300.0)
    assert await started_with(world) == {1}


@jumping
async def test_those_that_cannot_start_say_why_and_the_others_go_on(world):
    world.scheduler.crashing[CANARY_GROUP] = "exited with code 3: no such flag"
    await world.deployed()
    await world.update(**SMALL)
    await world.until(lambda: phase(world) is Phase.PENDING)
    await asyncio.sleep(30)
    shown = world.lifecycle.view("m").rollout
    assert "exited with code 3: no such flag" in shown.rollout.reason
    assert (world.routed(1), canary(world)) == (ids(world, ""), None)
    await world.lifecycle.order("m", "abort")
    await world.until(world.is_over)
    assert (phase(world), await started_with(world)) == (Phase.FAILED, {32})
