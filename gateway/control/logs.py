"""The output of a model's replicas, one or all of them in one stream.

Nothing is queued: each replica's task writes for itself, line by line, and a slow reader slows the
reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

from gateway.domain.errors import NotFound
from gateway.ports import Scheduler

MAX_LINE = 64 * 1024
"""Bytes of one line; a longer one is cut into several, for a program may never write a newline."""

Write = Callable[[bytes], Awaitable[None]]


async def lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Chunks cut into lines, each with its newline."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
        while len(rest) > MAX_LINE:
            yield rest[:MAX_LINE] + b"\n"
            rest = rest[MAX_LINE:]
    if rest:
        yield rest + b"\n"


async def copy(
    scheduler: Scheduler, replica_ids: Sequence[str], write: Write, *, prefix: bool, follow: bool
) -> None:
    """Write what the replicas have written; with `follow`, go on for as long as they live.

    Without `follow` one replica comes after the other; with it, lines come as they are written, of
    the replicas that there were at the beginning.
    """
    if not prefix:
        for replica_id in replica_ids:
            async for chunk in scheduler.logs(replica_id, follow=follow):
                await write(chunk)
        return
    if not follow:
        for replica_id in replica_ids:
            await _prefixed(scheduler, replica_id, write, follow=False)
        return
    turn = asyncio.Lock()  # lines of several tasks must not mix

    async def in_turn(line: bytes) -> None:
        async with turn:
            await write(line)

    async with asyncio.TaskGroup() as group:
        for replica_id in replica_ids:
            group.create_task(_prefixed(scheduler, replica_id, in_turn, follow=True))


async def _prefixed(scheduler: Scheduler, replica_id: str, write: Write, *, follow: bool) -> None:
    try:
        async for line in lines(scheduler.logs(replica_id, follow=follow)):
            await write(f"[{replica_id}] ".encode() + line)
    except NotFound as gone:  # removed since it was listed; the others go on
        await write(f"[{replica_id}] {gone.message}\n".encode())
