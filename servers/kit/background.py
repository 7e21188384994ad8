"""Threads that give way: fetching a version must not be felt by callers.

A gigabyte that comes in is a second and more of copying, writing and hashing, on as many processors
as there are. Those threads run at a higher niceness than the ones that answer. Where the kernel
groups processes (autogroup, containers) niceness counts between the threads of one server, which
is what is wanted here. Only for what neither holds the interpreter's lock for long nor begins
threads that answer later: loading does both (a framework's pools inherit the niceness, and nobody
without privileges gets it back), and is left alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import obstore
from obstore.store import MemoryStore

P = ParamSpec("P")
T = TypeVar("T")

_NICE = 10
"""Added: a ninth of the weight of a thread that answers, as the kernel's table has it. Not 19: they
do take the interpreter's lock for moments, and whoever waits for that waits for them."""

THREADS = max(1, min(4, (os.cpu_count() or 1) // 4))
"""Of ours, and of the storage library's. What is copied, written and hashed at once takes as many
processors, and whoever answers then waits for one, whatever the niceness: with four threads on two
cores p50 of small requests rose to 3.4 times while a version was fetched, with one to 1.3 times."""


def _give_way() -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
        os.setpriority(os.PRIO_PROCESS, thread, nice)


_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch", initializer=_give_way)


async def in_background(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As asyncio.to_thread, on threads that give way."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_pool, lambda: function(*args, **kwargs))


def let_storage_give_way() -> None:
    """The threads of the storage library as well. Must come before the first use of it in this
    process: they are begun then, and inherit the niceness of who begins them."""
    os.environ.setdefault("TOKIO_WORKER_THREADS", str(THREADS))
    _pool.submit(lambda: asyncio.run(_first_use())).result()


async def _first_use() -> None:
    await obstore.put_async(MemoryStore(), "first", b"")
