"""A number for each cluster that runs on this machine, and all that is derived from it.

Several test runs may be at work at once (pytest-xdist, two checkouts). Each takes the first free
slot, by an flock that the kernel lets go of however the run ends. A slot has a folder, loopback
addresses of its own (so that ports are the usual ones and a restarted API server finds its own free
again), and the names of what a real node needs. Names that can be told from the slot alone are what
makes it possible to clean up after a run that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/tmp/gateway-cluster")
"""Not $TMPDIR: all runs on a machine must see the same locks. Short: sockets are in it."""

SLOTS = 64
"""Each takes one number of a second address byte; 127.100.x.x to 127.163.x.x are for made pods."""

MARK = "GATEWAY_TEST_CLUSTER"
"""Environment variable that every process of a cluster carries, with its slot's folder as value."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What belongs to cluster number `number`."""

    number: int
    lock: int
    """The descriptor that holds the flock; whoever inherits it holds the slot, too."""

    @property
    def folder(self) -> Path:
        """Certificates, data, logs: all files of the cluster. Removed when it ends."""
        return FOLDER / str(self.number)

    @property
    def address(self) -> str:
        """Where the control plane listens, on the usual ports."""
        return f"127.83.{self.number}.1"

    @property
    def cgroup(self) -> str:
        """The real node's, in every hierarchy."""
        return f"gateway-cluster-{self.number}"

    @property
    def pod_subnet(self) -> str:
        """First three bytes of the addresses of the real node's pods."""
        return f"10.244.{self.number}"

    @property
    def node_subnet(self) -> str:
        """First three bytes of the link between this machine (.1) and the real node (.2)."""
        return f"10.245.{self.number}"

    @property
    def link(self) -> str:
        """The link's end on this machine."""
        return f"gwc{self.number}"

    def made_pod_address(self, index: int) -> str:
        """The loopback address of the index-th pod on made nodes; 0 ≤ index < 64,000."""
        return f"127.{100 + self.number}.{index // 250}.{1 + index % 250}"


@contextlib.contextmanager
def taken_slot() -> Iterator[Slot]:
    """The first free slot, for as long as the block lasts.

    Raises:
        RuntimeError: all are taken.
    """
    with contextlib.suppress(FileExistsError):
        FOLDER.mkdir()
        FOLDER.chmod(0o1777)  # other users have clusters, too
    slot = next((s for s in map(_take, range(SLOTS)) if s is not None), None)
    if slot is None:
        raise RuntimeError(f"all {SLOTS} slots in {FOLDER} are taken")
    try:
        yield slot
    finally:
        os.close(slot.lock)


def abandoned_slots() -> Iterator[Slot]:
    """Each slot that nobody holds but whose folder is still there, taken while it is looked at."""
    for number in range(SLOTS):
        if (FOLDER / str(number)).exists() and (slot := _take(number)) is not None:
            yield slot
            os.close(slot.lock)


def _take(number: int) -> Slot | None:
    """The slot, if it is free."""
    try:
        lock = os.open(FOLDER / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:  # another user's
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return Slot(number, lock)
