"""The output of a pod's containers, as one stream or each by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing

from gateway.schedulers.kubernetes import names
from gateway.schedulers.kubernetes.pods import Pod

Read = Callable[[str, bool], AsyncGenerator[bytes, None]]
"""Reads one container's output by its name; whether to follow it."""


def order(pod: Pod) -> list[str]:
    """The containers that have written anything, the server's last: that is the one to follow."""
    begun = [c for c in (*pod.prepare, *pod.containers) if c.is_running or c.exit_code is not None]
    return sorted((c.name for c in begun), key=lambda name: name == names.SERVER)


async def read(containers: Sequence[str], read_one: Read, *, follow: bool) -> AsyncIterator[bytes]:
    """One after the other; with `follow`, on at the last of them until it ends."""
    for name in containers:
        async with aclosing(read_one(name, follow and name == containers[-1])) as chunks:
            async for chunk in chunks:
                yield chunk


async def one(
    read_one: Callable[[], AsyncGenerator[bytes, None]],
    has_begun: Callable[[], bool],
    begun: Callable[[], Awaitable[None]] | None,
) -> AsyncIterator[bytes]:
    """One container's output. One that has not begun has none; with `begun` it is waited for."""
    if begun is not None:
        await begun()
    if has_begun():
        async with aclosing(read_one()) as chunks:
            async for chunk in chunks:
                yield chunk
