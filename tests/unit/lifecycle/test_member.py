"""Gateways that share a store, in virtual time and a world of fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.core.analysis import count, empty
from gateway.dataplane.v2_own import is_ready
from gateway.domain.errors import Conflict, FailedPrecondition, Unavailable
from gateway.domain.gateways import Beat
from gateway.domain.models import CanaryPlan, Scaling
from gateway.domain.rollouts import Phase
from tests.parts.fakes_lifecycle import published
from tests.parts.fleet import LEASE, URI, Fleet, Gateway, fleet, uses
from tests.parts.virtual_time import run_virtually

PLAN = CanaryPlan((5.0, 50.0), min_samples=100, step_s=5.0)


def virtually(test: Callable[[Fleet], Awaitable[None]], size: int = 3) -> None:
    async def main() -> None:
        async with fleet(size) as made:
            await test(made)

    run_virtually(main())


def all_live(f: Fleet, version: int, replicas: int = 1) -> Callable[[], bool]:
    def said() -> bool:
        return all(
            g.live() == version and len(g.table.models["m"].targets.get(version, ())) == replicas
            for g in f.gateways
            if g.is_alive
        )

    return said


async def _deployed(f: Fleet, at: Gateway | None = None, replicas: int = 2, **more) -> Gateway:
    leader = await f.has_leader()
    f.source.show(URI, published(1))
    await f.deploy(at or leader, replicas=replicas, **more)
    await f.until(all_live(f, 1, replicas))
    return leader


def test_one_leads_and_all_answer_by_the_same_table():
    async def test(f: Fleet) -> None:
        leader = await _deployed(f)
        tables = [g.table.models for g in f.gateways]
        assert tables[0] == tables[1] == tables[2]
        for other in f.others(leader):
            assert other.scheduler.replicas() == []
            role = other.member.role()
            assert (role.role, role.leader, role.others) == ("follower", leader.name, 2)
        await f.until(
            lambda: all(o.member.view("m") == leader.member.view("m") for o in f.others(leader))
        )
        assert {name for _, name in f.tells} == {leader.name}

    virtually(test)


def test_without_a_model_all_are_ready_all_the_same():
    """A new installation: that there is nothing is made known, too."""

    async def test(f: Fleet) -> None:
        await f.has_leader()
        await f.until(lambda: all(is_ready(g.table) for g in f.gateways), seconds=5)
        late = await f.start()
        await f.until(lambda: is_ready(late.table), seconds=5)
        await asyncio.sleep(10)
        assert len(f.hub.posts) == 1

    virtually(test)


def test_what_is_deployed_or_refreshed_at_a_follower_is_looked_at_at_once():
    async def test(f: Fleet) -> None:
        leader = await f.has_leader()
        await asyncio.sleep(2.3)  # between two resyncs
        (follower, _) = f.others(leader)
        f.source.show(URI, published(1))
        await f.deploy(follower)
        took_s = await f.until(lambda: f.control.servers)
        # Its replica starts in half a second; the rest is news and one report.
        assert took_s < 1.5
        await f.until(all_live(f, 1))
        looks = f.source.looks
        follower.member.poke("m")
        assert await f.until(lambda: f.source.looks > looks) < 0.3

    virtually(test)


def test_a_new_version_goes_live_everywhere_and_nobody_asks_for_what_is_unloaded():
    async def test(f: Fleet) -> None:
        await _deployed(f)
        for version in range(2, 12):
            f.source.show(URI, *(published(v) for v in range(1, version + 1)))
            loop = asyncio.get_running_loop()
            end = loop.time() + 30
            while loop.time() < end and not all_live(f, version, 2)():
                assert f.wrong_routes() == []
                await asyncio.sleep(0.01)
            assert all_live(f, version, 2)()
        await asyncio.sleep(20)
        assert all(set(s.states) == {11} for s in f.control.servers.values())

    virtually(test)


def test_when_the_leader_dies_the_others_answer_on_and_the_next_takes_its_replicas_places():
    async def test(f: Fleet) -> None:
        leader = await _deployed(f)
        before = {r.id for r in leader.scheduler.replicas()}
        others = f.others(leader)
        counts = [len(g.planes.tables) for g in others]
        leader.kill()
        took_s = await f.until(lambda: f.leader not in (None, leader), seconds=20)
        assert took_s <= LEASE.lease_s + 0.1 * LEASE.retry_s + 0.1
        # Report before tell: the old replicas answer on, in every table, until new ones do.
        end = asyncio.get_running_loop().time() + 10
        while asyncio.get_running_loop().time() < end:
            for g in others:
                assert g.table.models["m"].targets[1]
            assert f.wrong_routes() == []
            await asyncio.sleep(0.01)
        for g in others:
            assert {t.replica_id for t in g.table.models["m"].targets[1]}.isdisjoint(before)
        # From two old replicas to two new ones, in few steps.
        assert [len(g.planes.tables) - c <= 6 for g, c in zip(others, counts, strict=True)] == [
            True
        ] * 2
        types = [e.type for e in await f.hub.store.events()]
        assert "model.unavailable" not in types
        assert types.count("version.live") == 1

    virtually(test)


def test_a_leader_that_stops_hands_over_at_once():
    async def test(f: Fleet) -> None:
        leader = await _deployed(f)
        assert leader.task is not None
        leader.task.cancel()
        leader.is_alive = False
        assert await leader.member.leave()
        assert await f.until(lambda: f.leader is not None) < 1.0

    virtually(test)


def test_the_last_one_that_stops_says_so():
    async def test(f: Fleet) -> None:
        (only,) = f.gateways
        await f.has_leader()
        assert only.task is not None
        only.task.cancel()
        assert not await only.member.leave()

    virtually(test, size=1)


def test_a_leader_without_the_database_stands_down_in_time_and_its_table_stays():
    async def test(f: Fleet) -> None:
        leader = await _deployed(f)
        table = leader.table
        leader.cut()
        took_s = await f.until(lambda: not leader.leads)
        assert took_s <= LEASE.renew_s + 0.01
        assert leader.table is table
        await f.until(lambda: f.leader not in (None, leader))
        assert leader.table is table
        await f.until(all_live_at(f.others(leader), 2))
        assert leader.table is table  # its own replicas are still there: nobody else ends them
        leader.mend()
        new = f.leader
        assert new is not None
        await f.until(lambda: leader.table.models == new.table.models)
        # They are used by nobody then, and it ends them itself.
        await f.until(lambda: leader.scheduler.replicas() == [])
        assert f.wrong_routes() == []

    virtually(test)


def all_live_at(gateways: list[Gateway], replicas: int) -> Callable[[], bool]:
    def said() -> bool:
        return all(
            len(g.table.models["m"].targets.get(1, ())) == replicas
            and uses(g.table) == uses(gateways[0].table)
            and len(gateways[0].scheduler.replicas()) + len(gateways[1].scheduler.replicas())
            == replicas
            for g in gateways
        )

    return said


def test_what_a_leader_published_and_could_not_post_is_forgotten_with_its_term():
    async def test(f: Fleet) -> None:
        leader = await _deployed(f)

        async def post(*_: object) -> None:
            raise Unavailable("no", reason="store_unreachable")

        leader.sharing.post = post  # type: ignore[method-assign]
        f.source.show(URI, published(1), published(2))
        await f.until(lambda: leader.live() == 2)
        await asyncio.sleep(5)  # its numbers run ahead of what is posted
        assert {g.live() for g in f.others(leader)} == {1}
        leader.cut()
        await f.until(lambda: f.leader not in (None, leader))
        del leader.sharing.post
        leader.mend()
        new = f.leader
        assert new is not None
        await f.until(lambda: new.live() == 2)
        await f.until(lambda: uses(leader.table) == uses(new.table))
        f.source.show(URI, published(1), published(2), published(3))
        await f.until(all_live(f, 3, 2))

    virtually(test)


def test_a_short_outage_of_the_database_changes_nothing_at_all():
    async def test(f: Fleet) -> None:
        leader = await _deployed(f)
        before = [g.table for g in f.gateways]
        removed = list(leader.scheduler.removed)
        for outage_s in (1.0, 5.0, 9.0):
            for g in f.gateways:
                g.cut()
            await asyncio.sleep(outage_s)
            for g in f.gateways:
                g.mend()
            await asyncio.sleep(5)
        assert f.leader is leader
        assert [g.table for g in f.gateways] == before
        assert leader.scheduler.removed == removed

    virtually(test)


def test_after_a_long_outage_the_same_replicas_answer_if_the_same_one_leads():
    async def test(f: Fleet) -> None:
        await _deployed(f)
        (only,) = f.gateways
        ids = {r.id for r in only.scheduler.replicas()}
        only.cut()
        await asyncio.sleep(60)
        assert f.leader is None
        assert len(only.table.models["m"].targets[1]) == 2
        only.mend()
        await f.has_leader()
        await asyncio.sleep(5)
        assert {r.id for r in only.scheduler.replicas()} == ids
        assert {t.replica_id for t in only.table.models["m"].targets[1]} == ids

    virtually(test, size=1)


def test_a_gateway_that_joins_answers_at_once_by_what_is_posted():
    async def test(f: Fleet) -> None:
        await _deployed(f)
        new = await f.start()
        assert new.live() == 1
        assert new.table.models == f.gateways[0].table.models

    virtually(test)


def test_a_model_that_is_deleted_goes_everywhere():
    async def test(f: Fleet) -> None:
        leader = await _deployed(f)
        (follower, _) = f.others(leader)
        await f.hub.store.delete("m")
        follower.member.poke("m")
        await f.until(lambda: all("m" not in g.table.models for g in f.gateways))
        await f.until(lambda: all(g.member.view("m") is None for g in f.gateways))
        assert [e.type for e in await f.hub.store.events()].count("model.deleted") == 1
        assert leader.scheduler.replicas() == []

    virtually(test)


def test_a_model_that_is_deleted_while_nobody_leads_is_buried_by_the_next():
    async def test(f: Fleet) -> None:
        leader = await _deployed(f)
        (follower, _) = f.others(leader)
        leader.kill()
        await f.hub.store.delete("m")
        await f.has_leader()
        await f.until(lambda: all(g.member.view("m") is None for g in f.others(leader)))
        assert all("m" not in g.table.models for g in f.others(leader))
        assert [e.type for e in await f.hub.store.events()].count("model.deleted") == 1
        assert follower.is_alive

    virtually(test)


# ---- rollouts --------------------


def _count(f: Fleet, good: int, bad: int = 0) -> None:
    """Each gateway's planes answer so many of the canary, and as many good ones of the stable."""
    for g in f.gateways:
        canary, stable = g.planes.counted.get(2) or empty(), g.planes.counted.get(1) or empty()
        for _ in range(good):
            count(canary, 0.01, failed=False)
            count(stable, 0.01, failed=False)
        for _ in range(bad):
            count(canary, 0.01, failed=True)
        g.planes.counted = {1: stable, 2: canary}


