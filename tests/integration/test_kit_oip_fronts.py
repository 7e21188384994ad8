"""The V2 fronts of a model server: statuses and words, both flavours, binary bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from pathlib import Path

import grpc
import numpy as np
import pytest

from gateway.codecs.oip_errors import Flavour
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from tests.parts.fake_runtime import write
from tests.parts.kit_server import eventually
from tests.parts.oip_kit import LENGTH, X, ask, binary, body, call, message, serving

SHARED = "shared memory regions are not offered"
ROUTES: list[tuple[str, str, bytes | None, int, str | None]] = [
    ("GET", "/v2/health/live", None, 200, ""),
    ("GET", "/v2/health/ready", None, 200, ""),
    ("POST", "/v2/health/ready", b"", 405, "Method Not Allowed"),
    ("GET", "/v2", None, 200, None),
    ("GET", "/v2/", None, 200, None),
    ("GET", "/v2/models", None, 200, '{"models":["m"]}'),
    ("GET", "/v2/models/m", None, 200, None),
    ("GET", "/v2/models/m/versions/1", None, 200, None),
    ("GET", "/v2/models/m/versions/2", None, 404, "Request for unknown model: 'm' version 2"),
    ("GET", "/v2/models/n", None, 404, "Request for unknown model: 'n' is not found"),
    ("GET", "/v2/models/m/ready", None, 200, ""),
    ("GET", "/v2/models/n/ready", None, 400, "Model version not ready"),
    ("GET", "/v2/models/m/infer", None, 405, "Method Not Allowed"),
    ("GET", "/v2/models/m/config", None, 200, None),
    ("GET", "/v2/models/m/stats", None, 200, None),
    ("GET", "/v2/models/stats", None, 200, None),
    ("GET", "/v2/models/n/stats", None, 404, "Request for unknown model"),
    ("GET", "/v2/repository/index", None, 405, "Method Not Allowed"),
    ("POST", "/v2/repository/index", b"", 200, None),
    ("POST", "/v2/repository/index", b'{"ready":true}', 200, None),
    ("POST", "/v2/repository/index", b'{"ready":1}', 400, "expected a boolean"),
    ("POST", "/v2/repository/r/index", b"", 501, "'repository_name' specification"),
    ("POST", "/v2/repository/models/m/load", b"", 200, ""),
    ("POST", "/v2/repository/models/n/load", b"", 404, "failed to load 'n'"),
    ("POST", "/v2/repository/models/n/unload", b"{}", 404, "failed to unload 'n'"),
    ("GET", "/v2/trace/setting", None, 200, None),
    ("POST", "/v2/trace/setting", b'{"trace_rate":"5"}', 200, None),
    ("POST", "/v2/trace/setting", b'{"trace_rate":5}', 400, "must be a string"),
    ("GET", "/v2/models/m/trace/setting", None, 200, None),
    ("GET", "/v2/models/n/trace/setting", None, 404, "unknown model"),
    ("GET", "/v2/logging", None, 200, None),
    ("POST", "/v2/logging", b'{"log_info":1}', 400, "must be true or false"),
    ("GET", "/v2/systemsharedmemory/status", None, 200, "[]"),
    ("GET", "/v2/cudasharedmemory/region/r/status", None, 404, "Unable to find CUDA"),
    ("POST", "/v2/systemsharedmemory/region/r/register", b"{}", 501, SHARED),
    ("POST", "/v2/cudasharedmemory/unregister", b"", 501, SHARED),
    ("POST", "/v2/models/m/generate", b"{}", 501, "generate"),
    ("POST", "/v2/models/m/generate_stream", b"{}", 501, "generate"),
    ("GET", "/v2/models/m/versions/1/nothing", None, 404, "Not Found"),
    ("GET", "/v2/nothing", None, 404, "Not Found"),
    ("POST", "/v2/models/m/infer", b"", 400, None),
    ("POST", "/v2/models/m/infer", b"{", 400, None),
    ("POST", "/v2/models/m/infer", b"[]", 400, None),
    ("POST", "/v2/models/n/infer", body(), 404, "'n' is not found"),
    ("POST", "/v2/models/m/versions/7/infer", body(), 404, "version 7"),
    ("POST", "/v2/models/m/infer", body(outputs=[{"name": "z"}]), 400, "inference output 'z'"),
]


async def test_statuses_and_bodies_of_every_route(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        for method, path, data, code, words in ROUTES:
            status, headers, said = await ask(server, method, path, data)
            assert status == code, (path, said)
            if code >= 400:
                assert headers["Content-Type"] == "application/json"
                assert "x-gateway-reason" in headers or path.endswith("ready")
                assert set(json.loads(said)) == {"error"}
            if words:
                assert words in said.decode(), path
            elif words == "":
                assert said == b""
        assert server.running.service.in_flight == 0


async def test_kserves_flavour(tmp_path: Path) -> None:
    async with serving(tmp_path, Flavour.KSERVE) as (server, _):
        cases: list[tuple[str, str, int, str]] = [
            ("GET", "/v2/health/live", 200, '{"live":true}'),
            ("GET", "/v2/health/ready", 200, '{"ready":true}'),
            ("GET", "/v2/models/m/ready", 200, '{"name":"m","ready":true}'),
            ("GET", "/v2/models/n/ready", 404, '{"error":"Model with name n does not exist."}'),
            ("POST", "/v2/repository/models/m/load", 200, '{"name":"m","load":true}'),
            ("POST", "/v2/repository/models/m/unload", 200, '{"name":"m","unload":true}'),
            ("GET", "/v2/models/m", 404, '{"error":"Model with name m does not exist."}'),
        ]
        for method, path, code, words in cases:
            status, _, said = await ask(server, method, path)
            assert (status, said.decode()) == (code, words), path
        load = server.channel.unary_unary(OipMethod.REPOSITORY_MODEL_LOAD.path)
        unload = server.channel.unary_unary(OipMethod.REPOSITORY_MODEL_UNLOAD.path)
        name = b"\x0a\x01m"  # KServe's field 1 is the model's name, in requests and answers
        assert await load(name, timeout=20) == name + b"\x10\x01"
        assert await unload(name, timeout=20) == name + b"\x10\x01"
        write(tmp_path / "m", 1, fail="no")
        await ask(server, "POST", "/v2/repository/models/m/load")
        assert (await ask(server, "GET", "/v2/health/ready"))[0] == 503
        assert (await ask(server, "GET", "/v2/models/m/ready"))[0] == 503


async def test_json_and_binary_and_raw_requests(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        path = "/v2/models/m/infer"
        status, headers, said = await ask(server, "POST", path, body(id="7"))
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert LENGTH not in headers
        told = json.loads(said)
        assert (told["model_name"], told["model_version"], told["id"]) == ("m", "1", "7")
        assert told["outputs"] == [
            {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [3.0, 5.0, 7.0, 9.0]}
        ]
        more, data = binary(binary_data_output=True)
        status, headers, said = await ask(server, "POST", path, data, **more)
        assert headers["Content-Type"] == "application/octet-stream"
        head = int(headers[LENGTH])
        assert np.frombuffer(said[head:], "<f4").tolist() == [3, 5, 7, 9]
        assert json.loads(said[:head])["outputs"][0]["parameters"] == {"binary_data_size": 16}
        raw = X[:1].tobytes()
        status, headers, said = await ask(server, "POST", path, raw, **{LENGTH: "0"})
        assert status == 200, said
        assert np.frombuffer(said[int(headers[LENGTH]) :], "<f4").tolist() == [3, 5]
        for length in ("-1", "99999", "x", "99999999999"):
            status, headers, said = await ask(server, "POST", path, data, **{LENGTH: length})
            assert (status, headers["x-gateway-reason"]) == (400, "bad_header_length"), said


async def test_compressed_bodies_both_ways(tmp_path: Path) -> None:
    async with serving(tmp_path, max_body=100_000) as (server, _):
        path = "/v2/models/m/infer"
        head, data = binary(binary_data_output=True)
        raw = zlib.compressobj(wbits=-15)
        packings = {
            "gzip": gzip.compress(data),
            "deflate": zlib.compress(data),
            "deflate ": raw.compress(data) + raw.flush(),
        }
        for encoding, packed in packings.items():
            status, headers, said = await ask(
                server, "POST", path, packed, **head, **{"Content-Encoding": encoding.strip()}
            )
            assert status == 200, said
            assert np.frombuffer(said[int(headers[LENGTH]) :], "<f4").tolist() == [3, 5, 7, 9]
        bomb = {"Content-Encoding": "deflate"}
        for packed, code in ((zlib.compress(bytes(100_001)), 413), (b"nothing", 400)):
            status, _, said = await ask(server, "POST", path, packed, **bomb)
            assert status == code, said
        status, headers, _ = await ask(
            server, "POST", path, data, **head, **{"Content-Encoding": "br"}
        )
        assert (status, headers["x-gateway-reason"]) == (501, "bad_encoding")
        big = np.zeros((2000, 2), np.float32)
        tensor = {"name": "x", "datatype": "FP32", "shape": [2000, 2], "data": big.tolist()}
        asked = json.dumps({"inputs": [tensor]}).encode()
        for wanted, got in (("gzip", "gzip"), ("deflate;q=0.5", "deflate"), ("gzip;q=0", None)):
            status, headers, said = await ask(
                server, "POST", path, asked, **{"Accept-Encoding": wanted}
            )
            assert (status, headers.get("Content-Encoding")) == (200, got)


async def test_the_timeout_parameter_is_microseconds_in_the_queue(tmp_path: Path) -> None:
    async with serving(tmp_path, threads=1) as (server, runtime):
        runtime.models[1].gate.clear()
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(ask(server, "POST", "/v2/models/m/infer", body()))
            await eventually(lambda: server.running.service.in_flight == 1)
            await eventually(lambda: server.running.manager.find("m").batcher.running)
            late = body(parameters={"timeout": 20_000})
            status, _, said = await ask(server, "POST", "/v2/models/m/infer", late)
            assert (status, json.loads(said)) == (503, {"error": "Request timeout expired"})
            runtime.models[1].gate.set()
        assert first.result()[0] == 200
        for wrong in (-1, "5", 1.5, True):
            asked = body(parameters={"timeout": wrong})
            status, headers, _ = await ask(server, "POST", "/v2/models/m/infer", asked)
            assert (status, headers["x-gateway-reason"]) == (400, "bad_timeout")


async def test_a_signature_is_chosen_by_parameter(tmp_path: Path) -> None:
    tensor = {"name": "examples", "datatype": "BYTES", "shape": [2], "data": ["a", "bcd"]}
    asked = {"inputs": [tensor], "parameters": {"signature_name": "regress"}}
    async with serving(tmp_path) as (server, _):
        status, _, said = await ask(
            server, "POST", "/v2/models/m/infer", json.dumps(asked).encode()
        )
        assert status == 200, said
        assert json.loads(said)["outputs"][0]["data"] == [1.0, 3.0]


async def test_statistics_tell_failures_and_joined_runs(tmp_path: Path) -> None:
    async with serving(tmp_path, threads=1) as (server, runtime):
        runtime.models[1].gate.clear()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(call(server, OipMethod.MODEL_INFER, message()))
            batcher = server.running.manager.find("m").batcher
            await eventually(lambda: batcher.running and batcher.queued_rows == 6)
            runtime.models[1].gate.set()
        bad = message()
        bad.raw_input_contents[0] = np.float32([[-777, 0], [0, 0]]).tobytes()
        with pytest.raises(grpc.RpcError):
            await call(server, OipMethod.MODEL_INFER, bad)
        request = oip_pb2.ModelStatisticsRequest(name="m")
        (told,) = (await call(server, OipMethod.MODEL_STATISTICS, request)).model_stats
        assert (told.inference_count, told.inference_stats.success.count) == (8, 4)
        assert told.inference_stats.fail.count == 1
        assert told.execution_count == 2  # one alone, then three joined
        assert {b.batch_size: b.compute_infer.count for b in told.batch_stats} == {2: 1, 6: 1}
        assert told.inference_stats.queue.ns > 0


async def test_codes_of_grpc(tmp_path: Path) -> None:
    codes = grpc.StatusCode
    async with serving(tmp_path) as (server, _):
        wrong_shape = message()
        wrong_shape.inputs[0].shape[:] = [4, 1]
        unknown = oip_pb2.ModelMetadataRequest(name="n")
        for method, request, code, words in (
            (OipMethod.MODEL_INFER, message("n"), codes.NOT_FOUND, "'n' is not found"),
            (OipMethod.MODEL_INFER, message(model_version="2"), codes.NOT_FOUND, "version 2"),
            (OipMethod.MODEL_INFER, message(model_version="a"), codes.INVALID_ARGUMENT, "'a'"),
            (OipMethod.MODEL_INFER, wrong_shape, codes.INVALID_ARGUMENT, "got [4,1]"),
            (OipMethod.MODEL_METADATA, unknown, codes.NOT_FOUND, "'n'"),
            (
                OipMethod.CUDA_SHARED_MEMORY_REGISTER,
                oip_pb2.CudaSharedMemoryRegisterRequest(),
                codes.UNIMPLEMENTED,
                "shared memory",
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(server, method, request)
            assert failed.value.code() is code
            assert words in failed.value.details()
            assert "x-gateway-reason" in dict(failed.value.trailing_metadata())
        ready = oip_pb2.ModelReadyRequest(name="n")
        assert not (await call(server, OipMethod.MODEL_READY, ready)).ready
        for method in (OipMethod.MODEL_INFER, OipMethod.MODEL_CONFIG, OipMethod.REPOSITORY_INDEX):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await server.channel.unary_unary(method.path)(b"\xff\xff")
            assert failed.value.code() is codes.INVALID_ARGUMENT
        assert server.running.service.in_flight == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "TEXT named_metrics.in_flight=0"),
        ({"endpoint-load-metrics-format": "text"}, "TEXT named_metrics.in_flight=0"),
        ({"endpoint-load-metrics-format": "json"}, 'JSON {"named_metrics":{"in_flight":0}}'),
    ],
)
async def test_load_is_reported_in_the_format_that_is_asked_for(
    tmp_path: Path, asked: dict[str, str], said: str
) -> None:
    async with serving(tmp_path) as (server, _):
        status, headers, _ = await ask(server, "POST", "/v2/models/m/infer", body(), **asked)
        assert (status, headers["endpoint-load-metrics"]) == (200, said)
