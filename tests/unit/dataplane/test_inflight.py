from __future__ import annotations

import asyncio

from gateway.core.route import RoutingTable
from gateway.dataplane.inflight import InFlight
from tests.parts.fake_replica import FakeReplica, table

A = FakeReplica("a")


async def test_a_use_is_busy_once_the_table_does_not_name_it():
    counts = InFlight()
    use = ("m", 1, "a")
    counts.begin(use)
    assert not counts.busy(table(A, versions=(1,)))
    assert counts.busy(table(A, versions=(2,))) == {use}
    assert counts.busy(RoutingTable()) == {use}
    counts.end(use)
    assert not counts.busy(RoutingTable())
    assert not counts.by_replica


async def test_counts_go_up_and_down_and_leave_nothing():
    counts = InFlight()
    counts.enter("m")
    counts.enter("m")
    assert counts.by_model["m"] == 2
    counts.leave("m")
    assert counts.by_model["m"] == 1
    counts.leave("m")
    assert not counts.by_model


async def test_who_waits_for_a_change_is_woken_by_the_next_end():
    counts = InFlight()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(30):
        counts.enter("m")
        waiting = tasks.create_task(counts.change())
        await asyncio.sleep(0)
        assert not waiting.done()
        counts.leave("m")
        await waiting
