"""Both fronts of a model server: words, codes, bounds, health, metrics."""

from __future__ import annotations

import asyncio
import gzip
import json

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.tensors import CLASSIFY_METHOD, REGRESS_METHOD
from servers.kit.rpc import HEALTH_NAMES
from servers.kit.settings import BatchSettings, ServerSettings
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import eventually, kit

pytestmark = pytest.mark.slow

BODY = '{"instances":[[1,2]]}'
URL = "/v1/models/m:predict"


@pytest.fixture
def folder(tmp_path):
    return str(write(tmp_path / "m", 1))


async def test_the_words_and_codes_of_rest(folder):
    cases = [
        ("POST", "/v1/models/m", "", 400, "Malformed request: POST /v1/models/m"),
        ("GET", "/v1/models", "", 400, "Missing model name in request."),
        ("POST", "/v1/models/no:predict", BODY, 404, "Servable not found for request: Latest(no)"),
        ("POST", "/v1/models/m/versions/9:predict", BODY, 404,
         "Servable not found for request: Specific(m, 9)"),
        ("POST", URL, "", 400, "JSON Parse error: The document is empty"),
        ("POST", URL, '{"signature_name":"s","instances":[[1,2]]}', 400,
         'Serving signature name: "s" not found in signature def'),
        ("POST", URL, '{"instances":[[1,2,3]]}', 400, None),
        ("GET", "/v1/models/m/versions/9", "", 404, "Could not find version 9 of model m"),
        ("POST", "/v1/models/m:classify", '{"examples":[{"a":1}]}', 400,
         "Expected classification signature method_name to be tensorflow/serving/classify. "
         "Was: tensorflow/serving/predict"),
    ]  # fmt: skip
    async with kit(FakeRuntime(), m=folder) as server:
        for method, path, body, code, words in cases:
            url = f"http://{server.running.http}{path}"
            async with server.session.request(method, url, data=body) as answer:
                assert answer.status == code, path
                assert answer.content_type == "application/json"
                said = json.loads(await answer.read())
                assert set(said) == {"error"}
                if words is not None:
                    assert said["error"] == words
        async with server.session.get(f"http://{server.running.http}/v3/x") as answer:
            assert (answer.status, await answer.read()) == (404, b"")
        url = f"http://{server.running.http}/v1/models/m:predict"
        for origin, code in (("https://a.b", 200), ("ftp://a", 400)):
            async with server.session.options(url, headers={"Origin": origin}) as answer:
                assert answer.status == code


async def test_bodies_are_bounded_before_and_after_decompression(folder):
    settings = ServerSettings(max_body=10_000)
    packed = {"Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * 50_000_000)
    async with kit(FakeRuntime(), settings, m=folder) as server:
        assert await server.post(URL, BODY) == await server.post(
            URL, gzip.compress(BODY.encode()), packed
        )
        status, text = await server.post(URL, b"x" * 20_000)
        assert status == 413
        assert "over the limit of 10000 bytes" in json.loads(text)["error"]
        assert len(bomb) > 10_000 or (await server.post(URL, bomb, packed))[0] == 413
        small_bomb = gzip.compress(b" " * 1_000_000)
        assert len(small_bomb) < 10_000
        assert (await server.post(URL, small_bomb, packed))[0] == 413
        for broken in (b"no gzip", gzip.compress(BODY.encode())[:-4]):
            status, text = await server.post(URL, broken, packed)
            assert status == 400
            assert "gzip" in json.loads(text)["error"]
        assert (await server.post(URL, BODY, {"Content-Encoding": "br"}))[0] == 501
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.predict("m", {"x": np.zeros((5000, 2), np.float32)})
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await server.post(URL, BODY))[0] == 200


