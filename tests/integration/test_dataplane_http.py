"""The HTTP front over real sockets, real fake replicas behind it."""

from __future__ import annotations

import asyncio
import gzip

import aiohttp
import pytest

from gateway.dataplane import DataplaneSettings
from tests.parts.fake_replica import fake_replica, running_gateway, table, until


@pytest.fixture
async def client():
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


async def test_a_prediction_passes_through_with_its_version_pinned(client):
    async with fake_replica("a", http_headers={"x-custom": "yes"}) as a, running_gateway() as gw:
        gw.plane.publish(table(a, versions=(1, 2)))
        url = f"http://{gw.http}/v1/models/m:predict"
        async with client.post(url, data=b'{"instances": [1]}', headers={"x-mine": "1"}) as answer:
            assert answer.status == 200
            assert await answer.read() == b'{"by": "a"}'
            assert answer.headers["x-gateway-version"] == "2"
            assert answer.headers["x-custom"] == "yes"
            assert answer.headers["content-type"] == "application/json"
            assert "upstream;dur=" in answer.headers["server-timing"]
        got = a.got[0]
        assert got.target == "POST /v1/models/m/versions/2:predict"
        assert got.body == b'{"instances": [1]}'
        assert got.headers["x-mine"] == "1"
        assert 0 < int(got.headers["x-request-timeout-ms"]) <= 30_000


def url(gw, path="m:predict"):
    return f"http://{gw.http}/v1/models/{path}"


async def test_gzip_bodies_pass_compressed_both_ways(client):
    packed = gzip.compress(b'{"predictions": [1]}')
    script = {"http_body": packed, "http_headers": {"content-encoding": "gzip"}}
    async with fake_replica("a", **script) as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        body = gzip.compress(b'{"instances": [1]}')
        headers = {"content-encoding": "gzip"}
        async with client.post(url(gw), data=body, headers=headers) as answer:
            assert await answer.read() == packed
            assert answer.headers["content-encoding"] == "gzip"
        assert a.got[0].body == body
        assert a.got[0].headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/", 404, ""),
        ("POST", "/v3/models/m/infer", 404, ""),
        ("GET", "/v1/models", 400, '{ "error": "Missing model name in request." }'),
        (
            "DELETE",
            "/v1/models/m",
            400,
            '{ "error": "Malformed request: DELETE /v1/models/m" }',
        ),
        (
            "GET",
            "/v1/models/m:predict",
            400,
            '{ "error": "Malformed request: GET /v1/models/m:predict" }',
        ),
        (
            "POST",
            "/v1/models/x:predict",
            404,
            '{ "error": "Servable not found for request: Latest(x)" }',
        ),
        (
            "POST",
            "/v1/models/m/versions/9:predict",
            404,
            '{ "error": "Servable not found for request: Specific(m, 9)" }',
        ),
        (
            "POST",
            "/v1/models/m/labels/x:predict",
            400,
            '{ "error": "Unrecognized servable version label: x" }',
        ),
        (
            "GET",
            "/v1/models/x",
            404,
            '{ "error": "Could not find any versions of model x" }',
        ),
        (
            "GET",
            "/v1/models/m/versions/9",
            404,
            '{ "error": "Could not find version 9 of model m" }',
        ),
    ],
)
async def test_the_gateway_refuses_in_the_originals_words(client, method, path, status, body):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        async with client.request(method, f"http://{gw.http}{path}", data=b"{}") as answer:
            assert answer.status == status
            assert await answer.text() == body
            assert answer.headers["x-gateway-reason"]
            if body:
                assert answer.headers["content-type"] == "application/json"
        assert not a.got


async def test_options_status_metadata_and_metrics(client):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a, versions=(1, 2)))
        origin = {"origin": "https://x.example"}
        async with client.options(url(gw, "m"), headers=origin) as answer:
            assert answer.status == 200
        async with client.options(url(gw, "m")) as answer:
            assert answer.status == 400
        async with client.get(url(gw, "m/labels/anything")) as answer:
            said = await answer.json()
            assert [s["version"] for s in said["model_version_status"]] == ["2", "1"]
        async with client.get(url(gw, "m/metadata")) as answer:
            assert await answer.read() == b'{"by": "a"}'
        assert [g.target for g in a.got] == ["GET /v1/models/m/versions/2/metadata"]
        async with client.get(f"http://{gw.http}/monitoring/prometheus/metrics") as answer:
            assert answer.status == 200
            page = await answer.text()
    assert "gateway_requests_total" in page
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"}' in page


async def endless():
    for _ in range(64):
        yield b"x" * 1024


async def test_a_body_over_the_limit_is_413_with_and_without_a_length(client):
    settings = DataplaneSettings(max_body_bytes=4096, drain_s=0.2)
    async with fake_replica("a") as a, running_gateway(settings) as gw:
        gw.plane.publish(table(a))
        for body in (b"x" * 4097, endless()):
            async with client.post(url(gw), data=body) as answer:
                assert answer.status == 413
                assert (await answer.text()).startswith('{ "error": "The request body is larger')
        async with client.post(url(gw), data=b"x" * 4096) as answer:
            assert answer.status == 200
        assert len(a.got) == 1


