"""Versions come and go on a real server: states, retries, reloads, labels, drains."""

from __future__ import annotations

import asyncio
import json

import grpc
import numpy as np
import pytest

from gateway.codecs import tfs_status
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.models import VersionState
from servers.kit.settings import BatchSettings, LoadSettings, ServerSettings
from servers.kit.tfrecord import write_record
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import eventually, kit, reload_request

pytestmark = pytest.mark.slow

X = {"x": np.float32([[1, 2]])}
FAST = ServerSettings(load=LoadSettings(first_retry_s=0.05, poll_s=0.05, drain_s=0.2))


async def test_a_swap_under_requests_fails_none(tmp_path):
    folder = str(write(write(tmp_path, 1), 2))
    runtime = FakeRuntime()
    async with kit(runtime, FAST) as server:
        await server.reload(m=(folder, (1,)))
        seen: set[float] = set()
        stop = asyncio.Event()

        async def ask():
            while not stop.is_set():
                answer = await server.predict_raw("m", X)
                version = answer.model_spec.version.value
                y = np.frombuffer(answer.outputs["y"].tensor_content, np.float32)
                assert y[0] == 2 + version
                seen.add(version)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(ask())
            await eventually(lambda: 1 in seen)
            await server.reload(m=(folder, (2,)))
            await server.until("m", 1, VersionState.GONE)
            await eventually(lambda: 2 in seen)
            stop.set()
        assert seen == {1, 2}
        assert runtime.models[1].closed
        assert not runtime.models[2].closed


async def test_the_states_are_told_in_order_and_only_forward(tmp_path):
    folder = str(write(tmp_path, 1))
    runtime = FakeRuntime()
    runtime.gate.clear()
    async with kit(runtime, FAST) as server:
        states: list[str] = []

        async def watch():
            request = tfs_pb2.GetModelStatusRequest()
            request.model_spec.name = "m"
            while not states or states[-1] != "END":
                answer = tfs_pb2.GetModelStatusResponse.FromString(
                    await server.call(Method.GET_MODEL_STATUS, request)
                )
                one = answer.model_version_status[0]
                name = tfs_pb2.ModelVersionStatus.State.Name(one.state)
                assert one.status.error_code == 0
                if not states or states[-1] != name:
                    states.append(name)

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(server.reload(m=(folder, (1,))))
            await server.until("m", 1, VersionState.LOADING)
            tasks.create_task(watch())
            _, text = await server.get("/replica/status")
            one = json.loads(text)["models"]["m"]["versions"][0]
            assert (one["state"], one["phase"]) == ("loading", "loading")
            await eventually(lambda: "LOADING" in states)
            runtime.gate.set()
            await loading
            model = runtime.models[1]
            model.gate.clear()
            asked = tasks.create_task(server.predict("m", X))
            await eventually(lambda: server.running.service.in_flight == 1)
            await eventually(lambda: "AVAILABLE" in states)
            await server.reload(m=(folder, ()))
            await server.until("m", 1, VersionState.DRAINING)
            await eventually(lambda: "UNLOADING" in states)
            assert not model.closed  # its request is still running
            model.gate.set()
            assert (await asked)["y"].tolist() == [[3, 5]]
        assert states == ["LOADING", "AVAILABLE", "UNLOADING", "END"]


async def test_a_failed_version_is_tried_again_and_comes_up_by_itself(tmp_path):
    folder = str(write(tmp_path, 1))
    write(tmp_path, 2, fail="half of it is missing")
    async with kit(FakeRuntime(), FAST) as server:
        await server.reload(m=(folder, (1,)))
        await server.reload(m=(folder, (1, 2, 3)))
        await server.until("m", 2, VersionState.FAILED)
        _, text = await server.get("/replica/status")
        by = {v["version"]: v for v in json.loads(text)["models"]["m"]["versions"]}
        assert (by[2]["state"], by[2]["reason"], by[2]["error_code"]) == (
            "failed",
            "half of it is missing",
            3,
        )
        assert by[3]["state"] in ("failed", "fetching")
        write(tmp_path, 2)
        write(tmp_path, 3)
        await server.until("m", 2, VersionState.READY)
        await server.until("m", 3, VersionState.READY)
        assert (await server.predict_raw("m", X)).model_spec.version.value == 3


async def test_a_crash_inside_the_runtime_is_a_reason_too(tmp_path):
    folder = str(write(tmp_path, 1, crash="boom"))
    async with kit(FakeRuntime(), FAST) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.reload(m=(folder, (1,)))
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert caught.value.details() == (
            "1 model(s) did not become available: "
            "{{{name: m version: 1} due to error: INTERNAL: boom}, }"
        )


