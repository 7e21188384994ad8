"""Metrics of several processes, which prometheus_client sums from files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WORKER = """
import asyncio, sys
from pathlib import Path
from gateway.telemetry import Metrics

async def work():
    metrics = Metrics(Path(sys.argv[1]), sys.argv[2])
    metrics.wire.opened("h1")
    metrics.sample_in_flight(lambda: {"m": 1})
    asyncio.get_running_loop().create_task(metrics.hand_over_regularly())
    for _ in range(30):
        metrics.answered("m", "1", "http", "200", 0.01)
    while 'version="1"} ' + sys.argv[3] not in metrics_of_all():
        await asyncio.sleep(0.02)
    print("seen", flush=True)
    await asyncio.sleep(60)

def metrics_of_all():
    # As another process would see it: nothing is handed over by looking.
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess
    summed = CollectorRegistry()
    multiprocess.MultiProcessCollector(summed, path=sys.argv[1])
    return generate_latest(summed).decode()

asyncio.run(work())
"""

SUMMED = """
import sys
from pathlib import Path
from gateway.telemetry import Metrics
metrics = Metrics(Path(sys.argv[1]))
for name in sys.argv[2:]:
    metrics.forget_process(name)
print(metrics.render().decode())
"""


def started(directory: Path, name: str, count: float) -> subprocess.Popen[str]:
    """A process that has counted 30 answers and seen `count` of all processes in the files."""
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(directory), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "seen\n"
    return worker


def killed(worker: subprocess.Popen[str]) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()


def summed(directory: Path, *ended: str) -> str:
    """What a scrape of the parent shows, after it has forgotten these processes."""
    command = [sys.executable, "-c", SUMMED, str(directory), *ended]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_counts_outlive_a_killed_process_gauges_do_not_and_files_do_not_add_up(tmp_path: Path):
    first, second = started(tmp_path, "1", 30.0), started(tmp_path, "2", 60.0)
    killed(first)
    both = summed(tmp_path)
    assert 'version="1"} 60.0' in both
    count = "gateway_request_duration_seconds_count"
    assert f'{count}{{model="m",protocol="http",version="1"}} 60.0' in both
    assert 'gateway_connections{protocol="h1"} 2.0' in both
    assert 'gateway_requests_in_flight{model="m"} 2.0' in both
    left = summed(tmp_path, "1")
    assert 'version="1"} 60.0' in left
    assert 'gateway_connections{protocol="h1"} 1.0' in left
    assert 'gateway_requests_in_flight{model="m"} 1.0' in left

    files = {p.name for p in tmp_path.iterdir()}
    third = started(tmp_path, "1", 90.0)
    assert 'gateway_connections{protocol="h1"} 2.0' in summed(tmp_path)
    found = {p.name for p in tmp_path.iterdir()}
    assert files | {"gauge_livesum_1.db", "gauge_livemax_1.db"} <= found
    # That of a gauge which is set first after a while is there or not yet.
    assert found - files <= {f"gauge_live{kind}_1.db" for kind in ("sum", "max", "mostrecent")}
    killed(second)
    killed(third)
    after = summed(tmp_path, "1", "2")
    assert 'version="1"} 90.0' in after
    assert 'gateway_connections{protocol="h1"} 0.0' in after
