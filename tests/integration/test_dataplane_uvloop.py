"""Both fronts on uvloop, which is what `gateway serve` runs on; and what the process imports."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import aiohttp
import pytest
import uvloop

from gateway.codecs.pb import tfs_pb2
from tests.parts.fake_replica import fake_replica, running_gateway, table


def test_both_fronts_answer_on_uvloop():
    async def run():
        message = tfs_pb2.PredictRequest(model_spec={"name": "m"}).SerializeToString()
        async with (
            fake_replica("a") as a,
            fake_replica("b") as b,
            running_gateway() as gw,
            aiohttp.ClientSession() as client,
        ):
            gw.plane.publish(table(a, b))

            async def one():
                async with client.post(f"http://{gw.http}/v1/models/m:predict", data=b"{}") as said:
                    assert said.status == 200
                assert (await gw.predict(message)).startswith(b"answer of ")

            async with asyncio.TaskGroup() as tasks:
                for _ in range(50):
                    tasks.create_task(one())
            assert a.got
            assert b.got

    uvloop.run(run())


@pytest.mark.slow
def test_the_data_plane_imports_neither_numpy_nor_tensorflow():
    code = (
        "import sys, gateway.dataplane.planes, gateway.upstream, gateway.telemetry\n"
        "print(sorted({'numpy', 'tensorflow', 'ml_dtypes'} & set(sys.modules)))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