async def test_a_source_that_is_not_there_is_said(tmp_path):
    async with kit(FakeRuntime(), FAST, m=str(tmp_path / "nowhere")) as server:
        _, text = await server.get("/replica/status")
        assert "There is no folder" in json.loads(text)["models"]["m"]["reason"]
        status, text = await server.get("/v1/models/m")
        assert (status, text) == (404, '{ "error": "Could not find any versions of model m" }')


async def test_latest_follows_the_folder_and_an_empty_one_unloads_nothing(tmp_path):
    folder = write(tmp_path / "m", 1)
    async with kit(FakeRuntime(), FAST, m=str(folder)) as server:
        assert server.state("m", 1) is VersionState.READY
        write(folder, 5)
        await server.until("m", 5, VersionState.READY)
        await server.until("m", 1, VersionState.GONE)
        folder.rename(tmp_path / "away")
        await asyncio.sleep(0.2)
        assert server.state("m", 5) is VersionState.READY
        folder.mkdir()
        await asyncio.sleep(0.2)
        assert server.state("m", 5) is VersionState.READY


async def test_a_reload_replaces_the_configuration(tmp_path):
    a, b = str(write(tmp_path / "a", 1)), str(write(tmp_path / "b", 1))
    async with kit(FakeRuntime(), FAST) as server:
        await server.reload(a=(a, (1,)), b=(b, (1,)))
        await server.reload(b=(b, (1,)))
        await server.until("a", 1, VersionState.GONE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.predict("a", X)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "Servable not found for request: Latest(a)"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.predict("b", X, version=9)
        assert caught.value.details() == "Servable not found for request: Specific(b, 9)"
        assert (await server.predict("b", X, version=1))["y"].tolist() == [[3, 5]]


async def test_labels_name_available_versions_only(tmp_path):
    folder = str(write(write(tmp_path, 1), 2))
    async with kit(FakeRuntime(), FAST) as server:
        await server.reload(m=(folder, (1, 2)))
        await server.until("m", 1, VersionState.READY)
        await server.until("m", 2, VersionState.READY)
        request = reload_request(m=(folder, (1, 2)))
        request.config.model_config_list.config[0].version_labels["stable"] = 1
        await server.call(Method.HANDLE_RELOAD_CONFIG, request)
        status, text = await server.post(
            "/v1/models/m/labels/stable:predict", '{"instances":[[1,2]]}'
        )
        assert json.loads(text) == {"predictions": [[3, 5]]}
        assert status == 200
        status, text = await server.post("/v1/models/m/labels/no:predict", '{"instances":[[1,2]]}')
        assert status == 400
        assert json.loads(text)["error"] == "Unrecognized servable version label: no"
        request.config.model_config_list.config[0].version_labels["stable"] = 3
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(Method.HANDLE_RELOAD_CONFIG, request)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == (
            "Request to assign label to version 3 of model m, "
            "which is not currently available for inference"
        )
        status, _ = await server.post("/v1/models/m/labels/stable:predict", '{"instances":[[1,2]]}')
        assert status == 200


async def test_recorded_warm_up_requests_are_replayed(tmp_path):
    write(tmp_path, 1)
    log = tfs_pb2.PredictionLog()
    tensor = log.predict_log.request.inputs["x"]
    tensor.dtype = 1
    for size in (5, 2):
        tensor.tensor_shape.dim.add().size = size
    tensor.float_val.append(1.0)
    extra = tmp_path / "1" / "assets.extra"
    extra.mkdir()
    (extra / "tf_serving_warmup_requests").write_bytes(write_record(log.SerializeToString()))
    runtime = FakeRuntime()
    async with kit(runtime, ServerSettings(batch=BatchSettings(max_rows=1))) as server:
        await server.reload(m=(str(tmp_path), (1,)))
        assert runtime.models[1].runs == [5]
        (extra / "tf_serving_warmup_requests").write_bytes(b"nonsense")
        write(tmp_path, 2)
        (tmp_path / "2" / "assets.extra").mkdir()
        (tmp_path / "2" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"nonsense")
        await server.reload(m=(str(tmp_path), (1, 2)))
        await server.until("m", 2, VersionState.FAILED)
        _, text = await server.get("/v1/models/m/versions/2")
        assert "ends inside a record's length" in text
        assert runtime.models[2].closed


async def test_status_of_a_request_for_a_label_gives_all_versions(tmp_path):
    folder = str(write(write(tmp_path, 1), 2))
    async with kit(FakeRuntime(), FAST) as server:
        await server.reload(m=(folder, (1, 2)))
        await server.until("m", 1, VersionState.READY)
        request = tfs_pb2.GetModelStatusRequest()
        request.model_spec.name, request.model_spec.version_label = "m", "none"
        answer = tfs_pb2.GetModelStatusResponse.FromString(
            await server.call(Method.GET_MODEL_STATUS, request)
        )
        versions = [status.version for status in tfs_status.statuses_from_proto(answer)]
        assert versions == [2, 1]
