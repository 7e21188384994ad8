"""V2 over HTTP through the gateway: pass-through, the gateway's own answers, refusals."""

from __future__ import annotations

import gzip
import json

import aiohttp
import pytest

from gateway.core.route import Target
from gateway.dataplane import DataplaneSettings
from gateway.domain.models import VersionState, VersionStatus
from tests.parts.fake_replica import fake_replica, running_gateway, table
from tests.parts.v2_only_server import V2Only, v2_only_server

KSERVE = DataplaneSettings(v2_flavour="kserve", drain_s=0.2)


@pytest.fixture
async def client():
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


async def test_a_body_passes_through_as_it_came_with_its_version_pinned(client):
    """The replica gets the very bytes, compressed ones too, and says what it likes."""
    script = {"http_headers": {"Inference-Header-Content-Length": "3"}, "http_body": b"xyz\x00"}
    async with fake_replica("a", **script) as a, running_gateway() as gw:
        gw.plane.publish(table(a, versions=(1, 2), live=1))
        body = gzip.compress(b"{}\x00\x01")
        headers = {"Inference-Header-Content-Length": "2", "Content-Encoding": "gzip"}
        url = f"http://{gw.http}/v2/models/m/infer"
        async with client.post(url, data=body, headers=headers) as answer:
            assert answer.status == 200
            assert await answer.read() == b"xyz\x00"
            assert answer.headers["Inference-Header-Content-Length"] == "3"
            assert answer.headers["x-gateway-version"] == "1"
            assert "upstream;dur=" in answer.headers["server-timing"]
        got = a.got[0]
        assert got.target == "POST /v2/models/m/versions/1/infer"
        assert got.body == body
        assert got.headers["inference-header-content-length"] == "2"
        assert got.headers["content-encoding"] == "gzip"
        for path, target in [
            ("/v2/models/m/versions/2/infer", "/v2/models/m/versions/2/infer"),
            ("/v2/models/m/generate", "/v2/models/m/versions/1/generate"),
        ]:
            async with client.post(f"http://{gw.http}{path}", data=b"{}"):
                assert a.got[-1].target == f"POST {target}"
        for path, target in [
            ("/v2/models/m", "/v2/models/m/versions/1"),
            ("/v2/models/m/config", "/v2/models/m/versions/1/config"),
            ("/v2/models/m/stats", "/v2/models/m/stats"),
            ("/v2/models/m/versions/2/stats", "/v2/models/m/versions/2/stats"),
        ]:
            async with client.get(f"http://{gw.http}{path}"):
                assert a.got[-1].target == f"GET {target}"


TRITON = [
    ("GET", "/v2/health/live", 200, b""),
    ("GET", "/v2/health/ready", 200, b""),
    ("GET", "/v2/models/m/ready", 200, b""),
    ("GET", "/v2/models/m/versions/1/ready", 200, b""),
    ("GET", "/v2/models/m/versions/2/ready", 400, b'{"error":"Model version not ready"}'),
    ("GET", "/v2/models/x/ready", 400, b'{"error":"Model version not ready"}'),
    ("POST", "/v2/repository/models/m/load", 200, b""),
    ("GET", "/v2/systemsharedmemory/status", 200, b"[]"),
    ("POST", "/v2/systemsharedmemory/unregister", 200, b""),
    ("POST", "/v2/cudasharedmemory/region/r/unregister", 200, b""),
    ("GET", "/v2/models", 404, b'{"error":"Not Found"}'),
    ("GET", "/v2/nothing", 404, b'{"error":"Not Found"}'),
    ("GET", "/v2/models/m/infer", 405, b'{"error":"Method Not Allowed"}'),
    ("GET", "/v2/repository/index", 405, b'{"error":"Method Not Allowed"}'),
]
KSERVES = [
    ("GET", "/v2/health/live", 200, b'{"live":true}'),
    ("GET", "/v2/health/ready", 200, b'{"ready":true}'),
    ("GET", "/v2/models/m/ready", 200, b'{"name":"m","ready":true}'),
    ("GET", "/v2/models/m/versions/2/ready", 503, b'{"error":"Model with name m is not ready."}'),
    ("GET", "/v2/models/x/ready", 404, b'{"error":"Model with name x does not exist."}'),
    ("POST", "/v2/models/x/infer", 404, b'{"error":"Model with name x does not exist."}'),
    ("POST", "/v2/repository/models/m/load", 200, b'{"name":"m","load":true}'),
    ("GET", "/v2/models", 200, b'{"models":["m"]}'),
]


