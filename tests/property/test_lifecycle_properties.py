"""Whatever happens to a model, its loops settle on what was asked, and never answer wrongly."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.errors import Unavailable
from gateway.domain.models import Backend, ModelSpec, VersionState
from gateway.lifecycle import Lifecycle, LifecycleSettings
from gateway.store.memory import MemoryStore
from tests.parts.decided_anew import compare_with_deciding_anew
from tests.parts.fakes_lifecycle import (
    Emitted,
    FakeControl,
    FakePlanes,
    FakeScheduler,
    FakeSource,
    LoopClock,
    published,
)

pytestmark = pytest.mark.slow
URI = "s3://models/m"
QUICK = LifecycleSettings(
    poll_s=0.01,
    first_retry_s=0.01,
    last_retry_s=0.02,
    busy_report_s=0.005,
    steady_report_s=0.01,
    resync_s=0.05,
)
ACTIONS = st.lists(
    st.sampled_from(["publish", "publish_broken", "kill", "scale", "source", "empty", "restart"]),
    max_size=8,
)


class Watched(FakePlanes):
    """Checks every table against what the replicas hold at that moment."""

    def __init__(self, control: FakeControl) -> None:
        super().__init__()
        self.control = control
        self.lives: list[int] = []
        self.wrong: list[str] = []

    def publish(self, table):
        super().publish(table)
        model = table.models.get("m")
        if model is None:
            return
        if model.live is not None and self.lives[-1:] != [model.live]:
            self.lives.append(model.live)
        for version, targets in model.targets.items():
            for target in targets:
                held = self.control.server(target.endpoint).states.get(version)
                if held is None or held.state is not VersionState.READY:
                    self.wrong.append(f"{version} at {target.replica_id}")


async def play(actions: list[str], seed: int) -> None:
    rng = Random(seed)
    store, source, emitted = MemoryStore(), FakeSource(), Emitted()
    scheduler, control = FakeScheduler(start_s=0.005), FakeControl(load_s=0.005)
    planes = Watched(control)
    versions, good, replicas = [1], [1], 2
    source.show(URI, published(1))
    await store.put(ModelSpec("m", URI, Backend.ONNX, replicas=replicas), None)

    def make() -> Lifecycle:
        return Lifecycle(
            store=store,
            source=source,
            scheduler=scheduler,
            control=control,
            planes=planes,
            emit=emitted,
            clock=LoopClock(),
            rng=rng,
            settings=QUICK,
        )

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        lifecycle = make()
        running = tasks.create_task(lifecycle.run())
        for action in actions:
            await asyncio.sleep(rng.random() * 0.05)
            match action:
                case "publish" | "publish_broken":
                    versions.append(versions[-1] + 1)
                    if action == "publish":
                        good.append(versions[-1])
                    else:
                        control.broken[versions[-1]] = "broken"
                    source.show(URI, *map(published, versions))
                case "kill":
                    alive = sorted(r.id for r in scheduler.replicas())
                    if alive:
                        scheduler.kill(rng.choice(alive))
                case "scale":
                    replicas = rng.randint(1, 3)
                    (record,) = await store.models()
                    spec = ModelSpec("m", URI, Backend.ONNX, replicas=replicas)
                    await store.put(spec, record.generation)
                    lifecycle.poke("m")
                case "source":
                    source.errors[URI] = Unavailable("down", reason="source_unreachable")
                case "empty":
                    source.show(URI)
                case "restart":
                    running.cancel()
                    lifecycle = make()
                    running = tasks.create_task(lifecycle.run())
        source.errors.clear()
        source.show(URI, *map(published, versions))
        lifecycle.poke("m")

        def settled() -> bool:
            model = planes.table.models.get("m")
            return (
                model is not None
                and model.live == good[-1]
                and len(model.targets.get(good[-1], ())) == replicas
                and len(scheduler.replicas()) == replicas
            )

        while not settled():  # noqa: ASYNC110 - looked at from outside
            await asyncio.sleep(0.005)
        running.cancel()
    assert planes.wrong == []
    assert planes.lives == sorted(planes.lives)
    assert set(planes.lives) <= set(good)


@settings(max_examples=25, deadline=None)
@given(actions=ACTIONS, seed=st.integers(0, 2**32))
def test_a_model_settles_on_the_newest_good_version_whatever_happens(actions, seed):
    with pytest.MonkeyPatch.context() as patch:
        compared = compare_with_deciding_anew(patch)
        asyncio.run(play(actions, seed))
    assert compared.wrong == []
