"""Waits for what a model's event stream says. Asking again and again would be work of its own for
the gateway, and just while its latencies are looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from gateway.client.control import ControlClient

Key = tuple[str, int | None]
"""Type and version."""


@dataclass(slots=True)
class Watching:
    """What has happened, with the time at which it was heard of, on the monotonic clock."""

    heard: list[tuple[Key, float]] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, kind: str, version: int | None, since_s: float) -> float:
        """When that was heard, at or after `since_s`; waits for it."""
        async with asyncio.timeout(300):
            while True:
                for key, at_s in self.heard:
                    if key == (kind, version) and at_s >= since_s:
                        return at_s
                self._more.clear()
                await self._more.wait()

    async def follow(self, control: ControlClient, model: str) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        last = (await control.events(model=model, limit=1))[-1]["seq"]
        async with aclosing(control.watch(after=last, model=model)) as events:
            async for event in events:
                self.heard.append(((event["type"], event["version"]), loop.time()))
                self._more.set()


@asynccontextmanager
async def watching(control: ControlClient, model: str) -> AsyncIterator[Watching]:
    """Follow a deployed model's events within the block."""
    found = Watching()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(found.follow(control, model))
        yield found
        following.cancel()
