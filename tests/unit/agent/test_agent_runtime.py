"""The agent's runtime while TensorFlow Serving takes its time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gateway.domain.models import VersionState, VersionStatus
from servers.agent.runtime import AgentRuntime, WaitSettings
from servers.agent.tfs import Tfs


class SlowTfs(Tfs):
    """One that answers a reload when it is let go, as the real one does once models are loaded."""

    def __init__(self) -> None:
        super().__init__("nowhere:1")
        self.asked, self.loaded = asyncio.Event(), asyncio.Event()
        self.configured: list[dict[str, frozenset[int]]] = []

    async def statuses(self, model: str) -> dict[int, VersionStatus]:
        held = self.configured[-1].get(model, frozenset()) if self.loaded.is_set() else ()
        return {v: VersionStatus(v, VersionState.READY) for v in held}

    async def reload(self, models: Any, timeout_s: float) -> str:
        self.configured.append({name: held.versions for name, held in models.items()})
        self.asked.set()
        await self.loaded.wait()
        return ""


async def test_the_loop_can_look_at_what_is_held_while_a_configuration_is_on_its_way():
    # The loop makes the call that the loading thread waits for: a lock that both need ends both.
    tfs = SlowTfs()
    runtime = AgentRuntime(tfs, WaitSettings(look_every_s=0.01))
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        loading = tasks.create_task(asyncio.to_thread(runtime.load, Path("/shared/m/1")))
        await tfs.asked.wait()
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(runtime.available) == {"m": frozenset()}
        tfs.loaded.set()
        await loading
    assert runtime.available() == {"m": frozenset({1})}
    await tfs.aclose()


async def test_configurations_are_sent_one_after_the_other_and_the_last_is_the_newest():
    tfs = SlowTfs()
    runtime = AgentRuntime(tfs, WaitSettings(look_every_s=0.01))
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(asyncio.to_thread(runtime.load, Path("/shared/m/1")))
        await tfs.asked.wait()
        second = tasks.create_task(asyncio.to_thread(runtime.load, Path("/shared/m/2")))
        while len(runtime.available()["m"]) + len(runtime._held["m"]) < 2:  # noqa: ASYNC110 - a thread
            await asyncio.sleep(0.01)
        assert len(tfs.configured) == 1
        tfs.loaded.set()
        await first
        await second
    assert tfs.configured[-1] == {"m": frozenset({1, 2})}
    await tfs.aclose()
