"""The Kubernetes scheduler with many models, as a process of its own, whose memory can be told.

    python -m tests.cluster.scale_on_pods KUBECONFIG NAMESPACE MODELS REPLICAS STEADY_S

Writes a line of JSON when all pods are there, one after a steady time, one after a change of one
model, and one when all is gone; before each it waits for a line on its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

from gateway.core.placement import template_of
from gateway.domain.models import Backend, ModelSpec
from gateway.domain.replicas import Replica, ReplicaSet, ReplicaState
from gateway.schedulers.kubernetes.scheduler import KubernetesScheduler
from gateway.schedulers.kubernetes.settings import KubernetesSettings

LONGEST_S = 900.0


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def until(
    scheduler: KubernetesScheduler, said: Callable[[Sequence[Replica]], object]
) -> None:
    async with asyncio.timeout(LONGEST_S):
        while not said(scheduler.replicas()):
            await scheduler.changed()
            await asyncio.sleep(0.05)  # as the lifecycle does: many changes are one look


async def go_on() -> None:
    await asyncio.to_thread(sys.stdin.readline)


def tell(scheduler: KubernetesScheduler, begun: float, cpu: float, **more: object) -> None:
    calls = {f"{verb} {resource}": n for (verb, resource), n in scheduler.api.calls.items()}
    said = {"s": perf_counter() - begun, "cpu_s": process_time() - cpu, "rss": rss_bytes()}
    print(json.dumps({**said, "calls": calls, **more}), flush=True)


async def main(
    kubeconfig: str, namespace: str, models: int, replicas: int, steady_s: float
) -> None:
    settings = KubernetesSettings(
        kubeconfig=kubeconfig, namespace=namespace, leave_s=2.0, watch_s=steady_s / 3
    )
    desired = []
    for index in range(models):
        spec = ModelSpec(f"model-{index}", f"s3://models/{index}", Backend.ONNX, replicas=replicas)
        desired.append(ReplicaSet(spec, template_of(spec), replicas))
    async with KubernetesScheduler(settings) as scheduler:
        tell(scheduler, perf_counter(), process_time())
        await go_on()
        begun, cpu = perf_counter(), process_time()
        await scheduler.ensure(desired)
        await until(scheduler, lambda seen: _listening(seen) == models * replicas)
        tell(scheduler, begun, cpu)
        await go_on()
        begun, cpu = perf_counter(), process_time()
        for _ in range(round(steady_s / 5)):  # the lifecycle asks every 5 s whatever happens
            await scheduler.ensure(desired)
            await asyncio.sleep(5.0)
        tell(scheduler, begun, cpu)
        await go_on()
        begun, cpu = perf_counter(), process_time()
        desired[0] = replace(desired[0], wanted=replicas + 1)
        await scheduler.ensure(desired)
        await until(scheduler, lambda seen: _listening(seen) == models * replicas + 1)
        tell(scheduler, begun, cpu)
        await go_on()
        begun, cpu = perf_counter(), process_time()
        await scheduler.ensure([])
        await _remove_all(scheduler)
        tell(scheduler, begun, cpu)
        await go_on()


def _listening(seen: Sequence[Replica]) -> int:
    return Counter(r.state for r in seen)[ReplicaState.LOADING]


async def _remove_all(scheduler: KubernetesScheduler) -> None:
    """As the lifecycle does: whatever drains is removed, until there is nothing."""
    asked: set[str] = set()
    async with asyncio.timeout(LONGEST_S), asyncio.TaskGroup() as tasks:
        while seen := scheduler.replicas():
            for one in seen:
                if one.state is ReplicaState.DRAINING and one.id not in asked:
                    asked.add(one.id)
                    tasks.create_task(scheduler.remove(one.id))
            await scheduler.changed()
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    where, space, *numbers = sys.argv[1:]
    asyncio.run(main(where, space, int(numbers[0]), int(numbers[1]), float(numbers[2])))
