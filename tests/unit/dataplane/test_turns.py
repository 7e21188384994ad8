"""Requests that wait for their turn, in a data plane whose replica is scripted."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gateway.core.limits import LimitSettings
from gateway.core.queueing import Priority, QueueSettings
from gateway.core.retry import RetrySettings
from gateway.core.route import RoutingTable, Target
from gateway.dataplane import Dataplane, DataplaneSettings
from gateway.domain.errors import DeadlineExceeded, GatewayError, NotFound
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.telemetry import Metrics
from tests.parts.fake_replica import table

pytestmark = pytest.mark.virtual_time

A = Target("a", Endpoint("a", "a", "a"))
CRITICAL, STANDARD, SHEDDABLE = Priority


class Gated:
    """An Upstream that answers when it is told to, in the order in which it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answering: list[asyncio.Future[UpstreamAnswer]] = []
        self.cancelled = 0

    async def call(self, endpoint, request, deadline_at) -> UpstreamAnswer:
        self.asked.append(request.target)
        answer = asyncio.get_running_loop().create_future()
        self.answering.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def answer(self, index: int = 0) -> None:
        self.answering.pop(index).set_result(UpstreamAnswer(200, b""))

    def keep(self, endpoints) -> None: ...

    async def aclose(self) -> None: ...


def made(at_once=1, most=10, **retry) -> tuple[Dataplane, Gated]:
    upstream = Gated()
    settings = DataplaneSettings(
        limit=LimitSettings(initial=at_once, least=1),
        queue=QueueSettings(most=most),
        retry=RetrySettings(**retry),
    )
    plane = Dataplane(settings, http=upstream, grpc=upstream, metrics=Metrics(), rng=Random(1))
    plane.publish(table(A))
    return plane, upstream


async def ask(plane, name, priority=STANDARD, timeout_s=5.0):
    def pin(_):
        return UpstreamRequest(name, b"")

    return await plane.ask(plane.http, "m", None, None, timeout_s, pin, priority=priority)


async def turn_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def shed(plane, reason) -> float:
    return plane.metrics.shed_total.labels("m", reason)._value.get()


async def test_beyond_the_limit_requests_wait_and_go_by_priority():
    plane, upstream = made()
    async with asyncio.TaskGroup() as tasks:
        for name, priority in [("first", STANDARD), ("s", SHEDDABLE), ("n", STANDARD),
                               ("c", CRITICAL)]:  # fmt: skip
            tasks.create_task(ask(plane, name, priority))
        await turn_of_the_loop()
        assert upstream.asked == ["first"]
        assert plane.turns() == {"m": (3, 1)}
        for _ in range(4):
            upstream.answer()
            await turn_of_the_loop()
    assert upstream.asked == ["first", "c", "n", "s"]
    assert plane.turns() == {"m": (0, 1)}
    assert not plane.in_flight.by_model


async def test_a_caller_who_leaves_the_queue_costs_the_replica_nothing():
    plane, upstream = made()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(plane, "first"))
        waiting = tasks.create_task(ask(plane, "gone"))
        tasks.create_task(ask(plane, "last"))
        await turn_of_the_loop()
        waiting.cancel()
        await turn_of_the_loop()
        assert plane.turns() == {"m": (1, 1)}
        upstream.answer()
        await turn_of_the_loop()
        upstream.answer()
    assert upstream.asked == ["first", "last"]


async def test_a_caller_who_leaves_a_replica_lets_the_next_one_in():
    plane, upstream = made()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(ask(plane, "first"))
        tasks.create_task(ask(plane, "next"))
        await turn_of_the_loop()
        first.cancel()
        await turn_of_the_loop()
        assert upstream.asked == ["first", "next"]
        assert upstream.cancelled == 1
        upstream.answer(1)


async def test_the_deadline_ends_the_waiting():
    plane, upstream = made()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(plane, "first"))
        await turn_of_the_loop()
        with pytest.raises(DeadlineExceeded, match="waited for its turn") as late:
            await ask(plane, "late", timeout_s=0.02)
        assert late.value.reason == "queue"
        assert plane.turns() == {"m": (0, 1)}
        upstream.answer()
    assert upstream.asked == ["first"]


async def test_a_full_queue_refuses_the_lowest_priority():
    plane, upstream = made(most=1)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(plane, "first"))
        low = tasks.create_task(refusal(ask(plane, "low", SHEDDABLE)))
        await turn_of_the_loop()
        high = tasks.create_task(ask(plane, "high", CRITICAL))
        await turn_of_the_loop()
        assert (low.result().reason, low.result().retry_after_s) == ("queue_full", 0.001)
        same = await refusal(ask(plane, "same", CRITICAL))
        assert same.reason == "queue_full"
        assert shed(plane, "queue_full") == 2
        upstream.answer()
        await turn_of_the_loop()
        upstream.answer()
        await high
    assert upstream.asked == ["first", "high"]