@pytest.mark.parametrize(
    ("settings", "method", "path", "status", "body"),
    [(None, *row) for row in TRITON] + [(KSERVE, *row) for row in KSERVES],
)
async def test_the_gateway_answers_by_its_flavour(client, settings, method, path, status, body):
    statuses = (VersionStatus(2, VersionState.LOADING), VersionStatus(1, VersionState.READY))
    async with fake_replica("a") as a, running_gateway(settings) as gw:
        gw.plane.publish(table(a, statuses=statuses))
        async with client.request(method, f"http://{gw.http}{path}") as answer:
            assert (answer.status, await answer.read()) == (status, body)
        assert not a.got


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words", "reason"),
    [
        (
            "POST",
            "/v2/models/x/infer",
            b"",
            404,
            "unknown model: 'x' is not found",
            "model_unknown",
        ),
        ("GET", "/v2/models/m/versions/9", b"", 404, "version 9 is not found", "version_unknown"),
        (
            "POST",
            "/v2/models/m/versions/2/infer",
            b"",
            503,
            "Request for unknown model: 'm' version 2 is not at ready state",
            "version_loading",
        ),
        (
            "POST",
            "/v2/repository/models/m/unload",
            b"",
            400,
            "explicit model load / unload is not allowed",
            "model_control_refused",
        ),
        ("POST", "/v2/repository/models/x/load", b"", 400, "failed to load 'x'", "model_unknown"),
        (
            "POST",
            "/v2/repository/models/m/load",
            b'{"parameters":{"config":"{}"}}',
            400,
            "'config' cannot be applied",
            "load_parameters",
        ),
        ("POST", "/v2/logging", b'{"log_info":false}', 501, "log settings", "settings_read_only"),
        ("POST", "/v2/trace/setting", b"{}", 501, "trace settings", "settings_read_only"),
        ("GET", "/v2/models/x/trace/setting", b"", 404, "'x' is not found", "model_unknown"),
        (
            "POST",
            "/v2/systemsharedmemory/region/r/register",
            b"{}",
            501,
            "system shared memory is not offered",
            "shared_memory",
        ),
        (
            "GET",
            "/v2/cudasharedmemory/region/r/status",
            b"",
            400,
            "Unable to find cuda shared memory region: 'r'",
            "region_unknown",
        ),
        ("POST", "/v2/models/m/generate_stream", b"{}", 501, "generate_stream", "generate_stream"),
    ],
)
async def test_refusals_have_tritons_words(client, method, path, body, status, words, reason):
    statuses = (VersionStatus(2, VersionState.LOADING), VersionStatus(1, VersionState.READY))
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a, statuses=statuses))
        async with client.request(method, f"http://{gw.http}{path}", data=body) as answer:
            said = await answer.json()
            assert answer.status == status
            assert list(said) == ["error"]
            assert words in said["error"]
            assert answer.headers["x-gateway-reason"] == reason
            assert ("retry-after" in answer.headers) == (status == 503)
        assert not a.got


async def test_loading_a_known_model_has_its_source_looked_at_but_not_all_the_time(client):
    class Reloads:
        def __init__(self):
            self.refreshed = []

        async def refresh(self, name):
            self.refreshed.append(name)

    reloads = Reloads()
    async with fake_replica("a") as a, running_gateway(reloader=reloads) as gw:
        gw.plane.publish(table(a))
        for _ in range(5):
            async with client.post(f"http://{gw.http}/v2/repository/models/m/load") as answer:
                assert answer.status == 200
        async with client.post(f"http://{gw.http}/v2/repository/models/x/load") as answer:
            assert answer.status == 400
        assert reloads.refreshed == ["m"]


async def test_a_wrong_verb_says_which_are_right(client):
    async with (
        running_gateway() as gw,
        client.get(f"http://{gw.http}/v2/repository/index") as answer,
    ):
        assert answer.headers["allow"] == "POST"