async def test_a_large_body_passes(client):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        body = bytes(range(256)) * (4096 * 5)
        async with client.post(url(gw), data=endless_of(body)) as answer:
            assert answer.status == 200
        assert a.got[0].body == body


async def endless_of(body):
    for at in range(0, len(body), 65536):
        yield body[at : at + 65536]


async def test_expect_100_continue_is_answered_before_the_body_and_refused_without_it(client):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        async with client.post(url(gw), data=b"{}", expect100=True) as answer:
            assert answer.status == 200
        reader, writer = await asyncio.open_connection(*gw.http.split(":"))
        writer.write(
            b"POST /v1/models/x:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n"
            b"expect: 100-continue\r\n\r\n"
        )
        assert b"404" in await reader.readline()
        writer.close()


async def test_a_slow_body_and_a_late_answer_end_at_the_deadline(client):
    gate = asyncio.Event()
    async with fake_replica("a", gate=gate) as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        headers = {"x-request-timeout-ms": "150"}
        while not a.got:  # a machine may stand still until the time is over before it is sent
            async with client.post(url(gw), data=b"{}", headers=headers) as answer:
                assert answer.status == 504
                assert answer.headers["x-gateway-reason"] == "call"
        await until(lambda: a.cancelled == 1)
        reader, writer = await asyncio.open_connection(*gw.http.split(":"))
        writer.write(
            b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n"
            b"x-request-timeout-ms: 100\r\n\r\n{"
        )
        assert b"504" in await reader.readline()
        writer.close()
        async with client.post(
            url(gw), data=b"{}", headers={"x-request-timeout-ms": "soon"}
        ) as answer:
            assert answer.status == 400


async def test_a_caller_who_leaves_cancels_the_call():
    gate = asyncio.Event()
    async with fake_replica("a", gate=gate) as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        _, writer = await asyncio.open_connection(*gw.http.split(":"))
        writer.write(
            b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
        )
        await until(lambda: a.got)
        writer.close()
        await until(lambda: a.cancelled and not gw.plane.in_flight.by_model)


async def test_the_in_flight_limit_refuses_with_429(client):
    gate = asyncio.Event()
    async with fake_replica("a", gate=gate) as a, running_gateway() as gw:
        gw.plane.publish(table(a, in_flight_limit=1))
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(client.post(url(gw), data=b"{}"))
            await until(lambda: a.got)
            async with client.post(url(gw), data=b"{}") as answer:
                assert answer.status == 429
                assert answer.headers["retry-after"] == "1"
            gate.set()
        assert first.result().status == 200
        first.result().release()


@pytest.mark.parametrize("status", [503, 404])
async def test_unavailable_and_version_skew_are_asked_elsewhere(client, status):
    async with (
        fake_replica("a", http_status=status, http_body=b"own words") as a,
        fake_replica("b") as b,
        running_gateway() as gw,
    ):
        gw.plane.publish(table(a, b))
        for _ in range(10):
            async with client.post(url(gw), data=b"{}") as answer:
                assert await answer.read() == b'{"by": "b"}'
        assert a.got
        gw.plane.publish(table(a, generation=2))
        async with client.post(url(gw), data=b"{}") as answer:
            assert (answer.status, await answer.read()) == (status, b"own words")


async def test_a_broken_replica_costs_no_request_and_is_shunned(client):
    async def cut(request):
        request.transport.abort()
        await asyncio.sleep(1)

    async with (
        fake_replica("a", on_http=cut) as a,
        fake_replica("b") as b,
        running_gateway() as gw,
    ):
        gw.plane.publish(table(a, b))
        for _ in range(30):
            async with client.post(url(gw), data=b"{}") as answer:
                assert await answer.read() == b'{"by": "b"}'
        assert len(a.got) <= 2


async def test_requests_wait_for_the_replica_that_follows_the_only_one(client):
    async with running_gateway() as gw, fake_replica("a") as a:
        gw.plane.publish(table(a))
        async with client.post(url(gw), data=b"{}") as answer:
            assert answer.status == 200
        await a.stop()
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(client.post(url(gw), data=b"{}")) for _ in range(5)]
            await asyncio.sleep(0.1)
            gw.plane.publish(table(versions=(1,), live=1, generation=2))
            waiting.append(tasks.create_task(client.post(url(gw), data=b"{}")))
            await asyncio.sleep(0.1)
            async with fake_replica("b") as b:
                gw.plane.publish(table(b, generation=3))
                for task in waiting:
                    async with await task as answer:
                        assert (answer.status, await answer.read()) == (200, b'{"by": "b"}')


async def test_a_version_that_never_loaded_is_refused_at_once(client):
    async with running_gateway() as gw:
        gw.plane.publish(table(versions=()))
        async with client.post(url(gw), data=b"{}") as answer:
            assert answer.status == 503
            assert answer.headers["x-gateway-reason"] == "version_loading"


async def test_connections_to_a_replica_that_left_are_closed(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway() as gw:
        gw.plane.publish(table(a))
        async with client.post(url(gw), data=b"{}") as answer:
            assert answer.status == 200
        gw.plane.publish(table(b, generation=2))
        async with client.post(url(gw), data=b"{}") as answer:
            assert await answer.read() == b'{"by": "b"}'
        client_side = gw.plane.http.upstream._client
        await until(lambda: list(client_side._places) == [b.endpoint.http])
