"""A model server as people start it: a process with flags, signals and a leash."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import os
import signal
import sys
from contextlib import asynccontextmanager

import aiohttp
import grpc
import psutil
import pytest

from gateway.codecs.tfs_methods import Method
from tests.parts.kit_server import eventually, reload_request
from tests.parts.need import need

need(
    all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime")),
    "pip install -e '.[onnx,dev]'",
)

from tests.parts import tiny_onnx  # noqa: E402 - needs the part checked above

pytestmark = [pytest.mark.onnx, pytest.mark.slow]


@asynccontextmanager
async def server(tmp_path, *flags):
    ready = tmp_path / "run" / "ready.json"
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "servers.onnx", "--ready-file", str(ready),
            "--cache-dir", str(tmp_path / "cache"), *flags, stderr=stderr,
        )  # fmt: skip
    try:
        await eventually(lambda: ready.exists() or process.returncode is not None)
        assert process.returncode is None, log.read_text()
        yield process, json.loads(ready.read_text())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answers(session, http, name="m", wanted=200):
    async with asyncio.timeout(30):
        while True:
            url = f"http://{http}/v1/models/{name}:predict"
            async with session.post(url, data='{"instances":[[1]]}') as answer:
                if answer.status == wanted:
                    return await answer.json()
            await asyncio.sleep(0.02)


async def test_it_starts_says_where_and_drains_on_sigterm(tmp_path):
    tiny_onnx.slow(tmp_path / "m" / "1")
    async with server(tmp_path, "--model", f"m={tmp_path / 'm'}") as (process, said):
        assert said["pid"] == process.pid
        assert said["control"] == said["grpc"] != said["http"] == said["status_http"]
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            await answers(session, said["http"])
            before = psutil.Process(process.pid).cpu_times().user
            asked = tasks.create_task(
                session.post(f"http://{said['http']}/v1/models/m:predict",
                             data='{"instances":[[1],[2]]}')
            )  # fmt: skip
            # Nothing else takes so much: the run is under way.
            at_work = before + 0.05
            await eventually(lambda: psutil.Process(process.pid).cpu_times().user >= at_work)
            process.send_signal(signal.SIGTERM)
            response = await asked
            assert response.status == 200
            assert await response.json() == {"predictions": [[1.0], [2.0]]}
            response.release()
            async with asyncio.timeout(30):
                assert await process.wait() == 0
    assert "server.draining why=SIGTERM" in (tmp_path / "log").read_text()


async def test_a_taken_port_is_said_with_what_to_do(tmp_path):
    async with server(tmp_path) as (_, said):
        for flag in ("http", "grpc"):
            second = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "servers.onnx", f"--{flag}", said[flag],
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            _, stderr = await second.communicate()
            assert second.returncode == 1
            assert f"Cannot listen on {said[flag]}" in stderr.decode()
            assert f"--{flag}" in stderr.decode()


@pytest.mark.parametrize(
    "flags", [["--http", "8501"], ["--batch-size", "0"], ["--model", "m"], ["--max-body", "lots"]]
)
async def test_wrong_flags_are_usage_errors(flags):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "servers.onnx", *flags, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode == 2
    assert flags[0] in stderr.decode()


async def test_it_ends_when_nobody_holds_its_leash(tmp_path):
    leash = tmp_path / "leash"
    fd = os.open(leash, os.O_CREAT | os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    flags = ("--leash", str(leash), "--leash-grace-s", "0.5")
    async with server(tmp_path, *flags) as (process, _):
        await asyncio.sleep(2)
        assert process.returncode is None
        os.close(fd)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    assert "the gateway has not come back" in (tmp_path / "log").read_text()


async def test_memory_returns_after_an_unload(tmp_path):
    tiny_onnx.large(tmp_path / "big" / "1", megabytes=200)
    async with server(tmp_path, "--batch-size", "1") as (process, said):
        rss = psutil.Process(process.pid).memory_info
        before = rss().rss
        async with grpc.aio.insecure_channel(said["grpc"]) as channel:
            call = channel.unary_unary(Method.HANDLE_RELOAD_CONFIG.path)
            request = reload_request(big=(str(tmp_path / "big"), (1,)))
            await call(request.SerializeToString(), timeout=60)
            loaded = rss().rss
            assert loaded - before > 150e6
            await call(reload_request().SerializeToString(), timeout=60)
            await eventually(lambda: rss().rss - before < 40e6)


async def test_with_leave_s_it_goes_on_until_nobody_asks_any_more(tmp_path):
    tiny_onnx.affine(tmp_path / "m" / "1", 1, width=1)
    flags = ("--model", f"m={tmp_path / 'm'}", "--leave-s", "600")
    async with server(tmp_path, *flags) as (process, said):
        async with aiohttp.ClientSession() as session:
            await answers(session, said["http"])
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: "server.leaving" in (tmp_path / "log").read_text())
            # Longer than it would last if nobody asked.
            loop = asyncio.get_running_loop()
            until = loop.time() + 5.0
            while loop.time() < until:
                await answers(session, said["http"])
                await asyncio.sleep(0.1)
            assert process.returncode is None
        async with asyncio.timeout(60):
            assert await process.wait() == 0
