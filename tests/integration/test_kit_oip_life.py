"""A model server over V2 as time goes on: streams, loading and unloading, health, settings."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from gateway.domain.models import VersionState
from servers.kit.settings import LoadSettings, ServerSettings
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import eventually, kit
from tests.parts.oip_kit import ask, body, call, message, serving


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
