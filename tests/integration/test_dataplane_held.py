"""What is held and what is not: replicas that die, callers and replicas that do not read."""

from __future__ import annotations

import asyncio
import os
import tracemalloc

import pytest

from gateway.codecs.tfs_methods import Method
from gateway.dataplane.settings import DataplaneSettings, HoldSettings
from gateway.wire.exchange import WireError
from gateway.wire.fields import Fields
from gateway.wire.grpc import HEAD, OK_TRAILERS
from gateway.wire.h1_client import Http1Client
from gateway.wire.h2_client import Http2Client
from gateway.wire.whole import whole
from tests.parts.fake_replica import fake_replica, running_gateway, table, until
from tests.parts.flowing import GRPC, PREDICT, SMALL_HOLD, Parts, framed, tensor_request
from tests.parts.wire_replica import JSON, hasher, wire_replica


@pytest.fixture
async def h1():
    client = Http1Client()
    yield client
    await client.aclose()


@pytest.fixture
async def h2():
    client = Http2Client()
    yield client
    await client.aclose()


# ---- again --------------------


def dies_after(size: int):
    """Reads so much of a request, then lets its connection break."""

    async def handle(request):
        got = 0
        async for piece in request.chunks():
            got += len(piece)
            if got >= size:
                request.break_off()
                await asyncio.Event().wait()

    return handle


async def test_a_body_that_is_still_held_goes_to_another_replica(h1):
    seen = []
    async with (
        wire_replica("a", dies_after(300_000)) as a,
        wire_replica("b", hasher(seen)) as b,
        running_gateway(SMALL_HOLD) as gw,
    ):
        gw.plane.publish(table(a))
        body = os.urandom(900_000)
        parts = Parts()
        parts.send(h1, gw.http, PREDICT, (JSON,), length=len(body))
        await parts.write(body[:400_000])
        await until(lambda: a.heads)
        gw.plane.publish(table(b, generation=2))
        await parts.write(body[400_000:])
        parts.exchange.end()
        await parts.over.wait()
        assert (parts.head.status, bytes(parts.body)) == (200, b"900000")
        assert seen == [body]


async def test_a_body_that_is_not_held_any_more_fails_with_its_replica(h1):
    async with (
        wire_replica("a", dies_after(2 << 20)) as a,
        wire_replica("b", hasher([])) as b,
        running_gateway(SMALL_HOLD) as gw,
    ):
        gw.plane.publish(table(a))
        parts = Parts()
        parts.send(h1, gw.http, PREDICT, (JSON,), length=4 << 20)
        await parts.write(os.urandom(1 << 20))
        await until(lambda: a.heads)
        gw.plane.publish(table(a, b, generation=2))
        for _ in range(3):
            await parts.write(os.urandom(1 << 20))
        await parts.over.wait()
        assert parts.head.status == 502
        assert not b.heads


def answers(size: int, *, dies_at: int | None = None, gate: asyncio.Event | None = None):
    async def handle(request):
        await request.body(1 << 30, 1e12)
        if request.head.is_h2:
            request.start(200, (HEAD,))
            await request.write(b"\0" + size.to_bytes(4, "big"))
        else:
            request.start(200, (JSON,), size)
        sent = 0
        while sent < size:
            if dies_at is not None and sent >= dies_at:
                if gate is not None:
                    await gate.wait()
                request.break_off()
                return
            await request.write(b"y" * min(65_536, size - sent))
            sent += 65_536
            await asyncio.sleep(0)
        request.end((OK_TRAILERS,) if request.head.is_h2 else None)

    return handle


@pytest.mark.parametrize("size", [100, 100_000, 250_000, 5 << 20])
async def test_answers_of_any_size_come_back(h1, h2, size):
    async with wire_replica("a", answers(size)) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a))
        over_http = await whole(
            h1, gw.http, "POST", PREDICT, (JSON,), b"{}", max_bytes=1 << 30, deadline_at=None
        )
        assert (over_http.head.status, over_http.body) == (200, b"y" * size)
        assert over_http.head.content_length == size
        assert "upstream;dur=" in over_http.head.get("server-timing")
        over_grpc = await whole(
            h2, gw.grpc, "POST", Method.PREDICT.path, (GRPC,), framed(tensor_request(10)),
            max_bytes=1 << 30, deadline_at=None,
        )  # fmt: skip
        assert over_grpc.body == framed(b"y" * size)
        trailers = dict(over_grpc.trailers)
        assert trailers["grpc-status"] == "0"
        assert trailers["x-gateway-version"] == "1"
        assert "server-timing" in trailers


async def test_a_replica_that_dies_early_in_its_answer_costs_nothing(h1):
    async with (
        wire_replica("a", answers(500_000, dies_at=131_072)) as a,
        wire_replica("b", answers(500_000)) as b,
        running_gateway(SMALL_HOLD) as gw,
    ):
        gw.plane.publish(table(a, b))
        for _ in range(6):
            answer = await whole(
                h1, gw.http, "POST", PREDICT, (JSON,), b"{}", max_bytes=1 << 30, deadline_at=None
            )
            assert (answer.head.status, len(answer.body)) == (200, 500_000)
        assert a.heads


