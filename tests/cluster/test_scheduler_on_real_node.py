"""The scheduler's pods under a real kubelet and a real container runtime."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from gateway.core.placement import template_of
from gateway.domain.models import Backend, ModelSpec
from gateway.domain.replicas import Replica, ReplicaSet, ReplicaState
from tests.cluster.control_plane import ControlPlane
from tests.cluster.real_node import TINY, RealNode
from tests.parts.need import need

need(bool(importlib.util.find_spec("kubernetes")), "pip install -e '.[kubernetes,dev]'")

from gateway.schedulers.kubernetes.scheduler import (  # noqa: E402 - needs the part checked above
    KubernetesScheduler,
)
from gateway.schedulers.kubernetes.settings import KubernetesSettings  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SPEC = ModelSpec(
    "tiny",
    "s3://nowhere/tiny",
    Backend.CUSTOM,
    image=TINY,
    command=("/tiny", "serve"),
    timeout_s=1.0,
)


def wanted(replicas: int = 1, **changes: object) -> ReplicaSet:
    spec = replace(SPEC, replicas=replicas, **changes)
    return ReplicaSet(spec, template_of(spec), replicas)


async def until(
    scheduler: KubernetesScheduler, said: Callable[[Sequence[Replica]], object]
) -> Sequence[Replica]:
    async with asyncio.timeout(120):
        while not said(found := scheduler.replicas()):
            await scheduler.changed()
    return found


def in_state(found: Sequence[Replica], state: ReplicaState) -> list[Replica]:
    return [r for r in found if r.state is state]


@pytest.fixture
def settings(cluster: ControlPlane, real_node: RealNode, namespace: str) -> KubernetesSettings:
    return KubernetesSettings(
        kubeconfig=str(cluster.kubeconfig()),
        namespace=namespace,
        image_pull_policy="Never",
        leave_s=2.0,
    )


async def test_pods_listen_are_heard_scaled_down_and_deleted(
    settings: KubernetesSettings,
) -> None:
    async with KubernetesScheduler(settings) as scheduler:
        await scheduler.ensure([wanted(2)])
        found = await until(scheduler, lambda r: len(in_state(r, ReplicaState.LOADING)) == 2)
        for one in found:
            assert one.endpoint is not None
            host, _, port = one.endpoint.http.partition(":")
            assert (host.split(".")[0], port) != ("127", "")
        said = b"".join([c async for c in scheduler.logs(found[0].id, follow=False)])
        assert said == b"listening\n"
        await scheduler.ensure([wanted(1)])
        found = await until(scheduler, lambda r: in_state(r, ReplicaState.DRAINING))
        (going,) = in_state(found, ReplicaState.DRAINING)
        assert going.endpoint is not None
        await scheduler.remove(going.id)
        assert len(scheduler.replicas()) == 1
        await scheduler.ensure([])
        for one in scheduler.replicas():
            await scheduler.remove(one.id)
        found = await until(scheduler, lambda r: all(one.id.endswith("-objects") for one in r))
        for one in found:
            await scheduler.remove(one.id)
        assert scheduler.replicas() == ()


async def test_a_crash_loop_gives_its_last_words(settings: KubernetesSettings) -> None:
    async with KubernetesScheduler(settings) as scheduler:
        await scheduler.ensure([wanted(command=("/tiny", "fail", "no", "model", "here"))])
        found = await until(
            scheduler,
            lambda r: r and "no model here" in r[0].reason and r[0].restarts > 0,
        )
        (one,) = found
        assert one.state is ReplicaState.FAILED
        assert one.id.endswith(f".{one.restarts}")
        assert "its container exited with code 3" in one.reason
        await scheduler.ensure([])


async def test_an_image_that_is_not_there_is_named(settings: KubernetesSettings) -> None:
    async with KubernetesScheduler(settings) as scheduler:
        await scheduler.ensure([wanted(image="localhost/none:1")])
        (one,) = await until(scheduler, lambda r: r and in_state(r, ReplicaState.FAILED))
        assert "image localhost/none:1 cannot be had" in one.reason
        await scheduler.ensure([])


async def test_a_before_command_that_fails_says_so(settings: KubernetesSettings) -> None:
    """The tiny image has no shell, which is what goes wrong here."""
    async with KubernetesScheduler(settings) as scheduler:
        await scheduler.ensure([wanted(before="true")])
        (one,) = await until(scheduler, lambda r: r and in_state(r, ReplicaState.FAILED))
        assert "/bin/sh" in one.reason
        await scheduler.ensure([])
