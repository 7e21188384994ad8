"""From a folder to answering replicas and back, with real ONNX servers under the real scheduler."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal

import pytest

from gateway.domain.models import Backend, ModelSpec, VersionState
from gateway.lifecycle import Lifecycle, LifecycleSettings
from gateway.schedulers import LocalScheduler, LocalSettings
from gateway.sources import ObjectSource
from gateway.sources.object_source import SourceSettings
from gateway.store.memory import MemoryStore
from gateway.upstream.replica_control import ReplicaControlClient
from tests.parts.fakes_lifecycle import Emitted, FakePlanes, LoopClock
from tests.parts.need import need

pytestmark = [pytest.mark.slow, pytest.mark.onnx]


def write_model(folder, factor: float) -> None:
    """`y = factor · x`, float32[N, 2]."""
    from onnx import TensorProto, helper

    folder.mkdir(parents=True)
    node = helper.make_node("Mul", ["x", "k"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    k = helper.make_tensor("k", TensorProto.FLOAT, [], [factor])
    graph = helper.make_graph([node], "g", [x], [y], [k])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(made.SerializeToString())


async def test_a_model_is_deployed_swapped_survives_a_bad_version_and_a_kill_and_is_deleted(
    tmp_path,
):
    need(
        all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime")),
        "pip install -e '.[onnx,dev]'",
    )
    repository = tmp_path / "repository"
    write_model(repository / "1", 2.0)
    store, planes, emitted = MemoryStore(), FakePlanes(), Emitted()
    control = ReplicaControlClient()
    async with LocalScheduler(
        tmp_path / "state", LocalSettings(gpus=()), environ=os.environ
    ) as scheduler:
        lifecycle = Lifecycle(
            store=store,
            source=ObjectSource(LoopClock(), SourceSettings(settle_s=0.3)),
            scheduler=scheduler,
            control=control,
            planes=planes,
            emit=emitted,
            clock=LoopClock(),
            settings=LifecycleSettings(poll_s=0.2),
        )

        def view():
            return lifecycle.view("m")

        async def until(said):
            async with asyncio.timeout(60):
                while not said():  # noqa: ASYNC110 - views are looked at
                    await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(lifecycle.run())
            try:
                spec = ModelSpec("m", repository.as_uri(), Backend.ONNX, replicas=2)
                await store.put(spec, None)
                lifecycle.poke("m")
                await until(lambda: view() is not None and view().converged)
                assert view().live == 1

                write_model(repository / "2", 3.0)
                await until(lambda: view().converged and view().live == 2)

                (repository / "3").mkdir()
                (repository / "3" / "model.onnx").write_bytes(b"no model at all")
                await until(lambda: "version.failed" in emitted.types)
                assert view().live == 2
                assert view().versions[0].state is VersionState.FAILED
                assert "model.onnx" in view().versions[0].reason

                os.kill(view().replicas[0].replica.pid, signal.SIGKILL)
                write_model(repository / "4", 5.0)
                await until(lambda: view().converged and view().live == 4)

                await store.delete("m")
                lifecycle.poke("m")
                await until(lambda: "model.deleted" in emitted.types)
                assert scheduler.replicas() == []
            finally:
                running.cancel()
                await scheduler.stop_all()
    await control.aclose()
    lives = [t.models["m"].live for t in planes.tables if "m" in t.models]
    assert [v for i, v in enumerate(lives) if i == 0 or lives[i - 1] != v] == [None, 1, 2, 4]
    assert "model.unavailable" not in emitted.types
