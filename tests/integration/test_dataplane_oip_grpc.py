"""V2 over gRPC through the gateway, a real V2-only server behind it."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from gateway.core.route import Target
from gateway.dataplane import DataplaneSettings
from gateway.domain.models import VersionState, VersionStatus
from tests.parts.fake_replica import running_gateway, table, until
from tests.parts.v2_only_server import V2Only, v2_only_server


def infer(model="m", version="", id="", values=(1.0, 2.0), **parameters):
    request = oip_pb2.ModelInferRequest(model_name=model, model_version=version, id=id)
    request.inputs.add(name="x", datatype="FP32", shape=[1, len(values)])
    request.raw_input_contents.append(struct.pack(f"<{len(values)}f", *values))
    for key, value in parameters.items():
        request.parameters[key].int64_param = value
    return request


async def ask(gw, method: OipMethod, request, **options):
    call = gw.channel.unary_unary(method.path)(request.SerializeToString(), **options)
    return getattr(oip_pb2, method.response_name).FromString(await call)


async def refused(awaitable) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


def target(server: V2Only, id="a") -> Target:
    return Target(id, server.endpoint)


async def test_an_inference_passes_through_with_its_version_pinned():
    async with v2_only_server(V2Only(versions={1, 2})) as server, running_gateway() as gw:
        gw.plane.publish(table(target(server), versions=(1, 2), live=1))
        call = gw.channel.unary_unary(OipMethod.MODEL_INFER.path)(infer(id="7").SerializeToString())
        answer = oip_pb2.ModelInferResponse.FromString(await call)
        assert (answer.model_version, answer.id) == ("1", "7")
        assert struct.unpack("<2f", answer.raw_output_contents[0]) == (2.0, 4.0)
        assert dict(await call.trailing_metadata())["x-gateway-version"] == "1"
        answer = await ask(gw, OipMethod.MODEL_INFER, infer(version="2"))
        assert answer.model_version == "2"
        assert not gw.plane.translation._upstreams


async def test_server_questions_are_answered_by_the_gateway():
    async with v2_only_server() as server, running_gateway() as gw:
        ready = await ask(gw, OipMethod.SERVER_READY, oip_pb2.ServerReadyRequest())
        assert not ready.ready
        gw.plane.publish(table(target(server)))
        assert (await ask(gw, OipMethod.SERVER_LIVE, oip_pb2.ServerLiveRequest())).live
        assert (await ask(gw, OipMethod.SERVER_READY, oip_pb2.ServerReadyRequest())).ready
        told = await ask(gw, OipMethod.SERVER_METADATA, oip_pb2.ServerMetadataRequest())
        assert told.name == "gateway"
        assert "model_repository" in told.extensions
        for name, version, is_ready in [("m", "", True), ("m", "9", False), ("x", "", False)]:
            request = oip_pb2.ModelReadyRequest(name=name, version=version)
            assert (await ask(gw, OipMethod.MODEL_READY, request)).ready is is_ready
        assert server.got == []


async def test_the_index_is_the_routing_table():
    statuses = (
        VersionStatus(3, VersionState.FAILED, "no good", 3),
        VersionStatus(2, VersionState.LOADING),
        VersionStatus(1, VersionState.READY),
    )
    async with v2_only_server() as server, running_gateway() as gw:
        gw.plane.publish(table(target(server), statuses=statuses))
        index = await ask(gw, OipMethod.REPOSITORY_INDEX, oip_pb2.RepositoryIndexRequest())
        assert [(m.name, m.version, m.state, m.reason) for m in index.models] == [
            ("m", "1", "READY", ""),
            ("m", "2", "LOADING", ""),
            ("m", "3", "UNAVAILABLE", "no good"),
        ]
        request = oip_pb2.RepositoryIndexRequest(ready=True)
        index = await ask(gw, OipMethod.REPOSITORY_INDEX, request)
        assert [m.version for m in index.models] == ["1"]


async def test_model_questions_pass_through():
    async with v2_only_server(V2Only(versions={1, 2})) as server, running_gateway() as gw:
        gw.plane.publish(table(target(server), versions=(1, 2)))
        told = await ask(gw, OipMethod.MODEL_METADATA, oip_pb2.ModelMetadataRequest(name="m"))
        assert told.platform == "doubling"
        for request in (
            oip_pb2.ModelStatisticsRequest(),
            oip_pb2.ModelStatisticsRequest(name="m"),
        ):
            stats = await ask(gw, OipMethod.MODEL_STATISTICS, request)
            assert [s.version for s in stats.model_stats] == ["1", "2"]
        request = oip_pb2.ModelStatisticsRequest(name="m", version="9")
        error = await refused(ask(gw, OipMethod.MODEL_STATISTICS, request))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == "Request for unknown model: 'm' version 9 is not found"
        error = await refused(ask(gw, OipMethod.MODEL_CONFIG, oip_pb2.ModelConfigRequest(name="m")))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_statistics_are_added_up_over_the_replicas():
    async with (
        v2_only_server(V2Only(versions={1, 2})) as one,
        v2_only_server(V2Only(versions={1})) as other,
        running_gateway() as gw,
    ):
        first, second = table(target(one), versions=(1, 2)), Target("b", other.endpoint)
        model = first.models["m"]
        targets = {1: (*model.targets[1], second), 2: model.targets[2]}
        gw.plane.publish(replace(first, models={"m": replace(model, targets=targets)}))
        for request, counts in (
            (oip_pb2.ModelStatisticsRequest(name="m"), {"1": 14, "2": 7}),
            (oip_pb2.ModelStatisticsRequest(), {"1": 14, "2": 7}),
            # (The stand-in tells all versions, whichever is asked for.)
            (oip_pb2.ModelStatisticsRequest(name="m", version="2"), {"1": 7, "2": 7}),
        ):
            stats = (await ask(gw, OipMethod.MODEL_STATISTICS, request)).model_stats
            assert {s.version: s.inference_stats.success.count for s in stats} == counts


@pytest.mark.parametrize(
    ("request_", "code", "details", "reason"),
    [
        (infer("x"), "NOT_FOUND", "Request for unknown model: 'x' is not found", "model_unknown"),
        (
            infer(version="9"),
            "NOT_FOUND",
            "Request for unknown model: 'm' version 9 is not found",
            "version_unknown",
        ),
        (
            infer(version="2"),
            "UNAVAILABLE",
            "Request for unknown model: 'm' version 2 is not at ready state",
            "version_loading",
        ),
        (infer(version="new"), "INVALID_ARGUMENT", "failed to get model version", "bad_version"),
    ],
)
async def test_refusals_have_tritons_words(request_, code, details, reason):
    statuses = (VersionStatus(2, VersionState.LOADING), VersionStatus(1, VersionState.READY))
    async with v2_only_server() as server, running_gateway() as gw:
        gw.plane.publish(table(target(server), statuses=statuses))
        error = await refused(ask(gw, OipMethod.MODEL_INFER, request_))
        assert error.code().name == code
        assert error.details().startswith(details)
        assert dict(error.trailing_metadata())["x-gateway-reason"] == reason
        assert server.got == []


async def test_the_kserve_flavour_has_kserves_words():
    settings = DataplaneSettings(v2_flavour="kserve", drain_s=0.2)
    async with running_gateway(settings) as gw:
        error = await refused(ask(gw, OipMethod.MODEL_INFER, infer("x")))
        assert error.details() == "Model with name x does not exist."


async def test_model_control_settings_and_shared_memory():
    async with v2_only_server() as server, running_gateway() as gw:
        gw.plane.publish(table(target(server)))
        load = oip_pb2.RepositoryModelLoadRequest(model_name="m")
        await ask(gw, OipMethod.REPOSITORY_MODEL_LOAD, load)
        load.parameters["config"].string_param = "{}"
        error = await refused(ask(gw, OipMethod.REPOSITORY_MODEL_LOAD, load))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        unload = oip_pb2.RepositoryModelUnloadRequest(model_name="m")
        error = await refused(ask(gw, OipMethod.REPOSITORY_MODEL_UNLOAD, unload))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details().startswith("explicit model load / unload is not allowed")
        trace = await ask(gw, OipMethod.TRACE_SETTING, oip_pb2.TraceSettingRequest())
        assert list(trace.settings["trace_level"].value) == ["OFF"]
        logs = oip_pb2.LogSettingsRequest()
        assert (await ask(gw, OipMethod.LOG_SETTINGS, logs)).settings["log_info"].bool_param
        logs.settings["log_info"].bool_param = False
        error = await refused(ask(gw, OipMethod.LOG_SETTINGS, logs))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        for kind in ("SYSTEM", "CUDA"):
            names = ("STATUS", "REGISTER", "UNREGISTER")
            of = {name: OipMethod[f"{kind}_SHARED_MEMORY_{name}"] for name in names}
            status = getattr(oip_pb2, of["STATUS"].request_name)()
            assert not (await ask(gw, of["STATUS"], status)).regions
            await ask(gw, of["UNREGISTER"], getattr(oip_pb2, of["UNREGISTER"].request_name)())
            register = getattr(oip_pb2, of["REGISTER"].request_name)(name="r")
            error = await refused(ask(gw, of["REGISTER"], register))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "send tensors as binary data" in error.details()


async def test_tritons_timeout_parameter_is_a_deadline():
    async with v2_only_server(V2Only(delay_s=5)) as server, running_gateway() as gw:
        gw.plane.publish(table(target(server)))
        error = await refused(ask(gw, OipMethod.MODEL_INFER, infer(timeout=200_000)))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: server.cancelled == 1)


# ---- streams --------------------


def stream_of(gw, requests, **options):
    async def send():
        for request in requests:
            yield request.SerializeToString()

    return gw.channel.stream_stream(OipMethod.MODEL_STREAM_INFER.path)(send(), **options)


async def answers_of(call) -> list[oip_pb2.ModelStreamInferResponse]:
    return [oip_pb2.ModelStreamInferResponse.FromString(body) async for body in call]


async def test_a_stream_is_balanced_message_by_message_and_answered_in_order():
    slow = {"0": 0.3}
    async with (
        v2_only_server(V2Only(delay_of=slow)) as a,
        v2_only_server(V2Only(delay_of=slow)) as b,
        running_gateway() as gw,
    ):
        gw.plane.publish(table(target(a, "a"), target(b, "b")))
        requests = [infer(id=str(i), values=(float(i),)) for i in range(40)]
        answers = await answers_of(stream_of(gw, requests))
        assert [r.infer_response.id for r in answers] == [str(i) for i in range(40)]
        assert all(r.error_message == "" for r in answers)
        first = answers[3].infer_response
        assert struct.unpack("<f", first.raw_output_contents[0]) == (6.0,)
        assert first.parameters["triton_final_response"].bool_param
        assert a.got
        assert b.got


async def test_errors_are_in_band_and_the_stream_goes_on():
    async with v2_only_server() as server, running_gateway() as gw:
        gw.plane.publish(table(target(server)))
        bad = infer(id="bad")
        bad.inputs[0].datatype = "INT8"
        requests = [infer(id="1"), bad, infer("x", id="unknown"), infer(id="4")]
        answers = await answers_of(stream_of(gw, requests))
        assert [r.infer_response.id for r in answers] == ["1", "bad", "unknown", "4"]
        assert [r.error_message for r in answers] == [
            "",
            "input 'x' is INT8, expected FP32",
            "Request for unknown model: 'x' is not found",
            "",
        ]


async def test_with_triton_grpc_error_the_first_error_ends_the_stream():
    async with v2_only_server() as server, running_gateway() as gw:
        gw.plane.publish(table(target(server)))
        # Nothing is sent behind the error: grpc.aio's client may make INTERNAL of a write that
        # meets a status which has come already.
        requests = [infer(id="1"), infer("x")]
        call = stream_of(gw, requests, metadata=(("triton_grpc_error", "true"),))
        assert await call.read()
        assert (await refused(call.read())).code() is grpc.StatusCode.NOT_FOUND


async def test_a_stream_works_on_a_bounded_number_at_once():
    settings = DataplaneSettings(stream_window=3, drain_s=0.2)
    async with v2_only_server(V2Only(delay_s=0.05)) as server, running_gateway(settings) as gw:
        gw.plane.publish(table(target(server)))
        answers = await answers_of(stream_of(gw, [infer(id=str(i)) for i in range(12)]))
        assert len(answers) == 12
        assert server.most == 3


async def test_a_caller_who_leaves_a_stream_cancels_its_calls():
    async with v2_only_server(V2Only(delay_s=30)) as server, running_gateway() as gw:
        gw.plane.publish(table(target(server)))

        async def send():
            for i in range(4):
                yield infer(id=str(i)).SerializeToString()
            await asyncio.Event().wait()

        call = gw.channel.stream_stream(OipMethod.MODEL_STREAM_INFER.path)(send())
        reading = asyncio.ensure_future(call.read())  # noqa: TID251 - left on purpose
        await until(lambda: server.running == 4)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: server.cancelled == 4 and not gw.plane.in_flight.by_model)


# ---- health and reflection --------------------


async def test_health_and_reflection_know_the_service():
    async with running_gateway() as gw:
        check = gw.channel.unary_unary("/grpc.health.v1.Health/Check")
        request = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
        answer = health_pb2.HealthCheckResponse.FromString(await check(request.SerializeToString()))
        assert answer.status == 1
        for version in ("v1", "v1alpha"):
            info = gw.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                reflection_pb2.ServerReflectionRequest.SerializeToString,
                reflection_pb2.ServerReflectionResponse.FromString,
            )

            def asked():
                yield reflection_pb2.ServerReflectionRequest(list_services="")
                yield reflection_pb2.ServerReflectionRequest(
                    file_containing_symbol="inference.GRPCInferenceService"
                )

            said = [one async for one in info(asked())]
            names = [s.name for s in said[0].list_services_response.service]
            assert "inference.GRPCInferenceService" in names
            assert said[1].file_descriptor_response.file_descriptor_proto
