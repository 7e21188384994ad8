from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from random import Random

import pytest

from gateway.domain.models import Backend, ModelSpec
from gateway.lifecycle import Lifecycle, LifecycleSettings
from gateway.store.memory import MemoryStore
from tests.parts.decided_anew import Compared, compare_with_deciding_anew
from tests.parts.fakes_lifecycle import (
    Emitted,
    FakeControl,
    FakePlanes,
    FakeScheduler,
    FakeSource,
    LoopClock,
)

QUICK = LifecycleSettings(
    poll_s=0.02,
    first_retry_s=0.02,
    last_retry_s=0.05,
    busy_report_s=0.01,
    steady_report_s=0.02,
    retell_s=0.2,
    resync_s=0.2,
    error_retry_s=0.02,
    rollout_look_s=0.01,
)
URI = "s3://models/m"


@dataclass
class World:
    """A lifecycle with fakes all around."""

    store: MemoryStore = field(default_factory=MemoryStore)
    source: FakeSource = field(default_factory=FakeSource)
    scheduler: FakeScheduler = field(default_factory=FakeScheduler)
    control: FakeControl = field(default_factory=FakeControl)
    planes: FakePlanes = field(default_factory=FakePlanes)
    emitted: Emitted = field(default_factory=Emitted)

    def __post_init__(self) -> None:
        self.lifecycle = self.make()

    def make(self) -> Lifecycle:
        return Lifecycle(
            store=self.store,
            source=self.source,
            scheduler=self.scheduler,
            control=self.control,
            planes=self.planes,
            emit=self.emitted,
            clock=LoopClock(),
            rng=Random(1),
            settings=QUICK,
        )

    async def deploy(self, name: str = "m", *, expected: int | None = None, **changes) -> None:
        spec = ModelSpec(name, URI, Backend.ONNX, **changes)
        await self.store.put(spec, expected)
        self.lifecycle.poke(name)

    async def until(self, said: Callable[[], object], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not said():  # noqa: ASYNC110 - a test looks at what has no event of its own
                await asyncio.sleep(0.005)

    def live(self, name: str = "m"):
        model = self.planes.table.models.get(name)
        return None if model is None else model.live

    def routed(self, version: int, name: str = "m") -> set[str]:
        model = self.planes.table.models.get(name)
        return set() if model is None else {t.replica_id for t in model.targets.get(version, ())}

    def converged(self, name: str = "m") -> bool:
        view = self.lifecycle.view(name)
        return view is not None and view.converged


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compared]:
    """What is passed over in this test is what deciding anew would come to."""
    found = compare_with_deciding_anew(monkeypatch)
    yield found
    assert found.wrong == []


@pytest.fixture
async def world(compared: Compared) -> AsyncIterator[World]:
    world = World()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(world.lifecycle.run())
        yield world
        task.cancel()