async def test_a_replica_that_dies_late_breaks_the_answer_off_visibly(h1, h2):
    async with (
        wire_replica("a", answers(2 << 20, dies_at=1 << 20)) as a,
        running_gateway(SMALL_HOLD) as gw,
    ):
        gw.plane.publish(table(a))
        with pytest.raises(WireError) as broken:
            await whole(
                h1, gw.http, "POST", PREDICT, (JSON,), b"{}", max_bytes=1 << 30, deadline_at=None
            )
        assert broken.value.reason == "reset"
        with pytest.raises(WireError):
            await whole(
                h2, gw.grpc, "POST", Method.PREDICT.path, (GRPC,), framed(tensor_request(10)),
                max_bytes=1 << 30, deadline_at=None,
            )  # fmt: skip


async def test_a_deadline_that_passes_in_the_middle_of_an_answer_breaks_it_off(h1):
    gate = asyncio.Event()
    script = answers(2 << 20, dies_at=1 << 20, gate=gate)
    async with wire_replica("a", script) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a))
        timeout = Fields((("x-request-timeout-ms", "200"),))
        with pytest.raises(WireError):
            await whole(
                h1, gw.http, "POST", PREDICT, (JSON, timeout), b"{}",
                max_bytes=1 << 30, deadline_at=None,
            )  # fmt: skip
        await until(lambda: not gw.plane.in_flight.by_replica)


# ---- held back --------------------


async def test_a_caller_who_does_not_read_grows_no_memory(h2):
    """64 MiB of answer, and a caller that takes none of it for a while."""
    size = 64 << 20
    async with wire_replica("a", answers(size)) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a))
        tracemalloc.start()
        try:
            parts = Parts()
            parts.send(h2, gw.grpc, Method.PREDICT.path, (GRPC,))
            parts.exchange.write(framed(tensor_request(10)))
            parts.exchange.end()
            await until(lambda: parts.head is not None)
            parts.exchange.pause()
            tracemalloc.reset_peak()
            await asyncio.sleep(0.3)
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
            parts.body = Counted()
            parts.exchange.resume()
            await parts.over.wait()
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()
        assert dict(parts.trailers)["grpc-status"] == "0"


class Counted:
    """A body whose bytes are not kept."""

    def __iadd__(self, data):
        return self


async def test_a_replica_that_does_not_read_holds_its_caller_back(h2):
    gate = asyncio.Event()

    async def handle(request):
        await gate.wait()
        got = 0
        async for piece in request.chunks():
            got += len(piece)
        message = b"%d" % got
        request.respond(200, (HEAD,), framed(message), (OK_TRAILERS,))

    async with wire_replica("a", handle) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a))
        body = framed(tensor_request(48 << 20))
        tracemalloc.start()
        try:
            parts = Parts()
            parts.send(h2, gw.grpc, Method.PREDICT.path, (GRPC,))

            async def upload():
                for at in range(0, len(body), 1 << 18):
                    await parts.write(body[at : at + (1 << 18)])
                parts.exchange.end()

            async with asyncio.TaskGroup() as tasks:
                uploading = tasks.create_task(upload())
                await until(lambda: a.heads)
                await asyncio.sleep(0.3)
                assert not uploading.done()
                assert tracemalloc.get_traced_memory()[1] < 24 << 20
                gate.set()
            await parts.over.wait()
        finally:
            tracemalloc.stop()
        assert bytes(parts.body)[5:] == b"%d" % (len(body) + 6)


async def test_a_request_that_waits_for_a_replica_holds_its_caller_back(h1):
    seen = []
    async with running_gateway(SMALL_HOLD) as gw, wire_replica("a", hasher(seen)) as a:
        gw.plane.publish(table(versions=(1,), live=1))
        body = os.urandom(6 << 20)
        parts = Parts()
        parts.send(h1, gw.http, PREDICT, (JSON,), length=len(body))

        async def upload():
            for at in range(0, len(body), 1 << 17):
                await parts.write(body[at : at + (1 << 17)])
            parts.exchange.end()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(upload())
            await until(lambda: gw.plane.waiting)
            await asyncio.sleep(0.1)
            assert gw.plane.held_bytes < 3 << 20
            gw.plane.publish(table(a, generation=2))
        await parts.over.wait()
        assert parts.head.status == 200
        assert seen == [body]


async def test_the_memory_of_all_requests_together_is_bounded(h1):
    hold = HoldSettings(stream_from_bytes=1 << 20, total_bytes=1 << 20)
    settings = DataplaneSettings(hold=hold, drain_s=0.2)
    async with running_gateway(settings) as gw:
        gw.plane.publish(table(versions=(1,), live=1))
        refused = []
        all_parts = [Parts() for _ in range(4)]
        for parts in all_parts:
            parts.send(h1, gw.http, PREDICT, (JSON,), length=500_000)
            parts.exchange.write(b"x" * 400_000)
        await until(lambda: sum(p.over.is_set() for p in all_parts) >= 2)
        refused = [p for p in all_parts if p.over.is_set()]
        assert {p.head.status for p in refused} == {429}
        assert refused[0].head.get("x-gateway-reason") == "held_bytes"
        assert gw.plane.held_bytes <= 1 << 20
        for parts in all_parts:
            parts.exchange.cancel()
        await until(lambda: not gw.plane.held_bytes)


async def test_a_grpc_call_whose_message_does_not_come_ends_at_its_deadline(h2):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        parts = Parts()
        timeout = Fields((("grpc-timeout", "150m"),))
        parts.send(h2, gw.grpc, Method.PREDICT.path, (GRPC, timeout))
        parts.exchange.write(b"\0\0\0")
        await parts.over.wait()
        assert parts.head.get("grpc-status") == "4"
        assert parts.head.get("x-gateway-reason") == "receive"
