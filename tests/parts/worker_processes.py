"""Data planes in worker processes, for tests, and a look at the processes and their ports."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from prometheus_client import values

from gateway.dataplane.planes import open_planes
from gateway.dataplane.settings import DataplaneSettings
from gateway.telemetry import Metrics
from gateway.upstream import GrpcUpstream, HttpUpstream

COMMAND = (
    sys.executable,
    "-c",
    "import sys\n"
    "from gateway.dataplane.worker import main\n"
    "from gateway.upstream import GrpcUpstream, HttpUpstream\n"
    "sys.exit(main(sys.argv[1:], lambda: (HttpUpstream(), GrpcUpstream())))\n",
)
SETTINGS = DataplaneSettings(http="127.0.0.1:0", grpc="127.0.0.1:0", drain_s=5.0, patience_s=0.5)

_LISTEN = "0A"


def keep_metrics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """prometheus_client keeps its multi-process mode in globals; other tests want none of it."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")


def starting_only(times: int, folder: Path) -> tuple[str, ...]:
    """A command that starts a worker so many times; every later process exits with code 3."""
    script = (
        "import os, pathlib, sys\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "folder.mkdir(exist_ok=True)\n"
        f"if len(list(folder.iterdir())) >= {times}: sys.exit(3)\n"
        "(folder / str(os.getpid())).touch()\n"
    )
    return (*COMMAND[:2], script + COMMAND[2])


def opened(metrics_dir=None, count=2, settings=SETTINGS, command=COMMAND, **options):
    """gateway.dataplane.planes.open_planes with real upstreams."""
    return open_planes(
        settings,
        upstreams=lambda: (HttpUpstream(), GrpcUpstream()),
        metrics=Metrics(metrics_dir),
        workers=count,
        worker_command=command,
        **options,
    )


def workers() -> list[int]:
    """Pids of the workers of this process."""
    found = []
    for child in psutil.Process().children():
        # One that ends in between is none any more.
        with contextlib.suppress(psutil.NoSuchProcess):
            if "--fd" in child.cmdline():
                found.append(child.pid)
    return found


def waiting(address: str) -> int:
    """Connections to `127.0.0.1:port` that nobody has accepted yet: what the kernel says of the
    queues of its listening sockets."""
    port = f"{int(address.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(row[4].partition(":")[2], 16)
        for row in rows
        if row[3] == _LISTEN and row[1].endswith(f":{port}")
    )


async def predict(address: str) -> tuple[int, bytes]:
    """One prediction of model m, over a connection of its own."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/models/m:predict", data=b"{}") as answer,
    ):
        return answer.status, await answer.read()


async def scraped(address: str) -> str:
    """The metrics, as the workers show them."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}/monitoring/prometheus/metrics") as answer,
    ):
        return await answer.text()


@asynccontextmanager
async def beside(*work) -> AsyncIterator[None]:
    """Runs coroutines for as long as the block lasts, then cancels them."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each) for each in work]
        yield
        for task in running:
            task.cancel()
