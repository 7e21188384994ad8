"""What processes cost: CPU time (user and system) and resident memory, over a family of them.

CPU time is read from the kernel's clock of each process, which counts nanoseconds; what `ps` and
psutil show is rounded to 10 ms, which a round of a few thousand requests would be drowned in.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.parts.gateway_process import GatewayProcess

Chosen = Callable[[], Sequence[psutil.Process]]


@dataclass(frozen=True, slots=True)
class Family:
    """Processes that are counted as one; found anew each time, as workers come and go."""

    members: Chosen

    def cpu_s(self) -> float:
        """Seconds of CPU that the living members have used since they started."""
        return sum(cpu_of(process.pid) for process in self.members())

    def rss_bytes(self) -> int:
        """Resident memory, shared pages counted with each member."""
        total = 0
        for process in self.members():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total


NOBODY = Family(lambda: ())


def gateway_alone(gateway: GatewayProcess) -> Family:
    """The gateway and its workers, without the replicas that it started."""
    return Family(lambda: [_main(gateway), *workers(gateway)])


def workers(gateway: GatewayProcess) -> list[psutil.Process]:
    """The worker processes of `--workers N`; none where the gateway is one process."""
    return [p for p in _main(gateway).children() if "worker" in _command(p)[2:5]]


def with_children(pid: int) -> Family:
    """A process and all that came from it, as a gateway with its replicas."""
    root = psutil.Process(pid)
    return Family(lambda: [root, *root.children(recursive=True)])


def _main(gateway: GatewayProcess) -> psutil.Process:
    assert gateway.process is not None
    return psutil.Process(gateway.process.pid)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def cpu_of(pid: int) -> float:
    """Seconds of CPU of one process, its ended threads too; 0 of one that is gone."""
    # What clock_getcpuclockid(3) gives: the pid's complement, and 2 for "scheduled time".
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


@dataclass(slots=True)
class Memory:
    """Resident memory while something ran."""

    before_bytes: int
    most_bytes: int = 0


@contextmanager
def memory_of(family: Family) -> Iterator[Memory]:
    """The most memory that the family had until the block ends, from the kernel's own high-water
    mark: nothing is sampled, so no peak is missed and nobody is disturbed."""
    pids = [process.pid for process in family.members()]
    memory = Memory(family.rss_bytes())
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")
    yield memory
    memory.most_bytes = sum(peak_of(pid) for pid in pids)


def peak_of(pid: int) -> int:
    """Bytes of the high-water mark since the process began, or since it was set back."""
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", told, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
