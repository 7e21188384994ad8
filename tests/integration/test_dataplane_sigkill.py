"""Replicas that are processes, killed with SIGKILL under load: no request fails."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.core.route import Target
from gateway.domain.replicas import Endpoint
from tests.parts.fake_replica import running_gateway, table

CHILD = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from tests.parts.fake_replica import fake_replica
async def main():
    async with fake_replica("r", delay_s=0.005) as r:
        print(r.endpoint.http, r.endpoint.grpc, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@asynccontextmanager
async def replica_process(name: str):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(Path(__file__).parents[2]), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            http, grpc = (await process.stdout.readline()).decode().split()
        yield process, Target(name, Endpoint(http, grpc, grpc))
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.slow
async def test_two_kills_under_load_cost_no_request():
    message = tfs_pb2.PredictRequest(model_spec={"name": "m"}).SerializeToString()
    done = asyncio.Event()
    answers = 0
    async with (
        replica_process("a") as (first, a),
        replica_process("b") as (second, b),
        replica_process("c") as (_, c),
        running_gateway() as gw,
        aiohttp.ClientSession() as client,
    ):
        gw.plane.publish(table(a, b))

        async def over_http():
            nonlocal answers
            while not done.is_set():
                async with client.post(f"http://{gw.http}/v1/models/m:predict", data=b"{}") as said:
                    assert said.status == 200, await said.text()
                    answers += 1

        async def over_grpc():
            nonlocal answers
            while not done.is_set():
                await gw.predict(message, timeout=20)
                answers += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(over_http())
                tasks.create_task(over_grpc())
            await asyncio.sleep(0.5)
            first.kill()
            await asyncio.sleep(0.5)
            gw.plane.publish(table(b, generation=2))
            await asyncio.sleep(0.2)
            second.kill()  # the last one: everybody waits …
            await asyncio.sleep(0.3)
            gw.plane.publish(table(c, generation=3))  # … for the next
            await asyncio.sleep(0.5)
            done.set()
    assert answers > 100