async def _rolling(f: Fleet) -> Gateway:
    leader = await _deployed(f, canary=PLAN)
    f.source.show(URI, published(1), published(2))
    await f.until(lambda: all(g.table.models["m"].canary is not None for g in f.gateways))
    weights = {g.table.models["m"].canary for g in f.gateways}
    assert len(weights) == 1
    assert next(iter(weights)).weight == 0.05
    return leader


def test_a_step_counts_what_all_gateways_have_answered():
    async def test(f: Fleet) -> None:
        await _rolling(f)
        # 40 of each side at each of three gateways: 100 are needed, which none has alone.
        _count(f, good=40)
        await f.until(lambda: all(g.table.models["m"].canary.weight == 0.5 for g in f.gateways), 10)
        for g in f.gateways:
            g.planes.counted = {}
        _count(f, good=40)
        await f.until(all_live(f, 2, 2))
        await f.until(lambda: f.hub.store._models["m"].rollout.phase is Phase.SUCCEEDED)

    virtually(test)


def test_a_canary_that_fails_at_one_gateway_is_off_all_of_them_within_a_second():
    async def test(f: Fleet) -> None:
        leader = await _rolling(f)
        (follower, _) = f.others(leader)
        bad = empty()
        for _ in range(40):
            count(bad, 0.01, failed=True)
        good = empty()
        for _ in range(400):
            count(good, 0.01, failed=False)
        follower.planes.counted = {1: good, 2: bad}
        took_s = await f.until(
            lambda: all(g.table.models["m"].canary is None for g in f.gateways), seconds=5
        )
        assert took_s < 1.0
        await f.until(lambda: f.wrong_routes() == [])

    virtually(test)


