"""A model server or an agent as a process of its own, as a scheduler would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def process(module, *args, ready):
    """A server process; yields it and what its ready file says."""
    ready.unlink(missing_ok=True)
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    with ready.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-m", module, *map(str, args), "--ready-file", str(ready)]
        started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: ready.exists() or started.poll() is not None, 30)
        assert started.poll() is None, ready.with_suffix(".log").read_text()
        yield started, json.loads(ready.read_text())
    finally:
        if started.poll() is None:
            started.terminate()
            try:
                started.wait(20)
            finally:
                started.kill()


def until(true, longest_s=20.0):
    """Wait until `true()` is; returns what it gave."""
    ends_at = time.perf_counter() + longest_s
    while not (found := true()):
        assert time.perf_counter() < ends_at, "it did not come to pass in time"
        time.sleep(0.02)
    return found
