"""A replica in a few lines and a gateway that only schedules, for tests of the scheduler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.core.placement import template_of
from gateway.domain.models import Backend, ModelSpec
from gateway.domain.replicas import Replica, ReplicaSet
from gateway.ports import Scheduler
from gateway.schedulers import LocalSettings

QUICK = LocalSettings(gpus=(), grace_s=5.0, orphan_grace_s=30.0, housekeeping_s=0.2)

# Listens, says so, and ends itself on SIGTERM after saying so too.
SERVER = """
import signal, sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
def end(*_):
    print("draining", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("listening", flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""

_GATEWAY = """
import asyncio, json, os, sys
from dataclasses import replace
from pathlib import Path
from gateway.schedulers import LocalScheduler
from tests.parts.local_replicas import QUICK, desired, listening

async def main(state, grace):
    settings = replace(QUICK, orphan_grace_s=float(grace))
    async with LocalScheduler(Path(state), settings, environ=os.environ) as scheduler:
        await scheduler.ensure([desired(replicas=2)])
        while len(found := listening(scheduler)) < 2:
            await scheduler.changed()
        print(json.dumps([[r.id, r.pid] for r in found]), flush=True)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


def desired(
    name: str = "m", replicas: int = 1, code: str = SERVER, group: str = "", **changes
) -> ReplicaSet:
    """A model whose replicas run `code` in Python."""
    command = (sys.executable, "-c", code, "{http_port}")
    source = changes.pop("source", "file:///nowhere")
    spec = ModelSpec(name, source, Backend.CUSTOM, replicas=replicas, command=command, **changes)
    return ReplicaSet(spec, template_of(spec), spec.replicas, group)


def listening(scheduler: Scheduler) -> list[Replica]:
    """The replicas that listen and are not on their way out."""
    return [r for r in scheduler.replicas() if r.state == "loading"]


async def until(
    scheduler: Scheduler, said: Callable[[Sequence[Replica]], object]
) -> Sequence[Replica]:
    """Wait until the replicas are as `said`; return them."""
    while not said(found := scheduler.replicas()):
        await scheduler.changed()
    return found


def start_gateway(state: Path, grace_s: float) -> tuple[subprocess.Popen[str], dict[str, int]]:
    """Start a process that schedules two replicas; return it and their pids by id."""
    process = subprocess.Popen(
        [sys.executable, "-c", _GATEWAY, str(state), str(grace_s)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    return process, dict(json.loads(process.stdout.readline()))


def crash(process: subprocess.Popen[str]) -> None:
    """SIGKILL, as the kernel does it when memory is short."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def kill(pid: int) -> None:
    """SIGKILL one process."""
    os.kill(pid, signal.SIGKILL)