def test_a_rollout_goes_on_under_the_next_leader_counted_anew_and_nobody_flips():
    async def test(f: Fleet) -> None:
        leader = await _rolling(f)
        window = leader.table.models["m"].canary.window
        _count(f, good=30)
        leader.kill()
        end = asyncio.get_running_loop().time() + 17
        while asyncio.get_running_loop().time() < end:
            for g in f.others(leader):
                assert g.table.models["m"].canary.weight == 0.05
                assert g.live() == 1
            await asyncio.sleep(0.05)
        await f.until(
            lambda: all(g.table.models["m"].canary.window > window for g in f.others(leader))
        )
        # What was counted in the window before does not count in this one.
        for g in f.others(leader):
            g.planes.counted = {}
        await asyncio.sleep(10)
        assert {g.table.models["m"].canary.weight for g in f.others(leader)} == {0.05}
        _count(f, good=60)
        await f.until(
            lambda: all(g.table.models["m"].canary.weight == 0.5 for g in f.others(leader))
        )

    virtually(test)


def test_an_order_given_to_a_follower_is_done_and_answered():
    async def test(f: Fleet) -> None:
        leader = await _rolling(f)
        (follower, _) = f.others(leader)
        paused = await follower.member.order("m", "pause")
        assert paused.phase is Phase.PAUSED
        assert (await f.hub.store.models())[0].rollout == paused
        with pytest.raises(FailedPrecondition) as refused:
            await follower.member.order("m", "pause")
        assert refused.value.reason == "wrong_phase"
        promoted = await follower.member.order("m", "promote")
        assert promoted.phase is Phase.PROMOTING
        await f.until(all_live(f, 2, 2))

    virtually(test)


