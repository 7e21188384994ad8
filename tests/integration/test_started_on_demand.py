"""A model that has no replica while nobody asks, to callers of all protocols and a real server."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import grpc
import psutil
import pytest

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.core.route import RoutingTable, Target
from gateway.domain.replicas import Endpoint
from tests.parts.calls import PROTOCOLS, Calls
from tests.parts.fake_replica import fake_replica, running_gateway, table, until
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import kit
from tests.parts.worker_processes import keep_metrics_alone, opened, predict, workers

REFUSED = {
    "tfs-rest": 429,
    "tfs-grpc": grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Triton's own codes of a full queue.
    "v2-rest": 503,
    "v2-grpc": grpc.StatusCode.UNAVAILABLE,
}


def at_zero(generation: int = 1, **fields) -> RoutingTable:
    fields = {"is_scaled": True, "is_started_on_demand": True, **fields}
    return table(versions=(1,), live=1, generation=generation, **fields)


def up(*replicas, generation: int = 2) -> RoutingTable:
    fields = {"is_scaled": True, "is_started_on_demand": True}
    return table(*replicas, generation=generation, **fields)


@asynccontextmanager
async def stopped(tmp_path, **fields):
    """A gateway whose model has no replica, and a server that can be one."""
    folder = str(write(tmp_path / "m", 1))
    async with (
        kit(FakeRuntime(), m=folder) as server,
        running_gateway() as gateway,
        aiohttp.ClientSession() as session,
    ):
        running = server.running
        target = Target("r", Endpoint(running.http, running.grpc, running.grpc))
        gateway.plane.publish(at_zero(**fields))
        yield Calls(gateway, session), target


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_prediction_waits_for_its_replica(tmp_path, protocol):
    async with stopped(tmp_path) as (calls, target), asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(calls.ask(protocol)) for _ in range(8)]
        plane = calls.gateway.plane
        assert list(await plane.called()) == ["m"]
        await until(lambda: plane.in_flight.by_model.get("m") == 8)
        assert not any(task.done() for task in asked)
        plane.publish(up(target))
        for task in asked:
            status, _, _ = await task
            assert status in (200, grpc.StatusCode.OK)
        assert plane.demand("m").came == 8


async def test_metadata_wait_as_predictions_do(tmp_path):
    tfs = tfs_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    tfs.model_spec.name = "m"
    v2 = oip_pb2.ModelMetadataRequest(name="m")
    async with stopped(tmp_path) as (calls, target), asyncio.TaskGroup() as tasks:
        urls = [
            f"http://{calls.gateway.http}{p}" for p in ("/v1/models/m/metadata", "/v2/models/m")
        ]

        async def get(url: str) -> int:
            async with calls.session.get(url) as answer:
                await answer.read()
                return answer.status

        asked = [tasks.create_task(get(url)) for url in urls]
        asked += [
            tasks.create_task(calls.rpc(Method.GET_MODEL_METADATA.path, tfs.SerializeToString())),
            tasks.create_task(calls.rpc(OipMethod.MODEL_METADATA.path, v2.SerializeToString())),
        ]
        plane = calls.gateway.plane
        await until(lambda: plane.in_flight.by_model.get("m") == 4)
        assert list(await plane.called()) == ["m"]
        plane.publish(up(target))
        said = [await task for task in asked]
        assert said[:2] == [200, 200]
        assert [answer[0] for answer in said[2:]] == [grpc.StatusCode.OK] * 2


async def test_who_asks_for_its_state_is_told_that_it_is_there_and_starts_nothing(tmp_path):
    tfs = tfs_pb2.GetModelStatusRequest()
    tfs.model_spec.name = "m"
    async with stopped(tmp_path) as (calls, _):
        http = f"http://{calls.gateway.http}"
        async with calls.session.get(f"{http}/v1/models/m") as answer:
            (status,) = json.loads(await answer.text())["model_version_status"]
            assert (status["version"], status["state"]) == ("1", "AVAILABLE")
        _, body, _ = await calls.rpc(Method.GET_MODEL_STATUS.path, tfs.SerializeToString())
        (one,) = tfs_pb2.GetModelStatusResponse.FromString(body).model_version_status
        assert one.state == tfs_pb2.ModelVersionStatus.State.AVAILABLE
        async with calls.session.get(f"{http}/v2/models/m/ready") as answer:
            assert answer.status == 200
        ready = oip_pb2.ModelReadyRequest(name="m").SerializeToString()
        _, body, _ = await calls.rpc(OipMethod.MODEL_READY.path, ready)
        assert oip_pb2.ModelReadyResponse.FromString(body).ready
        async with calls.session.post(f"{http}/v2/repository/index", data=b"") as answer:
            (entry,) = json.loads(await answer.text())
            assert entry["state"] == "READY"
        async with calls.session.get(f"{http}/v2/models/stats") as answer:
            assert json.loads(await answer.text()) == {"model_stats": []}
        assert calls.gateway.plane.demand("m").came == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_those_for_whom_there_is_no_place_are_refused_as_overload(tmp_path, protocol):
    async with stopped(tmp_path, in_flight_limit=3) as (calls, target):
        async with asyncio.TaskGroup() as tasks:
            held = [tasks.create_task(calls.ask(protocol)) for _ in range(3)]
            plane = calls.gateway.plane
            await until(lambda: plane.in_flight.by_model.get("m") == 3)
            status, _, _ = await calls.ask(protocol)
            assert status == REFUSED[protocol]
            plane.publish(up(target))
        for task in held:
            assert task.result()[0] in (200, grpc.StatusCode.OK)


@pytest.mark.slow
async def test_workers_call_for_a_replica_and_tell_what_is_asked(tmp_path, monkeypatch):
    keep_metrics_alone(monkeypatch)
    async with fake_replica("a") as a, opened(tmp_path) as planes:
        planes.publish(at_zero())
        await until(planes.is_taken)
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(predict(planes.http_address)) for _ in range(6)]
            assert list(await planes.called()) == ["m"]
            await until(lambda: planes.demand("m").came == 6)
            await until(lambda: planes.demand("m").request_s > 1.0)
            planes.publish(up(a))
        assert [task.result() for task in asked] == [(200, b'{"by": "a"}')] * 6
        before = planes.demand("m")
        victim = workers()[0]
        psutil.Process(victim).kill()
        await until(lambda: victim not in workers() and len(workers()) == 2)
        assert planes.demand("m").came == before.came
        assert planes.demand("m").request_s >= before.request_s
        await until(planes.is_taken)
        assert (await predict(planes.http_address))[0] == 200
        await until(lambda: planes.demand("m").came == 7)
