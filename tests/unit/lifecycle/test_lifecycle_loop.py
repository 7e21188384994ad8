"""The reconcile loop in a world of fakes."""

from __future__ import annotations

import asyncio

import pytest

from gateway.domain.errors import Unavailable
from gateway.domain.models import Latest, Specific, VersionState
from gateway.domain.replicas import ReplicaStanding
from gateway.lifecycle.model_loop import ModelLoop
from tests.parts.fakes_lifecycle import published

pytestmark = pytest.mark.virtual_time

URI = "s3://models/m"


async def test_a_deployed_model_goes_live_on_all_replicas(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    assert world.live() == 1
    assert len(world.routed(1)) == 2
    assert (await world.store.models())[0].live_version == 1
    types = world.emitted.types
    assert types.count("replica.started") == 2
    assert types.count("version.live") == 1
    assert types[-1] == "model.ready"


async def test_a_new_version_takes_over_and_the_old_one_is_unloaded_after_it_left_the_table(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    held = next(iter(world.routed(1)))
    world.planes.hold("m", 1, held)
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: world.live() == 2)
    assert world.routed(1) == set()
    await asyncio.sleep(0.1)
    busy = [s for s in world.control.servers.values() if 1 in s.told]
    assert len(busy) == 1
    world.planes.let_go()
    await world.until(lambda: all(s.told == (2,) for s in world.control.servers.values()))
    await world.until(lambda: "version.unloaded" in world.emitted.types)
    assert world.converged()


async def test_a_version_is_routed_only_while_reported_ready_and_never_before(world):
    world.control.holding.add(2)
    world.source.show(URI, published(1))
    await world.deploy(replicas=1)
    await world.until(world.converged)
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: any(2 in s.told for s in world.control.servers.values()))
    await asyncio.sleep(0.05)
    assert world.live() == 1
    assert world.routed(2) == set()
    world.control.finish(2)
    await world.until(lambda: world.live() == 2)


async def test_a_version_that_fails_leaves_the_working_one_alone_and_says_why(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    world.control.broken[2] = "model.onnx is no ONNX model"
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: "version.failed" in world.emitted.types)
    await asyncio.sleep(0.05)
    assert world.live() == 1
    assert len(world.routed(1)) == 2
    view = world.lifecycle.view("m")
    failed = view.versions[0]
    assert (failed.version, failed.state) == (2, VersionState.FAILED)
    assert failed.reason == "model.onnx is no ONNX model"
    assert not view.converged
    assert world.emitted.types.count("version.failed") == 1


async def test_a_source_that_fails_or_shows_nothing_unloads_nothing(world):
    world.source.show(URI, published(1))
    await world.deploy()
    await world.until(world.converged)
    world.source.errors[URI] = Unavailable("no answer", reason="source_unreachable")
    await world.until(lambda: world.lifecycle.view("m").source_reason)
    assert world.lifecycle.view("m").source_failing_since
    del world.source.errors[URI]
    world.source.show(URI)
    await world.until(lambda: "no versions any more" in world.lifecycle.view("m").source_reason)
    assert world.live() == 1
    world.source.show(URI, published(1))
    await world.until(lambda: "source.recovered" in world.emitted.types)
    assert world.emitted.types.count("model.unavailable") == 0


async def test_a_bug_in_a_source_is_shown_and_does_not_end_the_loops(world):
    world.source.errors[URI] = ZeroDivisionError("oh")
    await world.deploy()
    await world.until(lambda: world.lifecycle.view("m") is not None)
    await world.until(lambda: "unexpected way" in world.lifecycle.view("m").source_reason)
    del world.source.errors[URI]
    world.source.show(URI, published(3))
    await world.until(lambda: world.live() == 3)


