from __future__ import annotations

import asyncio

import pytest

from gateway.core.route import RoutingTable
from gateway.dataplane.inflight import InFlight
from tests.parts.fake_replica import FakeReplica, table

A = FakeReplica("a")


async def test_a_use_is_busy_once_the_table_does_not_name_it():
    counts = InFlight()
    with counts.call(("m", 1, "a")):
        assert not counts.busy(table(A, versions=(1,)))
        assert counts.busy(table(A, versions=(2,))) == {("m", 1, "a")}
        assert counts.busy(RoutingTable()) == {("m", 1, "a")}
    assert not counts.busy(RoutingTable())
    assert not counts.by_replica


async def test_counts_are_released_by_errors_and_cancellation():
    counts = InFlight()
    with pytest.raises(ValueError, match="x"), counts.request("m"), counts.call(("m", 1, "a")):
        raise ValueError("x")

    async def held():
        with counts.request("m"), counts.call(("m", 1, "a")):
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(held())
        await asyncio.sleep(0)
        assert counts.by_model["m"] == 1
        task.cancel()
    assert not counts.by_model
    assert not counts.by_replica


async def test_who_waits_for_a_change_is_woken_by_the_next_end():
    counts = InFlight()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(5):
        with counts.request("m"):
            waiting = tasks.create_task(counts.change())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
