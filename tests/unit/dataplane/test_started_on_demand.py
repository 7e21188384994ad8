"""Requests for a model that has no replica while nobody asks: they start one and wait for it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gateway.codecs.oip_errors import Flavour
from gateway.core.autoscale import Demand
from gateway.core.retry import RetrySettings
from gateway.core.route import RoutingTable, Target, is_held
from gateway.dataplane import Dataplane, DataplaneSettings
from gateway.dataplane.settings import HoldSettings
from gateway.dataplane.v2_own import index, model_ready
from gateway.domain.errors import DeadlineExceeded, NotFound, Overloaded, Unavailable
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamRequest
from gateway.telemetry import Metrics
from tests.parts.fake_replica import table
from tests.parts.jumping_loop import run_jumping
from tests.parts.scripted_upstream import OK, ScriptedUpstream

A = Target("a", Endpoint("a", "a", "a"))


def at_zero(generation: int = 1, **fields) -> RoutingTable:
    return table(
        versions=(1,),
        live=1,
        generation=generation,
        **({"is_scaled": True, "is_started_on_demand": True} | fields),
    )


def up(generation: int = 2) -> RoutingTable:
    return table(A, generation=generation, is_scaled=True, is_started_on_demand=True)


def made(says=lambda _: OK, **settings) -> Dataplane:
    upstream = ScriptedUpstream(says)
    chosen = DataplaneSettings(retry=RetrySettings(replica_wait_s=1.0), **settings)
    return Dataplane(chosen, http=upstream, grpc=upstream, metrics=Metrics(), rng=Random(3))


async def ask(plane: Dataplane, timeout_s: float = 30.0, version=None, label=None):
    def pin(version: int) -> UpstreamRequest:
        return UpstreamRequest(f"v{version}", b"body")

    return await plane.ask(plane.http, "m", version, label, timeout_s, pin)


def jumping(test):
    def wrapped() -> None:
        run_jumping(test())

    wrapped.__name__ = test.__name__
    return wrapped


@jumping
async def test_a_request_waits_longer_than_for_a_lost_replica_and_calls_once():
    plane = made()
    plane.publish(at_zero())
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(plane)) for _ in range(3)]
        assert list(await plane.called()) == ["m"]
        again = tasks.create_task(plane.called())
        await asyncio.sleep(25)
        assert not again.done()
        again.cancel()
        plane.publish(up())
    assert [task.result() for task in asked] == [OK] * 3
    await plane.aclose()


@jumping
async def test_each_table_without_a_replica_is_called_for_again():
    plane = made()
    plane.publish(at_zero())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(plane))
        await plane.called()
        plane.publish(at_zero(generation=2))
        assert list(await plane.called()) == ["m"]
        plane.publish(up(3))
    await plane.aclose()


@jumping
async def test_it_waits_until_its_deadline_and_no_longer():
    plane = made()
    plane.publish(at_zero())
    begun = plane.loop.time()
    with pytest.raises(DeadlineExceeded, match="no replica of model m could answer"):
        await ask(plane, timeout_s=20.0)
    assert plane.loop.time() - begun == pytest.approx(20.0, abs=0.01)
    assert not plane.in_flight.by_model
    await plane.aclose()


@pytest.mark.parametrize(
    "fields",
    [
        {"is_started_on_demand": False},
        {"statuses": (VersionStatus(1, VersionState.FAILED, "no ONNX model"),)},
    ],
)
def test_a_lost_replica_and_one_that_cannot_load_are_waited_for_as_before(fields):
    async def run() -> None:
        plane = made()
        plane.publish(at_zero(**fields))
        begun = plane.loop.time()
        with pytest.raises(Unavailable, match="none came up within 1 s"):
            await ask(plane)
        assert plane.loop.time() - begun < 1.1
        await plane.aclose()

    run_jumping(run())


@pytest.mark.parametrize(
    ("version", "label", "held"),
    [(None, None, True), (1, None, True), (None, "old", True), (2, None, False)],
)
def test_versions_and_labels_that_are_there_are_held_and_others_refused(version, label, held):
    async def run() -> None:
        plane = made()
        plane.publish(at_zero(labels={"stable": 1, "old": 1}))
        assert is_held(plane.table, "m", version, label) == held
        if not held:
            with pytest.raises(NotFound):
                await ask(plane, version=version, label=label)
            await plane.aclose()
            return
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(ask(plane, version=version, label=label))
            await plane.called()
            targets = up().models["m"]
            plane.publish(table(A, generation=2, labels={"stable": 1, "old": 1}))
            assert targets.live == 1
        assert asked.result() is OK
        await plane.aclose()

    run_jumping(run())


@jumping
async def test_how_many_may_wait_is_bounded():
    plane = made()
    plane.publish(at_zero(in_flight_limit=5))
    async with asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(ask(plane)) for _ in range(5)]
        await plane.called()
        with pytest.raises(Overloaded, match="5 requests in flight"):
            await ask(plane)
        plane.publish(up())
    assert all(task.result() is OK for task in held)
    await plane.aclose()


@jumping
async def test_how_much_may_wait_is_bounded():
    plane = made(hold=HoldSettings(total_bytes=1000))
    plane.publish(at_zero())
    plane.held_bytes = 1001
    with pytest.raises(Overloaded) as refused:
        await ask(plane)
    assert refused.value.reason == "held_bytes"
    plane.held_bytes = 0
    assert not plane.in_flight.by_model
    await plane.aclose()


@jumping
async def test_all_that_waited_is_let_through_in_turn():
    plane = made()
    plane.publish(at_zero())
    async with asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(ask(plane)) for _ in range(500)]
        await plane.called()
        await asyncio.sleep(10)
        plane.publish(up())
    assert all(task.result() is OK for task in held)
    await plane.aclose()


@jumping
async def test_what_is_asked_is_counted_in_time_and_number():
    plane = made(lambda _: None)
    plane.publish(up(1))
    await asyncio.sleep(0.05)
    begun = plane.demand("m")
    assert begun == Demand(0.0, 0)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(plane, timeout_s=100.0)) for _ in range(4)]
        await asyncio.sleep(10)
        for task in asked:
            task.cancel()
        await asyncio.sleep(10)
    demand = plane.demand("m")
    assert demand.came == 4
    assert demand.request_s == pytest.approx(40.0, abs=0.5)
    plane.publish(at_zero(2))
    assert plane.demand("m") == demand
    plane.publish(table(A, generation=3))
    assert plane.demand("m").request_s == 0.0
    await plane.aclose()


@jumping
async def test_nothing_is_looked_at_where_no_model_is_scaled():
    plane = made()
    plane.publish(table(A))
    assert plane.demands._timer is None
    plane.publish(up())
    assert plane.demands._timer is not None
    plane.publish(table(A, generation=3))
    await asyncio.sleep(1)
    assert plane.demands._timer is None
    await plane.aclose()
    plane.publish(up(4))
    assert plane.demands._timer is None


def test_to_callers_who_ask_whether_it_is_ready_it_is():
    for flavour in Flavour:
        assert model_ready(at_zero(), "m", None, flavour) is None
        assert model_ready(at_zero(), "m", 1, flavour) is None
        assert model_ready(at_zero(), "m", 2, flavour) is not None
        assert model_ready(at_zero(is_started_on_demand=False), "m", None, flavour) is not None
    (entry,) = index(at_zero(), only_ready=True)
    assert entry.state == "READY"
    assert index(at_zero(is_started_on_demand=False), only_ready=True) == []