async def test_a_killed_replica_leaves_the_table_at_once_and_is_replaced(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    victim = next(iter(world.routed(1)))
    world.scheduler.kill(victim)
    await world.until(lambda: victim not in world.routed(1))
    assert world.routed(1)
    await world.until(world.converged)
    assert len(world.routed(1)) == 2


async def test_a_replica_killed_in_a_swap_neither_blocks_nor_bends_it(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    world.control.holding.add(2)
    world.source.show(URI, published(1), published(2))
    await world.until(lambda: all(2 in s.told for s in world.control.servers.values()))
    world.scheduler.kill(next(iter(world.routed(1))))
    await world.until(lambda: len(world.routed(1)) == 1)
    world.control.finish(2)
    await world.until(world.converged)
    assert world.live() == 2
    lives = [t.models["m"].live for t in world.planes.tables if "m" in t.models]
    assert [v for i, v in enumerate(lives) if i == 0 or lives[i - 1] != v] == [None, 1, 2]


async def test_a_silent_replica_is_left_out_after_a_few_missed_reports(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    silent = world.planes.table.models["m"].targets[1][0]
    world.control.silent.add(silent.endpoint.control)
    await world.until(lambda: silent.replica_id not in world.routed(1))
    assert len(world.routed(1)) == 1
    assert [t.replica_id for t in world.planes.table.silent] == [silent.replica_id]
    await world.until(lambda: "replica.silent" in world.emitted.types)
    world.control.silent.clear()
    await world.until(lambda: len(world.routed(1)) == 2)
    assert world.planes.table.silent == ()


async def test_what_waits_at_the_only_replica_is_not_given_up_when_it_is_silent(world):
    world.source.show(URI, published(1))
    await world.deploy()
    await world.until(world.converged)
    silent = world.planes.table.models["m"].targets[1][0]
    world.control.silent.add(silent.endpoint.control)
    await world.until(lambda: not world.routed(1))
    assert world.planes.table.silent == ()
    world.control.silent.clear()
    await world.until(lambda: len(world.routed(1)) == 1)


async def test_a_replica_that_forgot_what_it_was_told_is_told_again(world):
    world.source.show(URI, published(1))
    await world.deploy()
    await world.until(world.converged)
    (server,) = world.control.servers.values()
    server.states.clear()
    server.told = ()
    await world.until(lambda: server.told == (1,))
    await world.until(lambda: world.routed(1))


async def test_a_changed_template_moves_over_without_losing_an_answer(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    old = world.routed(1)
    before = len(world.planes.tables)
    await world.deploy(replicas=2, expected=1, before="true")
    await world.until(lambda: world.converged() and not (world.routed(1) & old))
    tables = world.planes.tables[before:]
    assert min(len(t.models["m"].targets.get(1, ())) for t in tables) >= 2
    assert set(world.scheduler.removed) == old


async def test_scaling_down_drains_before_it_removes(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=3)
    await world.until(world.converged)
    everything = world.routed(1)
    for replica_id in everything:
        world.planes.hold("m", 1, replica_id)
    await world.deploy(replicas=1, expected=1)
    await world.until(lambda: len(world.routed(1)) == 1)
    await asyncio.sleep(0.05)
    assert world.scheduler.removed == []
    world.planes.let_go()
    await world.until(world.converged)
    assert len(world.scheduler.removed) == 2


async def test_a_deleted_model_leaves_the_table_drains_and_is_reported_gone(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    held = next(iter(world.routed(1)))
    world.planes.hold("m", 1, held)
    await world.store.delete("m")
    world.lifecycle.poke("m")
    await world.until(lambda: "m" not in world.planes.table.models)
    await world.until(lambda: len(world.scheduler.removed) == 1)
    assert held not in world.scheduler.removed
    world.planes.let_go()
    await world.until(lambda: world.emitted.types[-1:] == ["model.deleted"])
    assert world.lifecycle.view("m") is None
    assert world.scheduler.replicas() == []


async def test_a_deleted_model_can_be_deployed_again_while_it_still_drains(world):
    world.source.show(URI, published(1))
    await world.deploy()
    await world.until(world.converged)
    (held,) = world.routed(1)
    world.planes.hold("m", 1, held)
    await world.store.delete("m")
    world.lifecycle.poke("m")
    await world.until(lambda: "m" not in world.planes.table.models)
    await world.deploy()
    # The one that still drained goes on.
    await world.until(lambda: world.routed(1) == {held})
    world.planes.let_go()
    await world.until(world.converged)
    assert world.scheduler.removed == []


async def test_the_live_version_survives_a_restart(world):
    world.source.show(URI, published(1), published(2))
    await world.deploy(replicas=2, policy=Latest(2))
    await world.until(lambda: world.converged() and world.live() == 2)
    again = world.make()
    world.planes.tables.clear()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(again.run())
        await world.until(lambda: again.view("m") is not None and again.view("m").converged)
        task.cancel()
    assert {t.models["m"].live for t in world.planes.tables if "m" in t.models} == {2}
    assert "replica.adopted" in world.emitted.types


async def test_a_restart_while_the_source_is_down_keeps_everything_as_it_is(world):
    world.source.show(URI, published(1), published(2))
    await world.deploy(policy=Specific((1, 2)))
    await world.until(lambda: world.converged())
    world.source.errors[URI] = Unavailable("no answer", reason="source_unreachable")
    again = world.make()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(again.run())
        await world.until(lambda: again.view("m") and again.view("m").source_reason)
        await asyncio.sleep(0.1)
        task.cancel()
    (server,) = world.control.servers.values()
    assert server.told == (1, 2)
    assert world.live() == 2


async def test_a_model_that_has_not_changed_is_not_decided_again(world, compared):
    world.source.show(URI, published(1))
    await world.deploy("still", replicas=2)
    await world.deploy("moved", replicas=2)
    await world.until(lambda: world.converged("still") and world.converged("moved"))
    await world.until(lambda: {"still", "moved"} <= set(compared.kept))
    before = len(compared.kept)
    await world.deploy("moved", replicas=2, expected=1, timeout_s=7.0)
    await world.until(lambda: world.planes.table.models["moved"].timeout_s == 7.0)
    assert "still" in compared.kept[before:]
    assert "moved" not in compared.kept[before:]


async def test_others_are_answered_between_the_models_of_one_turn(world, monkeypatch):
    """With hundreds of models a turn takes long, and requests are served by the same loop."""
    monkeypatch.setattr("gateway.lifecycle.turns.PIECE_S", 0.0)
    world.source.show(URI, published(1))
    for n in range(20):
        await world.deploy(f"m{n}")
    await world.until(lambda: all(world.converged(f"m{n}") for n in range(20)))
    decided: list[str] = []
    decide = ModelLoop.decide

    def noted(model, *args, **more):
        decided.append(model.name)
        return decide(model, *args, **more)

    monkeypatch.setattr(ModelLoop, "decide", noted)
    world.lifecycle.poke("m0")
    await world.until(lambda: decided)
    for _ in range(3):
        seen = len(decided)
        await asyncio.sleep(0)
        assert len(decided) - seen <= 1


async def test_a_failing_store_is_retried(world, monkeypatch):
    fails = 3

    async def models():
        nonlocal fails
        if fails:
            fails -= 1
            raise Unavailable("locked", reason="store_busy")
        return await real()

    real = world.store.models
    monkeypatch.setattr(world.store, "models", models)
    world.source.show(URI, published(1))
    await world.deploy()
    await world.until(world.converged)
    assert fails == 0


async def test_changed_wakes_watchers_of_views(world):
    world.source.show(URI, published(1))
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(world.lifecycle.changed())
        await asyncio.sleep(0)
        await world.deploy()
        await waiting


async def test_looked_waits_for_the_replicas_of_an_earlier_gateway(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    again = world.make()
    world.planes.tables.clear()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(again.run())
        await again.looked()
        assert len(world.routed(1)) == 2
        task.cancel()


async def test_the_share_after_which_requests_are_hedged_is_in_the_table(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=1, hedge="p95")
    await world.until(world.converged)
    assert world.planes.table.models["m"].hedge == 0.95


async def test_what_data_planes_think_of_a_replica_is_in_the_view_as_it_is_now(world):
    world.source.show(URI, published(1))
    await world.deploy(replicas=2)
    await world.until(world.converged)
    one, other = world.lifecycle.view("m").replicas
    standing = ReplicaStanding("ejected", "latency", 1, 2)
    world.planes.doubted = {one.replica.id: standing}
    told = {r.replica.id: r.standing for r in world.lifecycle.view("m").replicas}
    assert told == {one.replica.id: standing, other.replica.id: None}
    world.planes.doubted = {}
    assert world.lifecycle.view("m").replicas == (one, other)
    assert not [t for t in world.emitted.types if "eject" in t]
