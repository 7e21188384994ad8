"""Whatever happens to a model that is started on demand: who asks is answered, silence ends it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.route import is_held
from gateway.domain.errors import Unavailable
from gateway.domain.models import Backend, ModelSpec, Scaling
from gateway.lifecycle import Lifecycle
from gateway.store.memory import MemoryStore
from tests.parts.fakes_lifecycle import (
    Emitted,
    FakeControl,
    FakeScheduler,
    FakeSource,
    LoopClock,
    published,
)
from tests.parts.jumping_loop import run_jumping
from tests.property.test_lifecycle_properties import Watched

pytestmark = pytest.mark.slow
URI = "s3://models/m"
START_S = 3.0
SCALING = Scaling(least=0, most=4, target=4.0, idle_s=120.0)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ask", "hush", "publish", "publish_broken", "kill", "source", "back", "restart"]
        ),
        st.floats(0.1, 200.0),
    ),
    max_size=8,
)


class World:
    """One model among fakes, and what is asked of it."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.store, self.source = MemoryStore(), FakeSource()
        self.scheduler, self.control = FakeScheduler(start_s=START_S), FakeControl(load_s=1.0)
        self.planes = Watched(self.control)
        self.planes._asked_at = asyncio.get_running_loop().time()
        self.versions, self.good = [1], [1]

    def make(self) -> Lifecycle:
        return Lifecycle(
            store=self.store,
            source=self.source,
            scheduler=self.scheduler,
            control=self.control,
            planes=self.planes,
            emit=Emitted(),
            clock=LoopClock(),
            rng=self.rng,
        )

    def act(self, action: str) -> None:
        match action:
            case "ask":
                self.planes.ask(self.rng.choice([0.5, 3.0, 40.0]))
                self.planes.call("m")
            case "hush":
                self.planes.ask(0.0)
            case "publish" | "publish_broken":
                self.versions.append(self.versions[-1] + 1)
                if action == "publish":
                    self.good.append(self.versions[-1])
                else:
                    self.control.broken[self.versions[-1]] = "broken"
                self.source.show(URI, *map(published, self.versions))
            case "kill":
                alive = sorted(r.id for r in self.scheduler.replicas())
                if alive:
                    self.scheduler.kill(self.rng.choice(alive))
            case "source":
                self.source.errors[URI] = Unavailable("down", reason="source_unreachable")
            case "back":
                self.source.errors.clear()

    @property
    def answers(self) -> bool:
        model = self.planes.table.models.get("m")
        return model is not None and bool(model.targets.get(model.live or 0))

    async def until(self, said, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while not said():  # noqa: ASYNC110 - looked at from outside
                await asyncio.sleep(0.25)


async def play(actions: list[tuple[str, float]], seed: int) -> None:
    world = World(seed)
    world.source.show(URI, published(1))
    await world.store.put(ModelSpec("m", URI, Backend.ONNX, scaling=SCALING), None)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(world.make().run())
        await world.until(lambda: world.answers, 30.0)
        for action, seconds in actions:
            if action == "restart":
                running.cancel()
                running = tasks.create_task(world.make().run())
            world.act(action)
            await asyncio.sleep(seconds)
            if world.planes.in_flight and not is_held(world.planes.table, "m"):
                # A kill costs a start; a replica that answers is there otherwise.
                await world.until(lambda: world.answers, 10 * START_S)
        world.act("back")
        world.act("ask")
        await world.until(lambda: world.answers, 10 * START_S)
        await world.until(lambda: world.planes.table.models["m"].live == world.good[-1], 120.0)
        world.act("hush")
        await world.until(lambda: not world.scheduler.replicas(), 600.0)
        assert is_held(world.planes.table, "m")
        assert world.planes.table.models["m"].live == world.good[-1]
        running.cancel()
    assert world.planes.wrong == []
    assert world.planes.lives == sorted(world.planes.lives)
    assert set(world.planes.lives) <= set(world.good)


@settings(max_examples=25, deadline=None)
@given(actions=ACTIONS, seed=st.integers(0, 2**32))
def test_who_asks_is_answered_and_silence_ends_it(actions, seed):
    run_jumping(play(actions, seed))
