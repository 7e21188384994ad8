"""Leave nothing behind: end a cluster's processes and remove its traces, however its run ended.

`sweep` is what an orderly end calls. For the other ends there is this module as a program: it is
started first, waits until the pipe that only the test run holds is closed, which the kernel does
even after SIGKILL, and then sweeps. (PR_SET_PDEATHSIG would fire when the *thread* ends that
started a process, and tests restart parts from threads.)

Processes are known by a mark in their environment, containers by the slot's cgroup.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, sleep

from tests.cluster.slots import MARK, Slot, abandoned_slots

GIVE_UP_S = 20.0
"""A killed process is gone in milliseconds; one in an uninterruptible wait takes longer."""

CGROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def swept(slot: Slot) -> Iterator[None]:
    """The slot's folder, empty, for the block; after it, or after this process, nothing is left."""
    for abandoned in abandoned_slots():  # by a run whose sweeper was killed as well
        sweep(abandoned)
    sweep(slot)
    slot.folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.cluster.sweeper", str(slot.number), str(slot.lock)]
    with (slot.folder.parent / f"{slot.number}.sweeper.log").open("wb") as log:
        # It inherits the lock: the slot is taken until all is swept.
        sweeper = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[slot.lock],
            cwd=Path(__file__).parents[2],
        )
    try:
        yield
    finally:
        sweep(slot)
        assert sweeper.stdin is not None
        sweeper.stdin.close()
        sweeper.wait(timeout=2 * GIVE_UP_S)


def sweep(slot: Slot) -> None:
    """End every process of the slot and remove its cgroups, routes and files. Idempotent."""
    _end_all(slot, slot.folder)
    sweep_node(slot)
    shutil.rmtree(slot.folder, ignore_errors=True)


def sweep_node(slot: Slot) -> None:
    """The same for what belongs to the real node alone.

    Its mounts end with its last process; its network namespace some minutes later if a connection
    in it still waits for an answer, so the link to this machine is cut by hand.
    """
    _end_all(slot, slot.folder / "node")
    give_up = perf_counter() + GIVE_UP_S
    while (cgroups := list(_cgroups(slot))) and perf_counter() < give_up:
        for cgroup in cgroups:
            with contextlib.suppress(OSError):  # a process in it is just ending
                cgroup.rmdir()
    if os.geteuid() == 0 and (ip := shutil.which("ip")):
        for gone in (["link", slot.link], ["route", "blackhole", f"{slot.pod_subnet}.0/24"]):
            command = [ip, gone[0], "del", *gone[1:]]
            subprocess.run(command, check=False, capture_output=True)
    shutil.rmtree(slot.folder / "node", ignore_errors=True)


def _end_all(slot: Slot, folder: Path) -> None:
    give_up = perf_counter() + GIVE_UP_S
    while (pids := [*_marked(folder), *_in_cgroups(slot)]) and perf_counter() < give_up:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        sleep(0.02)


def _marked(folder: Path) -> Iterator[int]:
    """Processes whose mark is this folder or one below it."""
    mark = f"{MARK}={folder}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            # Empty for a zombie; another user's cannot be read and is not ours.
            with contextlib.suppress(OSError):
                for variable in (entry / "environ").read_bytes().split(b"\0"):
                    if variable == mark or variable.startswith(mark + b"/"):
                        yield int(entry.name)


def _cgroups(slot: Slot) -> Iterator[Path]:
    """The slot's cgroups in every hierarchy (v1) or the only one (v2), the innermost first."""
    for root in (CGROUPS / slot.cgroup, *CGROUPS.glob(f"*/{slot.cgroup}")):
        for folder, _, _ in os.walk(root, topdown=False):
            yield Path(folder)


def _in_cgroups(slot: Slot) -> Iterator[int]:
    for cgroup in _cgroups(slot):
        with contextlib.suppress(OSError):
            yield from (int(line) for line in (cgroup / "cgroup.procs").read_text().split())


if __name__ == "__main__":
    sys.stdin.buffer.read()
    sweep(Slot(int(sys.argv[1]), int(sys.argv[2])))
