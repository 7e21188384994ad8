"""How long the reconcile loop keeps the event loop, with hundreds of models, while one is swapped.

Requests are served by the same event loop, so whatever it is kept for, some request waits. The
real lifecycle runs on fakes of everything around it (replicas that report at once, a scheduler, a
store in memory), whose own time is included; a heartbeat of a millisecond measures the delays. They
are shown beside those of the same fleet while nothing changes, and of one model.

    python -m loadtests.many_turns                500 models; --scale 0.2: 100
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from random import Random
from time import perf_counter

import uvloop

from gateway.domain.models import Backend, ModelSpec
from gateway.lifecycle import Lifecycle, LifecycleSettings
from gateway.store.memory import MemoryStore
from loadtests.scenario import Settings, run_alone
from loadtests.summary import Line, Outcome, Spread, percentile, table
from tests.parts.fakes_lifecycle import (
    Emitted,
    FakeControl,
    FakePlanes,
    FakeScheduler,
    FakeSource,
    LoopClock,
    published,
)

MODELS = 500
REPLICAS = 4
GOAL_MS = 50.0
"""Longest delay: a twentieth of a second is what a garbage collection would cost as well."""
_BEAT_S = 0.001
_WATCHED_S = 2.0
_VERSIONS = 3


async def _delays_ms(seconds: float) -> list[float]:
    """By how much each beat of that time came late."""
    loop, late = asyncio.get_running_loop(), []
    end = loop.time() + seconds
    while loop.time() < end:
        began = perf_counter()
        await asyncio.sleep(_BEAT_S)
        late.append(max(0.0, perf_counter() - began - _BEAT_S) * 1e3)
    return late


async def _watched(models: int) -> tuple[list[float], list[float]]:
    """Delays while nothing changes, and while one model is swapped, in milliseconds."""
    source, planes, store = FakeSource(), FakePlanes(), MemoryStore()
    lifecycle = Lifecycle(
        store=store,
        source=source,
        scheduler=FakeScheduler(),
        control=FakeControl(),
        planes=planes,
        emit=Emitted(),
        clock=LoopClock(),
        rng=Random(1),
        settings=replace(LifecycleSettings(), poll_s=60.0),
    )
    names = [f"m{n}" for n in range(models)]
    shown = [published(version + 1) for version in range(_VERSIONS)]
    for name in names:
        source.show(f"s3://{name}", *shown)
        spec = ModelSpec(name, f"s3://{name}", Backend.ONNX, replicas=REPLICAS)
        await store.put(spec, None)

    def live(name: str) -> int | None:
        view = lifecycle.view(name)
        return view.live if view is not None and view.converged else None

    async with asyncio.TaskGroup() as group:
        running = group.create_task(lifecycle.run())
        while any(live(name) != _VERSIONS for name in names):  # noqa: ASYNC110 - from outside
            await asyncio.sleep(0.1)
        still = await _delays_ms(_WATCHED_S)
        source.show(f"s3://{names[0]}", *shown, published(_VERSIONS + 1))
        lifecycle.poke(names[0])
        swapped = await _delays_ms(_WATCHED_S)
        if live(names[0]) != _VERSIONS + 1:
            raise SystemExit("the version that was published is not live")
        running.cancel()
    return still, swapped


def measure(settings: Settings) -> Outcome:
    """One fleet of so many, and one of a single model, in turn."""
    models, rows = settings.scaled(MODELS), []
    for round_, count in settings.interleaved("turns", (models, 1), str, warm_up=False):
        still, swapped = uvloop.run(_watched(count))
        rows.append(
            {
                "round": round_,
                "models": count,
                "still_max_ms": max(still),
                "swap_p99_ms": percentile(swapped, 0.99),
                "swap_max_ms": max(swapped),
            }
        )
    of_many = Spread.of(row["swap_max_ms"] for row in rows if row["models"] == models)
    of_one = Spread.of(row["swap_max_ms"] for row in rows if row["models"] == 1)
    line = Line(
        f"longest delay while one of {models} models is swapped",
        "ms",
        of_many,
        GOAL_MS,
        note=f"of one model: {of_one.shown()}",
    )
    return Outcome("many-turns", [line], rows, {"models": models, "replicas": REPLICAS})


def show(outcome: Outcome) -> str:
    """The rows as text."""
    header = ("models", "round", "still: max ms", "swap: p99 ms", "max ms")
    keys = ("still_max_ms", "swap_p99_ms", "swap_max_ms")
    cells = [
        [str(r["models"]), str(r["round"]), *(f"{r[k]:.1f}" for k in keys)] for r in outcome.rows
    ]
    return table(header, cells)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON; 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    return run_alone(parser, argv, measure, show, ())


if __name__ == "__main__":
    sys.exit(main())