async def test_not_ready_before_the_first_table(client):
    for settings, status in ((None, 400), (KSERVE, 503)):
        async with (
            running_gateway(settings) as gw,
            client.get(f"http://{gw.http}/v2/health/ready") as answer,
        ):
            assert answer.status == status


async def test_settings_index_and_metadata(client):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        base = f"http://{gw.http}/v2"
        for path in ("", "/"):
            async with client.get(base + path) as answer:
                told = await answer.json()
                assert told["name"] == "gateway"
                assert "binary_tensor_data" in told["extensions"]
        async with client.get(base + "/logging") as answer:
            assert (await answer.json())["log_info"] is True
        async with client.get(base + "/models/m/trace/setting") as answer:
            assert (await answer.json())["trace_level"] == ["OFF"]
        async with client.post(base + "/repository/index", data=b'{"ready":true}') as answer:
            assert await answer.json() == [
                {"name": "m", "version": "1", "state": "READY", "reason": ""}
            ]
        async with client.post(base + "/repository/index", data=b'{"ready":1}') as answer:
            assert answer.status == 400


async def test_statistics_of_all_models_are_joined_and_odd_ones_left_out(client):
    body = json.dumps({"model_stats": [{"name": "m", "version": "1", "n": 2**60}]}).encode()
    async with (
        fake_replica("a", http_body=body) as a,
        fake_replica("b", http_body=b"no json") as b,
        running_gateway() as gw,
    ):
        first = table(a)
        second = table(b, model="n")
        both = {**first.models, **second.models}
        gw.plane.publish(type(first)(1, both))
        async with client.get(f"http://{gw.http}/v2/models/stats") as answer:
            assert await answer.json() == json.loads(body)
        assert a.got[0].target == "GET /v2/models/m/stats"


async def test_statistics_of_a_model_are_those_of_all_its_replicas(client):
    def counted(number: int) -> bytes:
        stats = {"name": "m", "version": "1", "inference_count": number, "last_inference": number}
        return json.dumps({"model_stats": [stats]}).encode()

    async with (
        fake_replica("a", http_body=counted(5)) as a,
        fake_replica("b", http_body=counted(7)) as b,
        fake_replica("c", http_status=500, http_body=b"no") as c,
        running_gateway() as gw,
    ):
        gw.plane.publish(table(a, b, c))
        for path in ("/v2/models/m/stats", "/v2/models/m/versions/1/stats", "/v2/models/stats"):
            async with client.get(f"http://{gw.http}{path}") as answer:
                assert answer.status == 200
                assert answer.content_type == "application/json"
                assert (await answer.json())["model_stats"] == [
                    {"name": "m", "version": "1", "inference_count": 12, "last_inference": 7}
                ]
        targets = [got.target for got in a.got]
        assert targets == [got.target for got in b.got]
        assert targets == [f"GET /v2/models/m/{p}stats" for p in ("", "versions/1/", "")]
        gw.plane.publish(table(c, generation=2))
        async with client.get(f"http://{gw.http}/v2/models/m/stats") as answer:
            assert (answer.status, await answer.read()) == (500, b"no")
        async with client.get(f"http://{gw.http}/v2/models/m/versions/9/stats") as answer:
            assert answer.status == 404
            assert "version 9 is not found" in (await answer.json())["error"]


async def test_tensorflow_servings_paths_are_untouched(client):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        for path in ("/v2x", "/V2/health/live", "/v22/models"):
            async with client.get(f"http://{gw.http}{path}") as answer:
                assert (answer.status, await answer.read()) == (404, b"")


async def test_a_v2_only_server_is_passed_through_to(client):
    async with (
        v2_only_server(V2Only(versions={3}), speaks=("v2-rest",)) as server,
        running_gateway() as gw,
    ):
        gw.plane.publish(table(Target("a", server.endpoint), versions=(3,)))
        x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2]]}
        url = f"http://{gw.http}/v2/models/m/infer"
        async with client.post(url, json={"id": "7", "inputs": [x]}) as answer:
            said = await answer.json()
            assert (said["model_version"], said["id"]) == ("3", "7")
            assert said["outputs"][0]["data"] == [2.0, 4.0]
