"""A custom image that speaks only V2, from its start to an answer for TensorFlow Serving's callers.

The server is a process of its own behind the real scheduler, lifecycle and data plane.
"""

from __future__ import annotations

import asyncio
import os
import sys

import aiohttp
import pytest

from gateway.domain.models import Backend, ModelSpec
from gateway.lifecycle import Lifecycle, LifecycleSettings
from gateway.schedulers import LocalScheduler, LocalSettings
from gateway.sources import ObjectSource, SourceSettings
from gateway.store import MemoryStore
from gateway.upstream.replica_control import ReplicaControlClient
from tests.integration.test_lifecycle_onnx import LoopClock
from tests.parts.fake_replica import running_gateway
from tests.parts.fakes_lifecycle import Emitted

SERVER = (
    sys.executable,
    *("-m", "tests.parts.v2_only_server", "--model", "m", "--explicit"),
    *("--http-port", "{http_port}", "--grpc-port", "{grpc_port}", "--model-dir", "{model_dir}"),
)


def add(repository, version: int) -> None:
    (repository / str(version)).mkdir(parents=True)
    (repository / str(version) / "weights").write_text("2")


async def until(condition, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - views are looked at
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("knows_versions", [True, False])
async def test_a_v2_only_image_is_watched_loaded_and_answers_callers_of_both_protocols(
    tmp_path, knows_versions
):
    repository = tmp_path / "repository"
    add(repository, 1)
    store, control = MemoryStore(), ReplicaControlClient()
    async with (
        running_gateway() as gw,
        LocalScheduler(tmp_path / "state", LocalSettings(gpus=()), environ=os.environ) as scheduler,
        aiohttp.ClientSession() as client,
    ):
        lifecycle = Lifecycle(
            store=store,
            source=ObjectSource(LoopClock(), SourceSettings(settle_s=0.2)),
            scheduler=scheduler,
            control=control,
            planes=gw.plane,
            emit=Emitted(),
            clock=LoopClock(),
            settings=LifecycleSettings(poll_s=0.2),
        )

        async def predict(path: str, body: object) -> dict:
            async with client.post(f"http://{gw.http}{path}", json=body) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(lifecycle.run())
            try:
                spec = ModelSpec(
                    "m",
                    repository.as_uri(),
                    Backend.CUSTOM,
                    command=SERVER if knows_versions else (*SERVER, "--unversioned"),
                    speaks=("v2-rest", "v2-grpc"),
                )
                await store.put(spec, None)
                lifecycle.poke("m")
                # It loads only what it is asked for, so that it answers proves the asking.
                try:
                    await until(lambda: (v := lifecycle.view("m")) is not None and v.converged)
                except TimeoutError:
                    pytest.fail(f"not converged: {lifecycle.view('m')}")
                rows = {"instances": [[1.0, 2.0], [3.0, 4.0]]}
                said = await predict("/v1/models/m:predict", rows)
                assert said == {"predictions": [[2.0, 4.0], [6.0, 8.0]]}
                x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [5, 6]}
                said = await predict("/v2/models/m/infer", {"inputs": [x]})
                assert said["model_version"] == ("1" if knows_versions else "")
                assert said["outputs"][0]["data"] == [10.0, 12.0]

                add(repository, 2)
                await until(lambda: lifecycle.view("m").live == 2)
                said = await predict("/v2/models/m/infer", {"inputs": [x]})
                assert said["model_version"] == ("2" if knows_versions else "")
            finally:
                running.cancel()
                await scheduler.stop_all()
    await control.aclose()
