"""A worker's place: it has listening sockets of its own for as long as the gateway runs, and is
filled by one process after the other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from gateway.dataplane.worker_process import WorkerProcess


@dataclass(slots=True, eq=False)
class Slot:
    """One place. Its sockets are never closed while the gateway runs: a connection that waits in
    their queues is taken by whoever accepts next, and so outlives a worker that dies or leaves."""

    index: int
    sockets: Sequence[socket.socket]
    worker: WorkerProcess | None = None
    """Who fills it; whoever left before may still be finishing."""
    filling: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who starts a process for it, so that there is one."""


def shares(count: int, serving: Collection[int]) -> dict[int, list[int]]:
    """For each slot whose worker serves, all the slots whose connections that one is to accept: its
    own, and its part of those whose worker does not. Empty when none serves."""
    ordered = sorted(serving)
    found = {slot: [slot] for slot in ordered}
    vacant = [slot for slot in range(count) if slot not in found] if ordered else []
    for number, slot in enumerate(vacant):
        found[ordered[number % len(ordered)]].append(slot)
    return found
