"""What every scheduler does: the definition of ports.Scheduler, on the fake and the real ones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.domain.errors import NotFound
from gateway.domain.replicas import ReplicaSet, ReplicaState
from gateway.schedulers import LocalScheduler
from tests.parts.fakes_lifecycle import FakeScheduler
from tests.parts.local_replicas import QUICK, desired, kill, listening

pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """A scheduler and the power to kill its replicas."""

    scheduler: Any
    kill_one: Callable[[Any], None]
    image: dict = field(default_factory=dict)

    def desired(self, name: str = "m", replicas: int = 1, **changes) -> ReplicaSet:
        return desired(name, replicas, **self.image, **changes)

    async def listening(self, count: int) -> list:
        async with asyncio.timeout(60):
            while len(found := listening(self.scheduler)) != count:
                await self.scheduler.changed()
        return found

    async def draining(self) -> Any:
        """The one that drains, as soon as there is one."""
        async with asyncio.timeout(60):
            while True:
                for one in self.scheduler.replicas():
                    if one.state is ReplicaState.DRAINING:
                        return one
                await self.scheduler.changed()


KUBERNETES = pytest.param("kubernetes", marks=[pytest.mark.cluster])


@pytest.fixture(params=["fake", "local", KUBERNETES])
async def cluster_of(request, tmp_path) -> AsyncIterator[Cluster]:
    match request.param:
        case "fake":
            scheduler = FakeScheduler(start_s=0.01)
            yield Cluster(scheduler, lambda replica: scheduler.kill(replica.id))
        case "local":
            async with LocalScheduler(tmp_path, QUICK, environ=os.environ) as local:
                try:
                    yield Cluster(local, lambda replica: kill(replica.pid))
                finally:
                    await local.stop_all()
        case _:
            plane = request.getfixturevalue("cluster")
            namespace = request.getfixturevalue("namespace")
            from tests.cluster.port_on_pods import IMAGE, on_pods

            async with on_pods(plane, namespace) as (pods, kill_pod):
                yield Cluster(pods, kill_pod, IMAGE)


async def test_it_starts_what_is_missing_and_each_says_where_it_listens(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired(replicas=2)])
    found = await cluster_of.listening(2)
    assert len({r.id for r in found}) == 2
    assert len({r.endpoint.http for r in found}) == 2
    assert {r.model for r in found} == {"m"}
    assert {r.template for r in found} == {cluster_of.desired().template}


async def test_asking_again_for_the_same_changes_nothing(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired()])
    (before,) = await cluster_of.listening(1)
    await cluster_of.scheduler.ensure([cluster_of.desired()])
    await asyncio.sleep(0.05)
    assert [r.id for r in cluster_of.scheduler.replicas()] == [before.id]


async def test_too_many_are_marked_draining_and_go_on_until_removed(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired(replicas=2)])
    await cluster_of.listening(2)
    await cluster_of.scheduler.ensure([cluster_of.desired(replicas=1)])
    (left,) = await cluster_of.listening(1)
    (draining,) = [r for r in cluster_of.scheduler.replicas() if r.state is ReplicaState.DRAINING]
    assert draining.endpoint is not None
    await cluster_of.scheduler.remove(draining.id)
    assert [r.id for r in cluster_of.scheduler.replicas()] == [left.id]


async def test_one_that_drains_and_is_needed_after_all_goes_on(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired(replicas=1)])
    (before,) = await cluster_of.listening(1)
    await cluster_of.scheduler.ensure([replace(cluster_of.desired(), wanted=0)])
    assert (await cluster_of.draining()).id == before.id
    await cluster_of.scheduler.ensure([cluster_of.desired(replicas=1)])
    (after,) = await cluster_of.listening(1)
    assert (after.id, after.pid, after.endpoint) == (before.id, before.pid, before.endpoint)


async def test_a_model_may_want_none(cluster_of):
    await cluster_of.scheduler.ensure([replace(cluster_of.desired(), wanted=0)])
    assert list(cluster_of.scheduler.replicas()) == []
    await cluster_of.scheduler.ensure([cluster_of.desired(replicas=1)])
    (one,) = await cluster_of.listening(1)
    await cluster_of.scheduler.ensure([replace(cluster_of.desired(), wanted=0)])
    assert (await cluster_of.draining()).id == one.id
    await cluster_of.scheduler.remove(one.id)
    assert list(cluster_of.scheduler.replicas()) == []


async def test_a_model_that_is_not_desired_drains(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired("a"), cluster_of.desired("b")])
    await cluster_of.listening(2)
    await cluster_of.scheduler.ensure([cluster_of.desired("b")])
    (left,) = await cluster_of.listening(1)
    assert left.model == "b"
    gone = next(r for r in cluster_of.scheduler.replicas() if r.model == "a")
    assert gone.state is ReplicaState.DRAINING


async def test_removing_what_is_not_there_is_no_error(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired()])
    (kept,) = await cluster_of.listening(1)
    await cluster_of.scheduler.remove("m-zzzzz")
    assert [r.id for r in cluster_of.scheduler.replicas()] == [kept.id]


async def test_a_new_template_listens_before_the_old_one_drains(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired()])
    (old,) = await cluster_of.listening(1)
    other = cluster_of.desired(before="true")
    await cluster_of.scheduler.ensure([other])
    async with asyncio.timeout(60):
        while True:
            found = {r.id: r for r in cluster_of.scheduler.replicas()}
            if found[old.id].state is ReplicaState.DRAINING:
                break
            await cluster_of.scheduler.changed()
            await cluster_of.scheduler.ensure([other])
    new = [r for r in found.values() if r.template == other.template]
    assert [r.endpoint is not None for r in new] == [True]


async def test_groups_of_a_model_are_kept_apart(cluster_of):
    both = [cluster_of.desired(replicas=1), cluster_of.desired(replicas=2, group="canary")]
    await cluster_of.scheduler.ensure(both)
    found = await cluster_of.listening(3)
    assert sorted(r.group for r in found) == ["", "canary", "canary"]
    await cluster_of.scheduler.ensure(both)
    await asyncio.sleep(0.05)
    assert {r.id for r in cluster_of.scheduler.replicas()} == {r.id for r in found}
    # Each is scaled by itself, and one that is not named any more drains.
    await cluster_of.scheduler.ensure([cluster_of.desired(replicas=2)])
    await cluster_of.listening(2)
    known = cluster_of.scheduler.replicas()
    draining = {r.id for r in known if r.state is ReplicaState.DRAINING}
    assert draining == {r.id for r in found if r.group}
    # All at once, as the lifecycle does: those of a group that goes may wait for each other.
    async with asyncio.TaskGroup() as tasks:
        for replica_id in draining:
            tasks.create_task(cluster_of.scheduler.remove(replica_id))
    assert {r.group for r in cluster_of.scheduler.replicas()} == {""}


async def test_a_new_template_is_a_matter_of_each_group(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired(), cluster_of.desired(group="canary")])
    before = {r.group: r.id for r in await cluster_of.listening(2)}
    changed = [cluster_of.desired(), cluster_of.desired(group="canary", before="true")]
    await cluster_of.scheduler.ensure(changed)
    async with asyncio.timeout(60):
        while True:
            now = {r.id: r for r in cluster_of.scheduler.replicas()}
            if now[before["canary"]].state is ReplicaState.DRAINING:
                break
            await cluster_of.scheduler.changed()
            await cluster_of.scheduler.ensure(changed)
    assert now[before[""]].state is not ReplicaState.DRAINING
    assert sorted(r.group for r in now.values()) == ["", "canary", "canary"]


async def test_one_that_dies_is_replaced_in_its_own_group(cluster_of):
    both = [cluster_of.desired(), cluster_of.desired(group="canary")]
    await cluster_of.scheduler.ensure(both)
    before = await cluster_of.listening(2)
    cluster_of.kill_one(next(r for r in before if r.group))
    known = {r.id for r in before}
    async with asyncio.timeout(60):
        while not (new := [r for r in listening(cluster_of.scheduler) if r.id not in known]):
            await cluster_of.scheduler.changed()
            await cluster_of.scheduler.ensure(both)
    assert [r.group for r in new] == ["canary"]


async def test_a_replica_that_dies_is_replaced_by_one_with_another_id(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired()])
    (victim,) = await cluster_of.listening(1)
    cluster_of.kill_one(victim)
    async with asyncio.timeout(60):
        while not (found := [r for r in listening(cluster_of.scheduler) if r.id != victim.id]):
            await cluster_of.scheduler.changed()
            await cluster_of.scheduler.ensure([cluster_of.desired()])
    assert victim.id not in {r.id for r in found}


async def test_changed_waits_for_a_difference(cluster_of):
    cluster_of.scheduler.replicas()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await cluster_of.scheduler.changed()
    async with asyncio.timeout(30):
        await cluster_of.scheduler.ensure([cluster_of.desired()])
        await cluster_of.scheduler.changed()


async def test_the_logs_of_a_replica_can_be_read_and_those_of_a_stranger_cannot(cluster_of):
    await cluster_of.scheduler.ensure([cluster_of.desired()])
    (replica,) = await cluster_of.listening(1)
    said = b"".join([c async for c in cluster_of.scheduler.logs(replica.id, follow=False)])
    assert said
    with pytest.raises(NotFound):
        async for _ in cluster_of.scheduler.logs("../../etc/passwd", follow=False):
            pass
