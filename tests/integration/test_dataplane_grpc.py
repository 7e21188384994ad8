"""The gRPC front over real sockets, real fake replicas behind it."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.dataplane import DataplaneSettings
from gateway.domain.models import VersionState, VersionStatus
from tests.parts.fake_replica import fake_replica, running_gateway, table, until


def request(name="m", version=None, label=None) -> bytes:
    message = tfs_pb2.PredictRequest()
    message.model_spec.name = name
    if version is not None:
        message.model_spec.version.value = version
    if label is not None:
        message.model_spec.version_label = label
    return message.SerializeToString()


async def refused(awaitable) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


async def test_a_prediction_passes_through_with_its_version_pinned():
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a, versions=(1, 2), labels={"stable": 2, "old": 1}))
        call = gw.channel.unary_unary(Method.PREDICT.path)(
            request(), metadata=(("x-mine", "1"),), timeout=20
        )
        assert await call == b"answer of a v2"
        trailers = dict(await call.trailing_metadata())
        assert trailers["x-gateway-version"] == "2"
        assert trailers["x-replica"] == "a"
        assert "upstream;dur=" in trailers["server-timing"]
        assert a.got[0].headers["x-mine"] == "1"
        assert 15 < a.got[0].headers["left_s"] < 21
        assert await gw.predict(request(version=1)) == b"answer of a v1"
        assert await gw.predict(request(label="old")) == b"answer of a v1"


@pytest.mark.parametrize(
    ("body", "code", "details"),
    [
        (request("x"), "NOT_FOUND", "Servable not found for request: Latest(x)"),
        (request(version=9), "NOT_FOUND", "Servable not found for request: Specific(m, 9)"),
        (request(label="x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (b"", "INVALID_ARGUMENT", "Missing ModelSpec"),
    ],
)
async def test_the_gateway_refuses_in_the_originals_words(body, code, details):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        error = await refused(gw.predict(body))
        assert (error.code().name, error.details()) == (code, details)
        assert "x-gateway-reason" in dict(error.trailing_metadata())
        assert not a.got


async def test_truncated_messages_and_unknown_methods_are_refused():
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        assert (await refused(gw.predict(request()[:-1]))).code() is (
            grpc.StatusCode.INVALID_ARGUMENT
        )
        unknown = gw.channel.unary_unary("/tensorflow.serving.PredictionService/Nope")(b"")
        assert (await refused(unknown)).code() is grpc.StatusCode.UNIMPLEMENTED
        reload = gw.predict(b"", Method.HANDLE_RELOAD_CONFIG)
        assert (await refused(reload)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_over_the_limit_is_refused():
    settings = DataplaneSettings(max_body_bytes=1024, drain_s=0.2)
    async with fake_replica("a") as a, running_gateway(settings) as gw:
        gw.plane.publish(table(a))
        error = await refused(gw.predict(request() + b"\x1a\x80\x10" + b"x" * 2048))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_status_comes_from_the_table():
    statuses = (
        VersionStatus(2, VersionState.FAILED, "no good", 3),
        VersionStatus(1, VersionState.READY),
    )
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a, statuses=statuses))
        answer = tfs_pb2.GetModelStatusResponse.FromString(
            await gw.predict(request(label="ignored"), Method.GET_MODEL_STATUS)
        )
        assert [(s.version, s.state) for s in answer.model_version_status] == [(2, 50), (1, 30)]
        error = await refused(gw.predict(request("x"), Method.GET_MODEL_STATUS))
        assert error.details() == "Could not find any versions of model x"
        error = await refused(gw.predict(request(version=9), Method.GET_MODEL_STATUS))
        assert error.details() == "Could not find version 9 of model m"
        assert not a.got


async def test_a_replicas_own_error_passes_through():
    script = {"grpc_status": grpc.StatusCode.INVALID_ARGUMENT, "grpc_message": "wrong shape"}
    async with fake_replica("a", **script) as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        error = await refused(gw.predict(request()))
        assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "wrong shape")
        assert dict(error.trailing_metadata())["x-replica"] == "a"
        assert len(a.got) == 1


async def test_the_callers_deadline_and_cancellation_reach_the_replica():
    gate = asyncio.Event()
    async with fake_replica("a", gate=gate) as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        error = await refused(gw.predict(request(), timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call = gw.channel.unary_unary(Method.PREDICT.path)(request())
        await until(lambda: len(a.got) == 2)
        call.cancel()
        await until(lambda: a.cancelled == 2 and not gw.plane.in_flight.by_model)


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND])
async def test_unavailable_and_version_skew_are_asked_elsewhere(status):
    async with (
        fake_replica("a", grpc_status=status, grpc_message="not me") as a,
        fake_replica("b") as b,
        running_gateway() as gw,
    ):
        gw.plane.publish(table(a, b))
        for _ in range(10):
            assert await gw.predict(request()) == b"answer of b v1"
        gw.plane.publish(table(a, generation=2))
        error = await refused(gw.predict(request()))
        assert (error.code(), error.details()) == (status, "not me")


async def test_a_stopped_replica_costs_no_request():
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway() as gw:
        gw.plane.publish(table(a, b))
        for _ in range(8):
            await gw.predict(request())
        await a.stop()
        for _ in range(20):
            assert await gw.predict(request()) == b"answer of b v1"
        assert b"gateway_retries_total" in gw.plane.metrics.render()


async def test_calls_under_way_on_a_dying_replica_are_made_again():
    gate = asyncio.Event()
    async with fake_replica("a", gate=gate) as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(gw.predict(request(), timeout=10)) for _ in range(20)]
            await until(lambda: len(a.got) == 20)
            await a.stop()
            await asyncio.sleep(0.2)
            async with fake_replica("b") as b:
                gw.plane.publish(table(b, generation=2))
                for call in calls:
                    assert await call == b"answer of b v1"


async def test_health_names_the_services_of_tensorflow_serving():
    async with running_gateway() as gw:
        check = gw.channel.unary_unary("/grpc.health.v1.Health/Check")
        for service in ("", "ModelService", "PredictionService"):
            said = await check(health_pb2.HealthCheckRequest(service=service).SerializeToString())
            assert health_pb2.HealthCheckResponse.FromString(said).status == 1
        unknown = check(health_pb2.HealthCheckRequest(service="x").SerializeToString())
        assert (await refused(unknown)).code() is grpc.StatusCode.NOT_FOUND
        watch = gw.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert health_pb2.HealthCheckResponse.FromString(await watch.read()).status == 1
        watch.cancel()
