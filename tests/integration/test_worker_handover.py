"""Workers die, leave and are replaced; whoever calls notices nothing but what a dead one had."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from dataclasses import replace

import aiohttp
import grpc.aio
import psutil
import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import Unavailable
from tests.parts.fake_replica import fake_replica, table, until
from tests.parts.worker_processes import (
    SETTINGS,
    beside,
    keep_metrics_alone,
    opened,
    predict,
    starting_only,
    waiting,
    workers,
)

PATIENT = replace(SETTINGS, drain_s=60.0, patience_s=2.0)
"""For a busy machine: the next workers start while the ones before still drain, and a caller may be
kept from its connection for a while."""

pytestmark = pytest.mark.slow

GOOD = (200, b'{"by": "a"}')
REQUEST = tfs_pb2.PredictRequest(model_spec={"name": "m"}).SerializeToString()


@pytest.fixture(autouse=True)
def _metrics(monkeypatch):
    keep_metrics_alone(monkeypatch)


class Callers:
    """Ask for ever, each in its own way; every answer that is not a good one is remembered."""

    def __init__(self, http: str, grpc: str) -> None:
        self.http = http
        self.grpc = grpc
        self.good: Counter[str] = Counter()
        self.failed: list[str] = []

    def _note(self, kind: str, answer: object, wanted: object) -> None:
        if answer == wanted:
            self.good[kind] += 1
        else:
            self.failed.append(f"{kind}: {answer!r}")

    async def over_new_connections(self) -> None:
        while True:
            try:
                self._note("new", await predict(self.http), GOOD)
            except aiohttp.ClientError as error:
                self._note("new", error, GOOD)

    async def over_a_kept_connection(self) -> None:
        url = f"http://{self.http}/v1/models/m:predict"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            while True:
                try:
                    async with session.post(url, data=b"{}") as answer:
                        self._note("kept", (answer.status, await answer.read()), GOOD)
                except aiohttp.ClientError as error:
                    self._note("kept", error, GOOD)

    async def over_grpc(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.grpc, options=options) as channel:
            call = channel.unary_unary(Method.PREDICT.path)
            while True:
                try:
                    self._note("grpc", await call(REQUEST, timeout=20), b"answer of a v1")
                except grpc.aio.AioRpcError as error:
                    self._note("grpc", error, None)

    async def asking_whether_it_is_ready(self) -> None:
        """Over a kept connection, as load balancers do: one that is replaced is ready."""
        url = f"http://{self.http}/v2/health/ready"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            while True:
                try:
                    async with session.get(url) as answer:
                        self._note("ready", answer.status, 200)
                except aiohttp.ClientError as error:
                    self._note("ready", error, 200)

    def calling(self):
        """All kinds, two of each, for as long as the block lasts."""
        kinds = (
            self.over_new_connections,
            self.over_a_kept_connection,
            self.over_grpc,
            self.asking_whether_it_is_ready,
        )
        return beside(*(kind() for kind in kinds for _ in range(2)))

    async def more(self) -> None:
        """Wait until each kind has had some more good answers."""
        before = self.good.copy()
        kinds = ("new", "kept", "grpc", "ready")
        await until(lambda: all(self.good[kind] >= before[kind] + 5 for kind in kinds))


async def test_three_reloads_under_load_fail_no_request(tmp_path):
    async with fake_replica("a") as a, opened(tmp_path, settings=PATIENT) as planes:
        planes.publish(table(a))
        await until(planes.is_taken)
        callers = Callers(planes.http_address, planes.grpc_address)
        async with callers.calling():
            await callers.more()
            for _ in range(3):
                before = set(workers())
                await planes.reload()
                after = set(workers())
                assert len(after) == len(before) == 2
                assert not after & before
                await callers.more()
        assert callers.failed == []
        assert planes.is_taken()
        assert planes.busy() == set()
    files = {path.name.rpartition("_")[2] for path in tmp_path.iterdir()}
    assert files <= {"parent.db", "1.db", "2.db", "3.db"}


async def test_a_worker_that_is_told_to_end_finishes_what_it_has_and_is_replaced(tmp_path):
    gate = asyncio.Event()
    async with fake_replica("a", gate=gate) as a, opened(tmp_path, settings=PATIENT) as planes:
        planes.publish(table(a))
        await until(planes.is_taken)
        before = workers()
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(predict(planes.http_address)) for _ in range(20)]
            await until(lambda: len(a.got) == 20)
            for pid in before:
                os.kill(pid, signal.SIGTERM)
            await until(lambda: len(workers()) == 4)
            gate.set()
            assert {await each for each in asked} == {GOOD}
        await until(lambda: len(workers()) == 2 and not set(before) & set(workers()))
        assert await predict(planes.http_address) == GOOD


async def test_workers_that_are_told_to_end_under_load_fail_no_request(tmp_path):
    """Their slots are covered by the other while they finish, and then are not any more."""
    async with fake_replica("a") as a, opened(tmp_path, settings=PATIENT) as planes:
        planes.publish(table(a))
        await until(planes.is_taken)
        callers = Callers(planes.http_address, planes.grpc_address)
        async with callers.calling():
            for victim in workers():
                os.kill(victim, signal.SIGTERM)
                await until(lambda victim=victim: victim not in workers() and len(workers()) == 2)
                await callers.more()
        assert callers.failed == []


async def test_what_a_killed_worker_had_not_accepted_is_answered_by_the_other(tmp_path):
    async with fake_replica("a") as a, opened(tmp_path) as planes:
        planes.publish(table(a))
        await until(planes.is_taken)
        address = planes.http_address
        victim = psutil.Process(workers()[0])
        victim.suspend()
        await until(lambda: victim.status() == psutil.STATUS_STOPPED)
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(predict(address)) for _ in range(40)]
            await until(lambda: sum(t.done() for t in asked) + waiting(address) == 40)
            assert 0 < waiting(address) < 40
            victim.kill()
            assert {await each for each in asked} == {GOOD}


async def test_a_stream_of_new_connections_loses_only_what_killed_workers_had_accepted(tmp_path):
    """None is refused, and none is reset that waits: those that fail are at most as many as a
    worker can have had in hand, one for each caller."""
    callers = 4
    async with fake_replica("a") as a, opened(tmp_path) as planes:
        planes.publish(table(a))
        await until(planes.is_taken)
        good, failed = 0, []

        async def call() -> None:
            nonlocal good
            while True:
                try:
                    assert await predict(planes.http_address) == GOOD
                    good += 1
                except aiohttp.ClientConnectorError as error:
                    raise AssertionError("a connection was refused") from error
                except aiohttp.ClientError as error:
                    failed.append(error)

        kills = 3
        async with beside(*(call() for _ in range(callers))):
            for _ in range(kills):
                enough = good + 20
                await until(lambda enough=enough: good > enough)
                victim = workers()[0]
                os.kill(victim, signal.SIGKILL)
                await until(lambda victim=victim: len(set(workers()) - {victim}) == 2)
        assert len(failed) <= kills * callers


async def test_a_slot_whose_worker_does_not_come_up_again_is_served_by_the_others(tmp_path):
    command = starting_only(2, tmp_path / "started")
    async with fake_replica("a") as a, opened(tmp_path, command=command) as planes:
        planes.publish(table(a))
        await until(planes.is_taken)
        victim = workers()[0]
        os.kill(victim, signal.SIGKILL)
        await until(lambda: not psutil.pid_exists(victim))
        for _ in range(20):
            assert await predict(planes.http_address) == GOOD


async def test_a_reload_whose_first_new_worker_does_not_start_changes_nothing(tmp_path):
    command = starting_only(2, tmp_path / "started")
    async with fake_replica("a") as a, opened(tmp_path, command=command) as planes:
        planes.publish(table(a))
        await until(planes.is_taken)
        before = workers()
        with pytest.raises(Unavailable, match="new worker did not start: it ended with code 3"):
            await planes.reload()
        assert sorted(workers()) == sorted(before)
        for _ in range(10):
            assert await predict(planes.http_address) == GOOD
