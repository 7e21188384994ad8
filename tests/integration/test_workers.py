"""`--workers N`: real processes that share the ports, told by this one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from dataclasses import replace

import grpc.aio
import psutil
import pytest

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.core.balance import BalanceSettings
from gateway.core.ejection import EjectionSettings
from gateway.core.route import Canary
from gateway.dataplane.settings import DataplaneSettings
from gateway.domain.errors import Conflict, InvalidRequest, Unavailable
from tests.parts.fake_replica import fake_replica, table, until
from tests.parts.worker_processes import (
    SETTINGS,
    keep_metrics_alone,
    opened,
    predict,
    scraped,
    workers,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _metrics(monkeypatch):
    keep_metrics_alone(monkeypatch)


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

        host, port = planes.http_address.split(":")
        _, garbler = await asyncio.open_connection(host, int(port))
        garbler.write(b"no HTTP at all\r\n\r\n")
        wanted = (
            'code="200",model="m",protocol="http",role="primary",version="1"} 10.0',
            'gateway_connections{protocol="h2"} 1.0',
            'gateway_wire_refused_total{cause="bad_request"} 1.0',
        )
        async with asyncio.timeout(30):
            text = ""
            while not all(line in text for line in wanted):
                text = await scraped(planes.http_address)
        garbler.close()

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
            async with asyncio.timeout(30):
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
    planes = opened(tmp_path, command=(sys.executable, "-c", "import sys; sys.exit(3)"))
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


async def test_what_workers_count_of_a_rollout_is_summed_also_over_one_that_died(tmp_path):
    async with fake_replica("a") as a, opened(tmp_path) as planes:
        rollout = {"live": 1, "labels": {}, "canary": Canary(2, 0.5, window=7, shadow=1.0)}
        planes.publish(table(a, versions=(1, 2), **rollout))
        await until(planes.is_taken)

        def counted() -> int:
            return sum(map(sum, planes.tallies("m").values()))

        for _ in range(40):
            assert (await predict(planes.http_address))[0] == 200
        await until(lambda: counted() == 40)
        assert set(planes.tallies("m")) == {1, 2}
        assert all(sum(t) for t in planes.tallies("m").values())

        def copied() -> int:
            found = planes.agreement("m")
            return 0 if found is None else found.skipped + found.dropped

        # This replica tells no signatures by which answers could be compared.
        await until(lambda: copied() == sum(planes.tallies("m")[1]))
        before = copied()
        victim = workers()[0]
        os.kill(victim, signal.SIGKILL)
        await until(lambda: victim not in workers() and len(workers()) == 2)
        assert (counted(), copied()) == (40, before)
        await until(planes.is_taken)
        assert (await predict(planes.http_address))[0] == 200
        await until(lambda: counted() == 41)
        planes.publish(table(a, versions=(1, 2), **(rollout | {"canary": Canary(2, 0.9, 8)})))
        assert (counted(), planes.agreement("m")) == (0, None)
        a.http_status = 500
        await until(planes.is_taken)
        for _ in range(10):
            assert (await predict(planes.http_address))[0] == 500
        await until(lambda: counted() == 10)
        assert sum(t[0] for t in planes.tallies("m").values()) == 10


async def test_what_workers_think_of_a_replica_is_known_here(tmp_path):
    ejection = EjectionSettings(base_s=1.0, slow_start_s=0.5)
    settings = replace(SETTINGS, ejection=ejection, balance=BalanceSettings(suspect_s=0.0))
    async with (
        fake_replica("a") as a,
        fake_replica("b") as b,
        opened(tmp_path, settings=settings) as planes,
    ):
        planes.publish(table(a, b))
        await until(planes.is_taken)
        assert planes.standings() == {}
        await a.stop()
        async with asyncio.timeout(30):
            while not planes.standings():
                assert await predict(planes.http_address) == (200, b'{"by": "b"}')
        said = planes.standings()["a"]
        assert (said.standing, said.cause, said.of) == ("ejected", "consecutive_failures", 2)
        assert said.planes in (1, 2)
        # Nobody asks any more: it is let back in by time, and said so by those who had it out.
        await until(lambda: planes.standings() == {}, 30.0)