def test_an_order_that_nobody_can_do_is_taken_back():
    async def test(f: Fleet) -> None:
        leader = await _rolling(f)
        (follower, _) = f.others(leader)
        leader.kill()
        with pytest.raises(Unavailable) as refused:
            await follower.member.order("m", "promote")
        assert (refused.value.reason, refused.value.retry_after_s) == ("no_leader", 2.0)
        await f.until(lambda: f.leader is not None)
        await asyncio.sleep(5)
        assert (await f.hub.store.models())[0].rollout.phase is Phase.PROGRESSING

    virtually(test)


# ---- autoscaling --------------------


def test_a_request_that_waits_at_a_follower_starts_a_replica():
    async def test(f: Fleet) -> None:
        scaling = Scaling(0, 2, 1.0, idle_s=20.0)
        leader = await _deployed(f, replicas=1, scaling=scaling)
        (follower, _) = f.others(leader)
        await f.until(lambda: leader.scheduler.replicas() == [], seconds=120)
        assert all(g.table.models["m"].is_started_on_demand for g in f.gateways)
        assert all(g.table.models["m"].targets == {} for g in f.gateways)
        follower.planes.call("m")
        took_s = await f.until(all_live(f, 1, 1))
        assert took_s < 3.0
        assert {name for _, name in f.tells} == {leader.name}

    virtually(test)


# ---- what may not be --------------------


def test_local_replicas_of_another_machine_are_refused():
    async def test(f: Fleet) -> None:
        await f.has_leader()
        await f.gateways[0].sharing.beat(Beat("elsewhere", "h:1", "machine-2"))
        stranger = f.gateways[1].member
        stranger._me = Beat("g9", "h:2", "machine-1")
        with pytest.raises(Conflict) as refused:
            await stranger.join()
        assert refused.value.reason == "other_machine"
        assert "elsewhere" in refused.value.message

    virtually(test)