async def refusal(awaitable) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        await awaitable
    return refused.value


async def test_what_cannot_be_answered_in_time_is_refused_at_the_door():
    plane, upstream = made(at_once=2)
    async with asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(ask(plane, name))
        await turn_of_the_loop()
        limit = plane.states["m"].turns.limit
        limit.per_s, limit._base_s, limit.free = 1.0, 0.5, 0
        refused = await refusal(ask(plane, "late", timeout_s=1.0))
        assert refused.reason == "too_late"
        assert 1 < refused.retry_after_s < 5
        assert shed(plane, "too_late") == 1
        for _ in range(3):
            upstream.answer()
            await turn_of_the_loop()
    assert sorted(upstream.asked) == ["a", "b", "c"]


async def test_who_is_called_too_late_is_refused_without_being_sent():
    plane, upstream = made(at_once=2)
    async with asyncio.TaskGroup() as tasks:
        for name in "ab":
            tasks.create_task(ask(plane, name))
        late = tasks.create_task(refusal(ask(plane, "late", timeout_s=1.0)))
        await turn_of_the_loop()
        limit = plane.states["m"].turns.limit
        limit.per_s, limit._base_s = 0.5, 1.0
        upstream.answer()
        await turn_of_the_loop()
        assert late.result().reason == "expired"
        assert shed(plane, "expired") == 1
        upstream.answer()
    assert upstream.asked == ["a", "b"]


async def test_without_a_replica_nobody_holds_a_turn():
    plane, upstream = made()
    plane.publish(table(versions=(1,), live=1, generation=2))
    async with asyncio.TaskGroup() as tasks:
        for name in "ab":
            tasks.create_task(ask(plane, name))
        await turn_of_the_loop()
        assert plane.states["m"].turns.active == 0
        plane.publish(table(A, generation=3))
        await turn_of_the_loop()
        assert len(upstream.asked) == 1
        upstream.answer()
        await turn_of_the_loop()
        upstream.answer()


async def test_when_the_replica_goes_while_some_wait_none_is_lost():
    plane, upstream = made()
    async with asyncio.TaskGroup() as tasks:
        for name in "abcd":
            tasks.create_task(ask(plane, name))
        await turn_of_the_loop()
        plane.publish(table(versions=(1,), live=1, generation=2))
        upstream.answer()
        await turn_of_the_loop()
        assert plane.turns() == {"m": (0, 1)}  # they wait for a table now
        plane.publish(table(A, generation=3))
        for _ in range(3):
            await turn_of_the_loop()
            upstream.answer()
    assert sorted(upstream.asked) == list("abcd")


async def test_who_waits_for_a_turn_has_a_replica_and_is_not_told_otherwise():
    plane, upstream = made(replica_wait_s=0.03)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(plane, "first"))
        await turn_of_the_loop()
        plane.publish(table(versions=(1,), live=1, generation=2))
        waiting = tasks.create_task(ask(plane, "second"))
        await turn_of_the_loop()
        plane.publish(table(A, generation=3))
        await turn_of_the_loop()
        assert plane.turns() == {"m": (1, 1)}
        await asyncio.sleep(0.06)  # the timer of its wait for a replica is behind us
        assert not waiting.done()
        upstream.answer()
        await turn_of_the_loop()
        upstream.answer()
    assert upstream.asked == ["first", "second"]


async def test_a_model_that_is_deleted_lets_go_of_who_waits():
    plane, upstream = made()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(ask(plane, "first"))
        await turn_of_the_loop()
        waiting = tasks.create_task(refusal(ask(plane, "waiting")))
        await turn_of_the_loop()
        plane.publish(RoutingTable(2, {}))
        upstream.answer()
        await first
        assert isinstance(await waiting, NotFound)
    assert not plane.in_flight.by_model
    assert not plane.states


async def test_a_replica_that_is_overloaded_lowers_the_limit():
    plane, upstream = made(at_once=8)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(plane, "x"))
        await turn_of_the_loop()
        upstream.answer()
    plane.states["m"].turns.limit._base_s = 0.01
    for _ in range(3):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask(plane, "x"))
            await turn_of_the_loop()
            upstream.answering.pop().set_result(UpstreamAnswer(503, b""))
    assert plane.states["m"].turns.limit._dropped == 3


async def test_gauges_tell_what_waits():
    plane, upstream = made()
    plane.metrics.sample_turns(plane.turns)
    async with asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(ask(plane, name))
        await turn_of_the_loop()
        page = plane.metrics.render().decode()
        assert 'gateway_requests_queued{model="m"} 2.0' in page
        assert 'gateway_concurrency_limit{model="m"} 1.0' in page
        for _ in range(3):
            upstream.answer()
            await turn_of_the_loop()
    assert 'gateway_requests_queued{model="m"} 0.0' in plane.metrics.render().decode()
