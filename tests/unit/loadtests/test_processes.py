"""CPU time and memory of other processes, and their end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from loadtests.processes import Family, cpu_of, memory_of, with_children

ROOT = Path(__file__).parents[3]
BUSY = """
import sys, time
while time.process_time() < 0.05:
    pass
print(time.process_time(), flush=True)
sys.stdin.read()
"""
HUNGRY = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    eaten = b"x" * int(line)
    del eaten
    print("eaten", flush=True)
"""
LEAVES_AN_ORPHAN = """
import signal, subprocess
from loadtests import ending
ending._GRACE_S = 0.2
with ending.nothing_left():
    # The shell ends at once, and what it started goes on: an orphan that ignores SIGTERM.
    subprocess.run(["sh", "-c", "trap '' TERM; sleep 300 >/dev/null 2>&1 & echo $!"])
    while True:
        signal.pause()
"""


@contextmanager
def python(script: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        # As from a terminal: where the tests run in the background, a shell has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def test_cpu_time_is_counted_finer_than_the_kernels_ticks():
    with python(BUSY) as child:
        said = float(child.stdout.readline())
        counted = with_children(child.pid).cpu_s()
    assert said <= counted < said + 0.02


def test_a_process_that_is_gone_has_used_nothing():
    with python("pass") as child:
        child.wait()
    assert cpu_of(child.pid) == 0.0


def test_a_short_peak_of_memory_is_seen():
    with python(HUNGRY) as child:
        child.stdout.readline()
        family = Family(lambda: [psutil.Process(child.pid)])
        with memory_of(family) as memory:
            child.stdin.write(f"{64 << 20}\n")
            child.stdin.flush()
            child.stdout.readline()
        assert family.rss_bytes() < memory.before_bytes + (16 << 20)
        assert memory.most_bytes > memory.before_bytes + (60 << 20)
        with memory_of(family) as again:
            pass
        assert again.most_bytes < memory.most_bytes - (32 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_a_bench_that_is_stopped(sent):
    with python(LEAVES_AN_ORPHAN) as child:
        orphan = int(child.stdout.readline())
        assert psutil.pid_exists(orphan)
        child.send_signal(sent)
        err = child.stderr.read()
        child.wait()
    assert child.returncode == 130
    assert "stopped" in err
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE
