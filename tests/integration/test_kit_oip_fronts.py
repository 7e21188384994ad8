"""The V2 fronts of a model server: statuses and words, both flavours, binary bodies, streams."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gateway.codecs.oip_errors import Flavour
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from gateway.domain.models import VersionState
from servers.kit.settings import LoadSettings, ServerSettings
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import Kit, eventually, kit

LENGTH = "Inference-Header-Content-Length"
X = np.float32([[1, 2], [3, 4]])
QUICK = LoadSettings(first_retry_s=0.05, poll_s=0.05)


def body(**more: object) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": X.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **more}).encode()


def binary(**parameters: object) -> tuple[dict[str, str], bytes]:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [2, 2],
        "parameters": {"binary_data_size": X.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return {LENGTH: str(len(head))}, head + X.tobytes()


def message(name: str = "m", **fields: object) -> oip_pb2.ModelInferRequest:
    request = oip_pb2.ModelInferRequest(model_name=name, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[2, 2])
    request.raw_input_contents.append(X.tobytes())
    return request


@asynccontextmanager
async def serving(
    tmp_path: Path, flavour: Flavour = Flavour.TRITON, **more: object
) -> AsyncIterator[tuple[Kit, FakeRuntime]]:
    write(tmp_path / "m", 1)
    runtime = FakeRuntime()
    settings = ServerSettings(v2_flavour=flavour, load=QUICK, **more)
    async with kit(runtime, settings, m=str(tmp_path / "m")) as server:
        yield server, runtime


async def ask(server: Kit, method: str, path: str, data: bytes | None = None, **headers: str):
    url = f"http://{server.running.http}{path}"
    async with server.session.request(
        method, url, data=data, headers=headers, skip_auto_headers=["Accept-Encoding"]
    ) as answer:
        return answer.status, answer.headers, await answer.read()


async def call(server: Kit, method: OipMethod, request, timeout_s: float = 20):
    made = server.channel.unary_unary(method.path)
    answer = await made(request.SerializeToString(), timeout=timeout_s)
    return getattr(oip_pb2, method.response_name).FromString(answer)


async def test_statuses_and_bodies_of_every_route(tmp_path: Path) -> None:
    shared = "shared memory regions are not offered"
    cases: list[tuple[str, str, bytes | None, int, str | None]] = [
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
        ("POST", "/v2/systemsharedmemory/region/r/register", b"{}", 501, shared),
        ("POST", "/v2/cudasharedmemory/unregister", b"", 501, shared),
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
    async with serving(tmp_path) as (server, _):
        for method, path, data, code, words in cases:
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


async def test_a_stream_answers_in_order_and_bounds_what_is_on_its_way(tmp_path: Path) -> None:
    async with serving(tmp_path, threads=1) as (server, runtime):
        runtime.models[1].gate.clear()
        made = server.channel.stream_stream(OipMethod.MODEL_STREAM_INFER.path)()

        async def send() -> None:
            for n in range(100):
                await made.write(message("m" if n % 3 else "nobody", id=str(n)).SerializeToString())
            await made.done_writing()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            await eventually(lambda: server.running.service.in_flight >= 10)
            await asyncio.sleep(0.2)
            assert server.running.service.in_flight <= 16
            runtime.models[1].gate.set()
            answers = [
                oip_pb2.ModelStreamInferResponse.FromString(await made.read()) for _ in range(100)
            ]
        assert [a.infer_response.id for a in answers] == [str(n) for n in range(100)]
        assert [bool(a.error_message) for a in answers] == [n % 3 == 0 for n in range(100)]
        assert answers[1].infer_response.parameters["triton_final_response"].bool_param
        assert await made.read() is grpc.aio.EOF
        assert await made.code() is grpc.StatusCode.OK
        assert server.running.service.in_flight == 0


async def test_a_cancelled_stream_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serving(tmp_path, threads=1) as (server, runtime):
        runtime.models[1].gate.clear()
        made = server.channel.stream_stream(OipMethod.MODEL_STREAM_INFER.path)()
        for _ in range(5):
            await made.write(message().SerializeToString())
        await eventually(lambda: server.running.service.in_flight == 5)
        made.cancel()
        await eventually(lambda: server.running.service.in_flight == 0)
        runtime.models[1].gate.set()
        assert (await call(server, OipMethod.MODEL_INFER, message())).outputs


async def test_strict_errors_end_the_stream_with_their_status(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        made = server.channel.stream_stream(OipMethod.MODEL_STREAM_INFER.path)(
            metadata=(("triton_grpc_error", "true"),)
        )
        await made.write(message().SerializeToString())
        first = oip_pb2.ModelStreamInferResponse.FromString(await made.read())
        assert first.infer_response.model_name == "m"
        await made.write(message("n").SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await made.read()
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_idle_stream_does_not_hold_up_the_drain(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with serving(tmp_path, drain_s=20) as (server, _):
        made = server.channel.stream_stream(OipMethod.MODEL_STREAM_INFER.path)()
        await made.write(message().SerializeToString())
        await made.read()
        began = loop.time()
    assert loop.time() - began < 15


async def test_unloading_keeps_the_others_and_outlives_looks_at_the_source(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        await ask(server, "POST", "/v2/repository/models/m/unload")
        assert server.state("m", 1) in (VersionState.DRAINING, VersionState.GONE)
        await server.until("m", 1, VersionState.GONE)
        await asyncio.sleep(0.2)  # several looks at the source
        assert server.state("m", 1) is VersionState.GONE
        _, _, said = await ask(server, "POST", "/v2/repository/index")
        assert json.loads(said) == [
            {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        ]
        assert (await ask(server, "GET", "/v2/health/ready"))[0] == 200
        write(tmp_path / "m", 2)
        assert (await ask(server, "POST", "/v2/repository/models/m/load"))[0] == 200
        _, _, said = await ask(server, "POST", "/v2/models/m/infer", body())
        assert json.loads(said)["model_version"] == "2"


async def test_load_tells_why_it_failed_and_tries_again_at_once(tmp_path: Path) -> None:
    settings = ServerSettings(load=LoadSettings(first_retry_s=1000, max_retry_s=1000))
    write(tmp_path / "m", 1, fail="it has no weights")
    async with kit(FakeRuntime(), settings, m=str(tmp_path / "m")) as server:
        status, _, said = await ask(server, "POST", "/v2/repository/models/m/load")
        assert status == 500
        assert "failed to load 'm'" in said.decode()
        assert "it has no weights" in said.decode()
        status, _, said = await ask(server, "POST", "/v2/models/m/infer", body())
        assert (status, "has no available versions" in said.decode()) == (503, True)
        write(tmp_path / "m", 1)
        assert (await ask(server, "POST", "/v2/repository/models/m/load"))[0] == 200
        assert (await ask(server, "POST", "/v2/models/m/infer", body()))[0] == 200


async def test_a_steered_server_loads_again_and_does_not_unload(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        await server.reload(m=(str(tmp_path / "m"), (1,)))
        status, headers, said = await ask(server, "POST", "/v2/repository/models/m/unload")
        assert (status, headers["x-gateway-reason"]) == (400, "steered")
        assert "HandleReloadConfigRequest" in said.decode()
        assert (await ask(server, "POST", "/v2/repository/models/m/load"))[0] == 200
        request = oip_pb2.RepositoryModelUnloadRequest(model_name="m")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(server, OipMethod.REPOSITORY_MODEL_UNLOAD, request)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_reflection_describes_the_service(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        for package in ("grpc.reflection.v1", "grpc.reflection.v1alpha"):
            path = f"/{package}.ServerReflection/ServerReflectionInfo"
            made = server.channel.stream_stream(path)()

            async def asked(stream=made, **request: str):
                said = reflection_pb2.ServerReflectionRequest(**request)
                await stream.write(said.SerializeToString())
                return reflection_pb2.ServerReflectionResponse.FromString(await stream.read())

            listed = (await asked(list_services="")).list_services_response.service
            names = [one.name for one in listed]
            assert "inference.GRPCInferenceService" in names
            pool = DescriptorPool()
            for name in names:
                answer = await asked(file_containing_symbol=name)
                for file in answer.file_descriptor_response.file_descriptor_proto:
                    pool.Add(FileDescriptorProto.FromString(file))
                assert pool.FindServiceByName(name).methods
            infer = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name
            assert infer["ModelInfer"].input_type.full_name == "inference.ModelInferRequest"
            assert len(infer) == len(OipMethod)
            answer = await asked(file_containing_symbol="inference.ModelInferRequest")
            assert answer.HasField("file_descriptor_response")
            made.cancel()


async def test_the_health_service_knows_the_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        check = server.channel.unary_unary("/grpc.health.v1.Health/Check")
        request = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
        answer = health_pb2.HealthCheckResponse.FromString(await check(request.SerializeToString()))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_v2_requests_are_on_the_metrics_page(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        await ask(server, "POST", "/v2/models/m/infer", body())
        await call(server, OipMethod.MODEL_INFER, message())
        await ask(server, "POST", "/v2/models/m/infer", b"{")
        _, page = await server.get("/monitoring/prometheus/metrics")
        assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 2' in page
        assert 'status="INVALID_ARGUMENT"} 1' in page
        assert 'API="ModelInfer",entrypoint="REST"' in page


async def test_settings_make_log_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    loggers = {name: logging.getLogger(name) for name in ("servers", "gateway")}
    for logger in loggers.values():
        request.addfinalizer(functools.partial(logger.setLevel, logger.level))
    infer = "/v2/models/m/infer"

    def lines(event: str) -> list[dict]:
        return [r.fields for r in caplog.records if r.getMessage() == event]

    async with serving(tmp_path) as (server, _):
        await ask(server, "POST", infer, body())
        assert not lines("request.answered")
        await ask(server, "POST", "/v2/logging", b'{"log_verbose_level":1}')
        every = b'{"trace_level":["TIMESTAMPS","TENSORS"],"trace_rate":"1","trace_count":"1"}'
        await ask(server, "POST", "/v2/models/m/trace/setting", every)
        for _ in range(2):
            await ask(server, "POST", infer, body(id="seven"))
        assert [line["api"] for line in lines("request.answered")] == ["ModelInfer"] * 2
        (traced,) = lines("request.traced")
        assert (traced["id"], traced["inputs"], traced["outputs"]) == (
            "seven",
            "x:float32[2, 2]",
            "y:float32[2, 2]",
        )
        await ask(server, "POST", "/v2/logging", b'{"log_verbose_level":0}')
        await ask(server, "POST", infer, body())
        assert len(lines("request.answered")) == 2
