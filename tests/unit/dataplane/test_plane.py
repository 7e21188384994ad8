from __future__ import annotations

import asyncio
from random import Random

import pytest

from gateway.core.retry import RetrySettings
from gateway.core.route import Target
from gateway.dataplane import Dataplane, DataplaneSettings
from gateway.dataplane.replicas import NO_REPORT
from gateway.dataplane.seen import Seen
from gateway.domain.errors import NotFound, Overloaded, Unavailable, UpstreamFailed
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.telemetry import Metrics
from tests.parts.fake_replica import table
from tests.parts.scripted_upstream import OK, REFUSED, RESET, ScriptedUpstream

pytestmark = pytest.mark.virtual_time

A, B, C = (Target(n, Endpoint(n, n, n)) for n in "abc")
WAIT_S = 0.05


def made(says, **retry) -> tuple[Dataplane, ScriptedUpstream]:
    upstream = ScriptedUpstream(says)
    settings = DataplaneSettings(retry=RetrySettings(replica_wait_s=WAIT_S, **retry))
    plane = Dataplane(settings, http=upstream, grpc=upstream, metrics=Metrics(), rng=Random(3))
    return plane, upstream


async def ask(plane: Dataplane, version: int | None = None):
    seen = Seen(plane, "http", "/")
    answer = await plane.ask(
        plane.http, "m", version, None, 5.0, lambda v: UpstreamRequest(f"v{v}", b"body"), seen
    )
    return answer, seen.asked


async def test_a_refused_connection_is_asked_elsewhere():
    plane, upstream = made(lambda address: REFUSED if address == "a" else OK)
    plane.publish(table(A, B))
    for _ in range(20):
        answer, _ = await ask(plane)
        assert answer is OK
    assert upstream.asked.count("a") <= 1
    assert upstream.kept == ["a", "b"]


async def test_attempts_are_bounded_and_the_last_error_is_told():
    plane, upstream = made(lambda _: RESET)
    plane.publish(table(A, B, C, Target("d", Endpoint("d", "d", "d"))))
    with pytest.raises(UpstreamFailed):
        await ask(plane)
    assert len(upstream.asked) == len(set(upstream.asked)) == 3


async def test_a_spent_budget_allows_no_retry():
    plane, upstream = made(lambda _: RESET, budget_cap=1.0, budget_deposit=0.0)
    plane.publish(table(A, B, C))
    for _ in range(3):
        with pytest.raises(UpstreamFailed):
            await ask(plane)
    assert len(upstream.asked) == 4


async def test_without_a_next_replica_the_wait_is_bounded():
    plane, _ = made(lambda _: REFUSED)
    plane.publish(table(A))
    with pytest.raises(UpstreamFailed):
        await ask(plane)
    plane.publish(table(versions=(1,), live=1))
    with pytest.raises(Unavailable, match="none came up"):
        await ask(plane)
    assert not plane.in_flight.by_model


async def test_a_request_without_a_version_follows_the_live_one_at_its_next_attempt():
    plane, _ = made(lambda address: REFUSED if address == "a" else OK)
    plane.publish(table(A, versions=(1,)))
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(ask(plane))
        await asyncio.sleep(WAIT_S / 2)
        plane.publish(table(B, versions=(2,), generation=2))
    answer, admitted = asked.result()
    assert (answer, admitted.answered_by) == (OK, 2)


async def test_a_pinned_request_whose_version_is_gone_is_told_what_happened():
    plane, _ = made(lambda _: REFUSED)
    plane.publish(table(A, versions=(1,)))
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(refusal(ask(plane, version=1)))
        await asyncio.sleep(WAIT_S / 2)
        plane.publish(table(B, versions=(2,), generation=2))
    assert isinstance(asked.result(), NotFound)


async def refusal(awaitable):
    try:
        return await awaitable
    except (NotFound, UpstreamFailed) as error:
        return error


async def test_an_answer_too_large_is_not_asked_for_again():
    large = UpstreamFailed("large", reason="bad_answer", sent=True)
    plane, upstream = made(lambda _: large)
    plane.publish(table(A, B))
    with pytest.raises(UpstreamFailed, match="large"):
        await ask(plane)
    assert len(upstream.asked) == 1


async def test_the_in_flight_limit_is_counted_and_released():
    plane, _ = made(lambda _: None)
    plane.publish(table(A, in_flight_limit=1))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(ask(plane))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await ask(plane)
        first.cancel()
    assert not plane.in_flight.by_model
    async with asyncio.TaskGroup() as tasks:
        again = tasks.create_task(ask(plane))
        await asyncio.sleep(0)
        assert plane.in_flight.by_model["m"] == 1
        again.cancel()


async def test_drained_returns_when_something_busy_has_ended():
    plane, _ = made(lambda address: None if address == "a" else OK)
    plane.publish(table(A))
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(5):
        held = tasks.create_task(ask(plane))
        await asyncio.sleep(0.01)
        plane.publish(table(B, generation=2))
        assert plane.busy() == {("m", 1, "a")}
        drained = tasks.create_task(plane.drained())
        await asyncio.sleep(0.01)
        assert not drained.done()
        held.cancel()
        await drained
    assert not plane.busy()
    await plane.drained()


async def test_a_slow_replica_gets_less_than_a_fast_one():
    plane, upstream = made(lambda _: UpstreamAnswer(200, b""))
    plane.publish(table(A, B))
    now = asyncio.get_running_loop().time()
    plane.replicas.answered("a", 0.5, NO_REPORT, now)
    plane.replicas.answered("b", 0.005, NO_REPORT, now)
    for _ in range(20):
        await ask(plane)
    assert set(upstream.asked) == {"b"}