async def test_wrong_inputs_over_grpc(folder):
    async with kit(FakeRuntime(), m=folder) as server:
        for inputs, words in [
            ({}, "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. "
                 "Missing but required: {x}."),
            ({"z": np.zeros((1, 2), np.float32)},
             "input tensor alias not found in signature: z. "
             "Inputs expected to be in the set {x}."),
            ({"x": np.zeros((1, 2), np.int32)},
             'Expects arg[0] to be float but int32 is provided (input "x")'),
            ({"x": np.zeros((1, 3), np.float32)},
             'input "x" has shape [1, 3], and the signature takes [-1, 2] (-1 is any size)'),
            ({"x": np.zeros(2, np.float32)},
             'input "x" has shape [2], and the signature takes [-1, 2] (-1 is any size)'),
        ]:  # fmt: skip
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.predict("m", inputs)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == words
        for method in (Method.PREDICT, Method.CLASSIFY, Method.GET_MODEL_STATUS):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.call(method, tfs_pb2.PredictRequest())
            assert caught.value.details() == "Missing ModelSpec"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.channel.unary_unary(Method.PREDICT.path)(b"\x0a\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.channel.unary_unary("/tensorflow.serving.PredictionService/No")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_classify_regress_and_several_at_once(folder):
    source = tfs_pb2.Input()
    for _ in range(2):
        example = source.example_list.examples.add()
        example.features.feature["a"].int64_list.value.append(3)
    async with kit(FakeRuntime(), m=folder) as server:
        classify = tfs_pb2.ClassificationRequest(input=source)
        classify.model_spec.name, classify.model_spec.signature_name = "m", "classify"
        answer = tfs_pb2.ClassificationResponse.FromString(
            await server.call(Method.CLASSIFY, classify)
        )
        assert answer.model_spec.version.value == 1
        classified = [
            [(c.label, c.score) for c in row.classes] for row in answer.result.classifications
        ]
        assert classified == [[("cat", 0.25), ("dog", 0.75)]] * 2
        multi = tfs_pb2.MultiInferenceRequest(input=source)
        for signature, method in (("classify", CLASSIFY_METHOD), ("regress", REGRESS_METHOD)):
            task = multi.tasks.add(method_name=method)
            task.model_spec.name, task.model_spec.signature_name = "m", signature
        both = tfs_pb2.MultiInferenceResponse.FromString(
            await server.call(Method.MULTI_INFERENCE, multi)
        )
        assert both.results[0].classification_result == answer.result
        size = len(source.example_list.examples[0].SerializeToString())
        values = [r.value for r in both.results[1].regression_result.regressions]
        assert values == [size, size]
        body = '{"signature_name":"%s","examples":[{"a":3},{"a":3}]}'
        status, text = await server.post("/v1/models/m:classify", body % "classify")
        assert status == 200
        assert json.loads(text) == {"results": [[["cat", 0.25], ["dog", 0.75]]] * 2}
        status, text = await server.post("/v1/models/m:regress", body % "regress")
        assert (status, json.loads(text)) == (200, {"results": [size, size]})


async def test_an_overfull_queue_is_429_and_resource_exhausted(folder):
    runtime = FakeRuntime()
    settings = ServerSettings(batch=BatchSettings(queue_rows=1), threads=1)
    async with kit(runtime, settings, m=folder) as server, asyncio.TaskGroup() as tasks:
        runtime.models[1].gate.clear()
        batcher = server.running.manager.find("m").batcher
        for queued in range(2):
            tasks.create_task(server.post(URL, BODY))
            await eventually(lambda n=queued: batcher.running and batcher.queued_rows == n)
        status, text = await server.post(URL, BODY)
        assert status == 429
        assert "rows wait for this version" in json.loads(text)["error"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.predict("m", {"x": np.zeros((1, 2), np.float32)})
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        runtime.models[1].gate.set()


async def test_too_many_requests_at_once_are_refused_and_status_is_not(folder):
    runtime = FakeRuntime()
    async with (
        kit(runtime, ServerSettings(in_flight_limit=1), m=folder) as server,
        asyncio.TaskGroup() as tasks,
    ):
        runtime.models[1].gate.clear()
        tasks.create_task(server.post(URL, BODY))
        await eventually(lambda: server.running.service.in_flight)
        status, text = await server.post(URL, BODY)
        assert (status, "in flight" in text) == (429, True)
        assert (await server.get("/v1/models/m"))[0] == 200
        request = tfs_pb2.GetModelStatusRequest()
        request.model_spec.name = "m"
        await server.call(Method.GET_MODEL_STATUS, request)
        runtime.models[1].gate.set()


async def test_deadlines_and_disconnects_free_the_queue(folder):
    runtime = FakeRuntime()
    async with kit(runtime, ServerSettings(threads=1), m=folder) as server:
        model, batcher = runtime.models[1], server.running.manager.find("m").batcher
        before = len(model.runs)
        model.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.post(URL, BODY))
            await eventually(lambda: batcher.running)
            status, text = await server.post(URL, BODY, {"x-request-timeout-ms": "50"})
            assert (status, "Deadline exceeded" in text) == (504, True)
            gone = tasks.create_task(server.post(URL, BODY))
            gone_too = tasks.create_task(server.predict("m", {"x": np.zeros((1, 2), np.float32)}))
            await eventually(lambda: batcher.queued_rows == 2)
            gone.cancel()
            gone_too.cancel()
            await eventually(lambda: not batcher.queued_rows)
            model.gate.set()
        assert len(model.runs) == before + 1
        await eventually(lambda: not server.running.service.in_flight)
        status, _ = await server.post(URL, BODY, {"x-request-timeout-ms": "soon"})
        assert status == 400


async def test_large_tensors_pass_through_the_codec_threads(folder):
    x = np.random.default_rng(2).standard_normal((100_000, 2), dtype=np.float32)
    async with kit(FakeRuntime(), m=folder) as server:
        np.testing.assert_array_equal((await server.predict("m", {"x": x}))["y"], x * 2 + 1)
        status, text = await server.post(URL, json.dumps({"instances": x[:20_000].tolist()}))
        assert status == 200
        y = np.array(json.loads(text)["predictions"], dtype=np.float32)
        np.testing.assert_array_equal(y, x[:20_000] * 2 + 1)


async def test_a_client_that_asks_may_send_its_body_at_once(folder):
    async with kit(FakeRuntime(), m=folder) as server:
        host, port = server.running.http.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {URL} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
        writer.write(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode())
        async with asyncio.timeout(30):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY.encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        await writer.wait_closed()


async def test_a_body_that_never_comes_meets_its_deadline(folder):
    async with kit(FakeRuntime(), m=folder) as server:
        host, port = server.running.http.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {URL} HTTP/1.1\r\nHost: a\r\nx-request-timeout-ms: 50\r\n"
        writer.write(f"{head}Content-Length: 99\r\n\r\n{{".encode())
        async with asyncio.timeout(30):
            assert (await reader.readline()).startswith(b"HTTP/1.1 504 ")
        writer.close()
        await writer.wait_closed()


async def test_health_and_metrics(folder):
    async with kit(FakeRuntime(), m=folder) as server:
        stub = health_pb2_grpc.HealthStub(server.channel)
        for name in HEALTH_NAMES:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await server.post(URL, BODY)
        await server.post(URL, "{")
        await server.post("/v1/models/unknown:predict", BODY)
        _, page = await server.get("/monitoring/prometheus/metrics")
        assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 1' in page
        count = ':tensorflow:serving:request_count{model_name="m",status="INVALID_ARGUMENT"} 1'
        assert count in page
        assert 'le="+Inf"} 2' in page
        assert "unknown" not in page
