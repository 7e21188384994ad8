"""`--workers N`: real processes that share the ports, told by this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys

import aiohttp
import grpc.aio
import psutil
import pytest
from prometheus_client import values

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.dataplane.planes import open_planes
from gateway.dataplane.settings import DataplaneSettings
from gateway.domain.errors import Conflict, InvalidRequest, Unavailable
from gateway.telemetry import Metrics
from gateway.upstream import GrpcUpstream, HttpUpstream
from tests.parts.fake_replica import fake_replica, table, until

pytestmark = pytest.mark.slow

COMMAND = (
    sys.executable,
    "-c",
    "import sys\n"
    "from gateway.dataplane.worker import main\n"
    "from gateway.upstream import GrpcUpstream, HttpUpstream\n"
    "sys.exit(main(sys.argv[1:], lambda: (HttpUpstream(), GrpcUpstream())))\n",
)
SETTINGS = DataplaneSettings(http="127.0.0.1:0", grpc="127.0.0.1:0", drain_s=2.0)


@pytest.fixture(autouse=True)
def _metrics_of_this_process_alone(monkeypatch):
    """prometheus_client keeps its multi-process mode in globals; other tests want none of it."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")


def upstreams():
    return HttpUpstream(), GrpcUpstream()


def opened(metrics_dir=None, count=2, settings=SETTINGS, **options):
    return open_planes(
        settings,
        upstreams=upstreams,
        metrics=Metrics(metrics_dir),
        workers=count,
        worker_command=COMMAND,
        **options,
    )


async def predict(address: str) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/models/m:predict", data=b"{}") as answer,
    ):
        return answer.status, await answer.read()


def workers() -> list[int]:
    """Pids of the workers of this process."""
    found = []
    for child in psutil.Process().children():
        # One that ends in between is none any more.
        with contextlib.suppress(psutil.NoSuchProcess):
            if "--fd" in child.cmdline():
                found.append(child.pid)
    return found


class Reloads:
    def __init__(self) -> None:
        self.refreshed: list[str] = []

    async def refresh(self, name: str) -> None:
        self.refreshed.append(name)

    async def reload(self, request: bytes, deadline_at: float) -> bytes:
        if request == b"":
            raise InvalidRequest("nothing in it", reason="bad_config")
        return b"done: " + request


async def test_workers_answer_sum_their_metrics_and_are_started_again(tmp_path):
    request = tfs_pb2.PredictRequest(model_spec={"name": "m"}).SerializeToString()
    async with (
        fake_replica("a") as a,
        opened(tmp_path, reloader=(reloads := Reloads())) as planes,
        grpc.aio.insecure_channel(planes.grpc_address) as channel,
    ):
        planes.publish(table(a, versions=(1,)))
        await until(planes.is_taken)
        for _ in range(10):
            assert await predict(planes.http_address) == (200, b'{"by": "a"}')
        answer = await channel.unary_unary(Method.PREDICT.path)(request)
        assert answer == b"answer of a v1"

        reload = channel.unary_unary(Method.HANDLE_RELOAD_CONFIG.path)
        assert await reload(b"config") == b"done: config"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reload(b"")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "nothing in it"

        load = channel.unary_unary(OipMethod.REPOSITORY_MODEL_LOAD.path)
        await load(oip_pb2.RepositoryModelLoadRequest(model_name="m").SerializeToString())
        await until(lambda: reloads.refreshed == ["m"])

        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{planes.http_address}/monitoring/prometheus/metrics") as scrape,
        ):
            text = await scrape.text()
        assert 'code="200",model="m",protocol="http",role="primary",version="1"} 10.0' in text

        before = workers()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: len(workers()) == 2 and before[0] not in workers())
        await until(planes.is_taken)
        for _ in range(10):
            assert (await predict(planes.http_address))[0] == 200
    assert not workers()


async def test_a_version_that_left_the_table_is_busy_until_its_last_request_has_ended(tmp_path):
    gate = asyncio.Event()
    async with fake_replica("a", gate=gate) as a, opened(tmp_path) as planes:
        planes.publish(table(a, versions=(1, 2), live=1))
        await until(planes.is_taken)
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(predict(planes.http_address))
            await until(lambda: bool(a.got))
            planes.publish(table(a, versions=(2,)))
            assert ("m", 1, "a") in planes.busy()
            await asyncio.sleep(0.3)
            assert planes.busy() == {("m", 1, "a")}
            gate.set()
            async with asyncio.timeout(10):
                while planes.busy():
                    await planes.drained()
            assert await asked == (200, b'{"by": "a"}')


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("front", ["http", "grpc"])
async def test_a_port_in_use_is_said_with_its_flag(tmp_path, count, front):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        addresses = {"http": "127.0.0.1:0", "grpc": "127.0.0.1:0", front: address}
        with pytest.raises(Conflict, match=f"{address} is in use.*--{front}"):
            async with opened(tmp_path, count, DataplaneSettings(**addresses)):
                pass


async def test_workers_that_cannot_start_are_reported(tmp_path):
    planes = open_planes(
        SETTINGS,
        upstreams=upstreams,
        metrics=Metrics(tmp_path),
        workers=2,
        worker_command=(sys.executable, "-c", "import sys; sys.exit(3)"),
    )
    with pytest.raises(Unavailable, match="code 3"):
        async with planes:
            pass


async def test_workers_exit_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from tests.integration import test_workers as t\n"
        "async def run():\n"
        "    async with t.opened(Path(sys.argv[1])) as planes:\n"
        "        print(planes.http_address, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(run())\n"
    )
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(metrics), os.getcwd(), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(30):
        assert await parent.stdout.readline()
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 2
    parent.kill()
    await parent.wait()
    await until(lambda: not any(c.is_running() and c.status() != "zombie" for c in children))


async def test_one_process_serves_by_itself():
    async with fake_replica("a") as a, opened(count=1) as planes:
        planes.publish(table(a))
        assert await predict(planes.http_address) == (200, b'{"by": "a"}')
        assert not planes.busy()
