"""A second replica is asked where the first one takes long; the first answer wins."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from gateway.core.retry import RetrySettings
from gateway.dataplane import DataplaneSettings
from tests.integration.test_balancing import tfs_request
from tests.parts.fake_replica import fake_replica, running_gateway, table, until

BODY = b'{"instances": [1]}'


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(client, gw, **options):
    url = f"http://{gw.http}/v1/models/m:predict"
    async with client.post(url, data=BODY, **options) as answer:
        return answer.status, await answer.read(), answer.headers.get("server-timing")


def hedges(gw):
    return {
        outcome: int(gw.plane.metrics.hedges_total.labels("m", outcome)._value.get())
        for outcome in ("won", "lost", "failed")
    }


async def warmed(client, gw, *replicas):
    """Enough answers to know the model's latencies, and a table whose only other one is there."""
    gw.plane.publish(table(*replicas, hedge=0.9))
    for _ in range(25):
        assert (await ask(client, gw))[0] == 200


def slow_first(a, b):
    """Whoever is asked next is held back until `gate` is set; the other one answers at once."""
    gate = asyncio.Event()
    asked = []
    seen = {"a": len(a.got), "b": len(b.got)}

    async def wait(replica):
        asked.append(replica.id)
        if len(asked) == 1:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                replica.cancelled += 1
                raise

    for replica in (a, b):
        replica._pause = lambda r=replica: wait(r)
    return gate, asked, seen


async def test_the_second_answer_wins_and_the_first_call_is_cancelled(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway() as gw:
        await warmed(client, gw, a, b)
        _, asked, _ = slow_first(a, b)
        before = hedges(gw)
        status, body, timing = await ask(client, gw)
        first, second = asked
        assert (status, body) == (200, f'{{"by": "{second}"}}'.encode())
        assert {first, second} == {"a", "b"}
        assert hedges(gw)["won"] == before["won"] + 1
        slow = a if first == "a" else b
        await until(lambda: slow.cancelled == 1)
        spent = {
            part.split(";dur=")[0].strip(): float(part.split("=")[1]) for part in timing.split(",")
        }
        assert all(ms >= 0 for ms in spent.values())


async def test_over_grpc_too(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway() as gw:
        gw.plane.publish(table(a, b, hedge=0.9))
        for _ in range(25):
            await gw.predict(tfs_request())
        _, asked, _ = slow_first(a, b)
        answer = await gw.predict(tfs_request())
        assert answer == b"answer of %b v1" % asked[1].encode()
        slow = a if asked[0] == "a" else b
        await until(lambda: slow.cancelled == 1)


async def test_the_first_answer_wins_and_the_second_call_is_cancelled(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway() as gw:
        await warmed(client, gw, a, b)
        gates = [asyncio.Event(), asyncio.Event()]
        asked = []

        async def wait(replica):
            asked.append(replica)
            try:
                await gates[len(asked) - 1].wait()
            except asyncio.CancelledError:
                replica.cancelled += 1
                raise

        for replica in (a, b):
            replica._pause = lambda r=replica: wait(r)
        before = hedges(gw)
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask(client, gw))
            await until(lambda: len(asked) == 2)
            gates[0].set()
        assert asking.result()[1] == f'{{"by": "{asked[0].id}"}}'.encode()
        await until(lambda: asked[1].cancelled == 1)
        assert hedges(gw)["lost"] == before["lost"] + 1


async def test_a_first_call_that_breaks_leaves_the_request_to_the_second(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway() as gw:
        await warmed(client, gw, a, b)
        go = asyncio.Event()
        asked = []

        async def on_http(replica, request):
            asked.append(replica.id)
            if len(asked) == 1:
                await until(lambda: len(asked) == 2)
                request.transport.abort()  # which cancels this handler
                asyncio.get_running_loop().call_later(0.05, go.set)
                await asyncio.Event().wait()
            await go.wait()
            return await original(replica, request)

        async def original(replica, request):
            return aiohttp.web.Response(body=f'{{"by": "{replica.id}"}}'.encode())

        for replica in (a, b):
            replica.on_http = lambda request, r=replica: on_http(r, request)
        status, body, _ = await ask(client, gw)
        assert (status, body) == (200, f'{{"by": "{asked[1]}"}}'.encode())
        assert len(asked) == 2


async def test_a_first_call_that_is_refused_leaves_the_request_to_the_second(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway() as gw:
        await warmed(client, gw, a, b)
        before = hedges(gw)
        asked = []

        async def wait(replica):
            asked.append(replica)
            if len(asked) == 1:
                replica.http_status = 503
                await until(lambda: len(asked) == 2)
            else:
                await asyncio.sleep(0.1)

        for replica in (a, b):
            replica._pause = lambda r=replica: wait(r)
        assert (await ask(client, gw))[:2] == (200, f'{{"by": "{asked[1].id}"}}'.encode())
        assert len(asked) == 2
        assert hedges(gw)["won"] == before["won"] + 1


async def test_a_second_call_that_fails_is_forgotten(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway() as gw:
        await warmed(client, gw, a, b)
        gate, asked, _ = slow_first(a, b)
        before = hedges(gw)
        for replica in (a, b):
            replica.http_status = 503
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask(client, gw))
            await until(lambda: hedges(gw)["failed"] == before["failed"] + 1)
            (a if asked[0] == "a" else b).http_status = 200
            gate.set()
        assert asking.result()[:2] == (200, f'{{"by": "{asked[0]}"}}'.encode())


async def test_a_caller_who_leaves_cancels_both(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway() as gw:
        await warmed(client, gw, a, b)
        for replica in (a, b):
            replica.gate = asyncio.Event()
            replica.got.clear()
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask(client, gw))
            await until(lambda: a.got and b.got)
            asking.cancel()
        await until(lambda: a.cancelled == 1 and b.cancelled == 1)


async def test_nothing_is_asked_twice_without_it_or_without_budget_or_another_replica(client):
    none = DataplaneSettings(drain_s=0.2, retry=RetrySettings(budget_cap=0.5))
    for settings, hedge, alone in ((None, 0.0, False), (none, 0.9, False), (None, 0.9, True)):
        async with (
            fake_replica("a") as a,
            fake_replica("b") as b,
            running_gateway(settings) as gw,
        ):
            gw.plane.publish(table(*([a] if alone else [a, b]), hedge=hedge))
            for _ in range(25):
                await ask(client, gw)
            before = hedges(gw)
            a.delay_s = b.delay_s = 0.1
            a.got.clear()
            b.got.clear()
            assert (await ask(client, gw))[0] == 200
            assert len(a.got) + len(b.got) == 1
            assert hedges(gw) == before == {"won": 0, "lost": 0, "failed": 0}
