"""What replicas report, who is left out, and that callers see nothing of either."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import aiohttp
import numpy as np
import pytest

from gateway.codecs import tfs_tensors
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.orca import LOAD, in_flight_of
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.core.balance import BalanceSettings
from gateway.core.ejection import EjectionSettings, Standing
from gateway.core.route import Target
from gateway.dataplane import DataplaneSettings
from gateway.domain.replicas import Endpoint, ReplicaStanding
from servers.kit.settings import BatchSettings, ServerSettings
from tests.parts.fake_replica import fake_replica, running_gateway, table, until
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import eventually, kit

TFS_BODY = '{"instances":[[1,2]]}'
V2_BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
)
ON_THREADS = ServerSettings(batch=BatchSettings(here_s=0.0))
QUICK = DataplaneSettings(
    drain_s=0.2,
    balance=BalanceSettings(suspect_s=0.0),
    ejection=EjectionSettings(base_s=0.5, slow_start_s=0.05),
)


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def folder(tmp_path):
    return str(write(tmp_path / "m", 1))


def tfs_request(model="m") -> bytes:
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(tfs_tensors.to_proto(np.float32([[1, 2]])))
    return request.SerializeToString()


def v2_request(model="m") -> bytes:
    request = oip_pb2.ModelInferRequest(model_name=model)
    one = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    one.contents.fp32_contents.extend([1.0, 2.0])
    return request.SerializeToString()


async def reported_http(server, method, path, body=None):
    async with server.session.request(
        method, f"http://{server.running.http}{path}", data=body
    ) as a:
        await a.read()
        return a.status, in_flight_of(a.headers.get(LOAD))


async def reported_grpc(server, path, message):
    call = server.channel.unary_unary(path)(message)
    code = await call.code()
    return code.name, in_flight_of(dict(await call.trailing_metadata()).get(LOAD))


async def test_every_answer_reports_what_is_in_flight_in_all_four_protocols(folder):
    runtime = FakeRuntime()
    async with kit(runtime, ON_THREADS, m=folder) as server:
        runtime.models[1].gate.clear()
        async with asyncio.TaskGroup() as tasks:
            held = [
                tasks.create_task(reported_http(server, "POST", "/v1/models/m:predict", TFS_BODY)),
                tasks.create_task(reported_http(server, "POST", "/v2/models/m/infer", V2_BODY)),
                tasks.create_task(reported_grpc(server, Method.PREDICT.path, tfs_request())),
                tasks.create_task(reported_grpc(server, OipMethod.MODEL_INFER.path, v2_request())),
            ]
            await eventually(lambda: server.running.service.in_flight == 4)
            status = tfs_pb2.GetModelStatusRequest()
            status.model_spec.name = "m"
            meanwhile = [
                await reported_http(server, "GET", "/v1/models/m"),
                await reported_http(server, "POST", "/v1/models/no:predict", TFS_BODY),
                await reported_http(server, "GET", "/v2/health/live"),
                await reported_http(server, "POST", "/v2/models/no/infer", V2_BODY),
                await reported_grpc(
                    server, Method.GET_MODEL_STATUS.path, status.SerializeToString()
                ),
                await reported_grpc(server, Method.PREDICT.path, tfs_request("no")),
                await reported_grpc(server, OipMethod.SERVER_LIVE.path, b""),
                await reported_grpc(server, OipMethod.MODEL_INFER.path, v2_request("no")),
            ]
            runtime.models[1].gate.set()
        assert meanwhile == [
            (200, 4), (404, 4), (200, 4), (404, 4),
            ("OK", 4), ("NOT_FOUND", 4), ("OK", 4), ("NOT_FOUND", 4),
        ]  # fmt: skip
        codes = [task.result()[0] for task in held]
        assert codes == [200, 200, "OK", "OK"]
        # They left one after the other, the last of them an empty server.
        assert sorted(task.result()[1] for task in held) == [0, 1, 2, 3]


@pytest.mark.parametrize("protocol", ["http", "grpc", "v2-http", "v2-grpc"])
async def test_the_gateway_learns_of_others_and_callers_do_not(folder, client, protocol):
    runtime = FakeRuntime()
    async with kit(runtime, ON_THREADS, m=folder) as server, running_gateway() as gw:
        http, grpc = server.running.http, server.running.grpc
        gw.plane.publish(table(Target("a", Endpoint(http, grpc, grpc))))
        runtime.models[1].gate.clear()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):  # another gateway's
                tasks.create_task(reported_http(server, "POST", "/v1/models/m:predict", TFS_BODY))
            await eventually(lambda: server.running.service.in_flight == 3)
            if "http" in protocol:
                path = "/v1/models/m/metadata" if protocol == "http" else "/v2/models/m"
                async with client.get(f"http://{gw.http}{path}") as answer:
                    assert answer.status == 200
                    assert LOAD not in answer.headers
            else:
                request = tfs_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
                request.model_spec.name = "m"
                path, message = Method.GET_MODEL_METADATA.path, request.SerializeToString()
                if protocol == "v2-grpc":
                    path = OipMethod.MODEL_METADATA.path
                    message = oip_pb2.ModelMetadataRequest(name="m").SerializeToString()
                call = gw.channel.unary_unary(path)(message)
                assert (await call.code()).name == "OK"
                assert LOAD not in dict(await call.trailing_metadata())
                assert LOAD not in dict(await call.initial_metadata())
            balancer = gw.plane.replicas.balancer
            assert balancer.load("a").others == 3
            assert balancer.load("a").work_s > 0
            runtime.models[1].gate.set()


async def ask(client, gw):
    async with client.post(f"http://{gw.http}/v1/models/m:predict", data=b"{}") as answer:
        return answer.status, await answer.read()


def ejections(gw, cause):
    return gw.plane.metrics.ejections_total.labels("m", cause)._value.get()


async def test_one_that_fails_in_a_row_is_left_out_and_comes_back(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway(QUICK) as gw:
        gw.plane.publish(table(a, b))
        a.http_status = 503
        while gw.plane.replicas.standing("a") is not Standing.EJECTED:
            assert (await ask(client, gw)) == (200, b'{"by": "b"}')
        assert ejections(gw, "consecutive_failures") == 1
        assert len(a.got) == 5
        assert gw.plane.standings() == {"a": ReplicaStanding("ejected", "consecutive_failures")}
        a.http_status = 200
        async with asyncio.timeout(30):
            while gw.plane.replicas.standing("a") is not Standing.GOOD:
                assert (await ask(client, gw))[0] == 200
        assert len(a.got) > 5
        assert gw.plane.standings() == {}


async def test_one_that_answers_errors_fast_draws_no_requests_and_is_ejected(client):
    async with fake_replica("a") as a, fake_replica("b", delay_s=0.002) as b:
        async with running_gateway() as gw:
            gw.plane.publish(table(a, b))
            a.http_status = 500
            began = asyncio.get_running_loop().time()
            answers = [(await ask(client, gw))[0] for _ in range(60)]
            took_s = asyncio.get_running_loop().time() - began
            # One while nothing is known of it; a second later it would be tried again.
            assert answers.count(500) <= 2 + int(took_s)
        async with running_gateway(QUICK) as gw:
            gw.plane.publish(table(a, b))
            for _ in range(400):
                await ask(client, gw)
                if ejections(gw, "error_ratio"):
                    break
            assert ejections(gw, "error_ratio") == 1


async def test_errors_that_all_replicas_answer_eject_nobody(client):
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway(QUICK) as gw:
        gw.plane.publish(table(a, b))
        a.http_status = b.http_status = 500
        answers = {(await ask(client, gw))[0] for _ in range(100)}
        assert answers == {500}
        assert gw.plane.replicas.standing("a") is Standing.GOOD
        assert gw.plane.replicas.standing("b") is Standing.GOOD


async def test_one_that_is_down_costs_five_attempts_and_no_request(client):
    lasting = replace(QUICK, ejection=EjectionSettings(base_s=60.0))
    async with fake_replica("a") as a, fake_replica("b") as b, running_gateway(lasting) as gw:
        gw.plane.publish(table(a, b))
        await a.stop()
        for _ in range(30):
            assert (await ask(client, gw)) == (200, b'{"by": "b"}')
        assert ejections(gw, "consecutive_failures") == 1
        retried = gw.plane.metrics.retries_total.labels("m", "connect")._value.get()
        assert retried == 5


async def test_the_only_one_is_asked_whatever_it_did(client):
    async with fake_replica("a") as a, running_gateway(QUICK) as gw:
        gw.plane.publish(table(a))
        a.http_status = 503
        assert {(await ask(client, gw))[0] for _ in range(20)} == {503}
        a.http_status = 200
        assert (await ask(client, gw))[0] == 200
        await until(lambda: gw.plane.replicas.standing("a") is Standing.GOOD)
