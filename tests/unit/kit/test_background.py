"""What is fetched gives way to what answers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.sources.publish import publish
from servers.kit import fetch_files
from servers.kit.fetch import VersionCache

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="niceness of a thread")

# A process of its own, as the storage library's threads are begun once.
SCRIPT = """
import asyncio, json, os, threading
from pathlib import Path
from servers.kit.background import in_background, let_storage_give_way

def nice(thread):
    return os.getpriority(os.PRIO_PROCESS, int(thread))

let_storage_give_way()
ours = asyncio.run(in_background(lambda: nice(threading.get_native_id())))
plain = asyncio.run(asyncio.to_thread(lambda: nice(threading.get_native_id())))
tasks = [t for t in Path("/proc/self/task").iterdir() if "tokio" in (t / "comm").read_text()]
theirs = sorted({nice(t.name) for t in tasks})
print(json.dumps([nice(threading.get_native_id()), plain, ours, theirs]), flush=True)
os._exit(0)
"""


@linux_only
def test_threads_that_fetch_are_nicer_than_those_that_answer():
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    nicer = min(19, nice + 10)
    assert ran.stdout.strip() == f"[{nice}, {nice}, {nicer}, [{nicer}]]"


async def test_a_version_is_written_and_checked_on_those_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.onnx").write_bytes(b"x" * 3_000_000)
    source = (tmp_path / "source").as_uri()
    await publish(tmp_path / "made", source, 1)
    used: dict[str, set[str]] = {"_write_all": set(), "sha256_of": set()}
    for name, threads in used.items():
        real = getattr(fetch_files, name)

        def noted(*args, real=real, threads=threads):
            threads.add(threading.current_thread().name.partition("_")[0])
            return real(*args)

        monkeypatch.setattr(fetch_files, name, noted)
    cache = VersionCache(tmp_path / "cache", 10**9)
    lease = await cache.fetch(source, 1, lambda _done, _total: None)
    assert (lease.path / "model.onnx").stat().st_size == 3_000_000
    lease.release()
    assert used == {"_write_all": {"fetch"}, "sha256_of": {"fetch"}}
