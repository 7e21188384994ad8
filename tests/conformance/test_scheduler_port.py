"""What every scheduler does: the definition of ports.Scheduler, on the fake and the real one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.domain.errors import NotFound
from gateway.domain.replicas import ReplicaState
from gateway.schedulers import LocalScheduler
from tests.parts.fakes_lifecycle import FakeScheduler
from tests.parts.local_replicas import QUICK, desired, kill, listening

pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """A scheduler and the power to kill its replicas."""

    scheduler: Any

    def kill(self, replica) -> None:
        if isinstance(self.scheduler, FakeScheduler):
            self.scheduler.kill(replica.id)
        else:
            kill(replica.pid)

    async def listening(self, count: int) -> list:
        async with asyncio.timeout(20):
            while len(found := listening(self.scheduler)) != count:
                await self.scheduler.changed()
        return found


@pytest.fixture(params=["fake", "local"])
async def cluster(request, tmp_path) -> AsyncIterator[Cluster]:
    if request.param == "fake":
        yield Cluster(FakeScheduler(start_s=0.01))
        return
    async with LocalScheduler(tmp_path, QUICK, environ=os.environ) as scheduler:
        try:
            yield Cluster(scheduler)
        finally:
            await scheduler.stop_all()


async def test_it_starts_what_is_missing_and_each_says_where_it_listens(cluster):
    await cluster.scheduler.ensure([desired(replicas=2)])
    found = await cluster.listening(2)
    assert len({r.id for r in found}) == 2
    assert len({r.endpoint.http for r in found}) == 2
    assert {r.model for r in found} == {"m"}
    assert {r.template for r in found} == {desired().template}


async def test_asking_again_for_the_same_changes_nothing(cluster):
    await cluster.scheduler.ensure([desired()])
    (before,) = await cluster.listening(1)
    await cluster.scheduler.ensure([desired()])
    await asyncio.sleep(0.05)
    assert [r.id for r in cluster.scheduler.replicas()] == [before.id]


async def test_too_many_are_marked_draining_and_go_on_until_removed(cluster):
    await cluster.scheduler.ensure([desired(replicas=2)])
    await cluster.listening(2)
    await cluster.scheduler.ensure([desired(replicas=1)])
    (left,) = await cluster.listening(1)
    (draining,) = [r for r in cluster.scheduler.replicas() if r.state is ReplicaState.DRAINING]
    assert draining.endpoint is not None
    await cluster.scheduler.remove(draining.id)
    assert [r.id for r in cluster.scheduler.replicas()] == [left.id]


async def test_a_model_that_is_not_desired_drains(cluster):
    await cluster.scheduler.ensure([desired("a"), desired("b")])
    await cluster.listening(2)
    await cluster.scheduler.ensure([desired("b")])
    (left,) = await cluster.listening(1)
    assert left.model == "b"
    gone = next(r for r in cluster.scheduler.replicas() if r.model == "a")
    assert gone.state is ReplicaState.DRAINING


async def test_removing_what_is_not_there_is_no_error(cluster):
    await cluster.scheduler.ensure([desired()])
    (kept,) = await cluster.listening(1)
    await cluster.scheduler.remove("m-zzzzz")
    assert [r.id for r in cluster.scheduler.replicas()] == [kept.id]


async def test_a_new_template_listens_before_the_old_one_drains(cluster):
    await cluster.scheduler.ensure([desired()])
    (old,) = await cluster.listening(1)
    other = desired(before="true")
    await cluster.scheduler.ensure([other])
    async with asyncio.timeout(20):
        while True:
            found = {r.id: r for r in cluster.scheduler.replicas()}
            if found[old.id].state is ReplicaState.DRAINING:
                break
            await cluster.scheduler.changed()
            await cluster.scheduler.ensure([other])
    new = [r for r in found.values() if r.template == other.template]
    assert [r.endpoint is not None for r in new] == [True]


async def test_a_replica_that_dies_is_replaced_by_one_with_another_id(cluster):
    await cluster.scheduler.ensure([desired()])
    (victim,) = await cluster.listening(1)
    cluster.kill(victim)
    async with asyncio.timeout(20):
        while not (found := [r for r in listening(cluster.scheduler) if r.id != victim.id]):
            await cluster.scheduler.changed()
            await cluster.scheduler.ensure([desired()])
    assert victim.id not in {r.id for r in found}


async def test_changed_waits_for_a_difference(cluster):
    cluster.scheduler.replicas()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await cluster.scheduler.changed()
    async with asyncio.timeout(5):
        await cluster.scheduler.ensure([desired()])
        await cluster.scheduler.changed()


async def test_the_logs_of_a_replica_can_be_read_and_those_of_a_stranger_cannot(cluster):
    await cluster.scheduler.ensure([desired()])
    (replica,) = await cluster.listening(1)
    said = b"".join([c async for c in cluster.scheduler.logs(replica.id, follow=False)])
    assert said
    with pytest.raises(NotFound):
        async for _ in cluster.scheduler.logs("../../etc/passwd", follow=False):
            pass
