"""A canary with pods of its own, through what a user types and under load: nobody notices."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.domain.replicas import CANARY_GROUP, ReplicaState
from gateway.schedulers.kubernetes.settings import KubernetesSettings
from tests.cluster.api import Api, Json
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_nodes import MadeNodes
from tests.cluster.waiting import until
from tests.parts.local_replicas import desired, listening
from tests.parts.need import need

need(
    all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime", "kubernetes")),
    "pip install -e '.[onnx,kubernetes,dev]'",
)
# All of these need the parts checked above.
from gateway.schedulers.kubernetes.scheduler import KubernetesScheduler  # noqa: E402
from tests.cluster.gateway_on_pods import (  # noqa: E402
    IMAGES,
    ONNX,
    Load,
    OnPods,
    gateway_on_pods,
)
from tests.cluster.port_on_pods import IMAGE  # noqa: E402
from tests.cluster.port_on_pods import on_pods as on_two_nodes  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.onnx, pytest.mark.timeout(300)]

CANARY = ("--replicas", "2", "--canary", "50", "--canary-replicas", "1")
LASTS = ("--canary-samples", "10000000", "--canary-step-s", "1")
"""A step that does not end by itself, however slow the machine is."""
PASSES = ("--canary-samples", "40", "--canary-step-s", "1")


def rollout(on_pods: OnPods) -> Json:
    """The last one; of a phase that is none where there was none yet."""
    shown = on_pods.gateway.cli("rollout", "status", "m", "-o", "json", check=False)
    return json.loads(shown.stdout) if shown.returncode == 0 else {"phase": ""}


def versions(on_pods: OnPods, group: str) -> list[list[int]]:
    return [r["versions"] for r in on_pods.replicas("m") if r["group"] == group]


def is_selected(selector: Json, pod: Json) -> bool:
    return bool(selector.items() <= pod["metadata"]["labels"].items())


def promoted(on_pods: OnPods, kube: Api) -> None:
    """Version 2, from its own pod to all of the model's."""
    space = on_pods.namespace
    own = {r["id"] for r in on_pods.replicas("m")}
    on_pods.publish("m", 2)
    until(lambda: rollout(on_pods)["phase"] == "progressing")

    # It is held by one pod more, which nothing of the model's own selects.
    assert (versions(on_pods, "stable"), versions(on_pods, "canary")) == ([[1], [1]], [[2]])
    (canary,) = [r for r in on_pods.replicas("m") if r["group"] == "canary"]
    pods = {p["metadata"]["name"]: p for p in kube.list("pods", space)}
    assert pods.keys() == {*own, canary["id"]}
    service = kube.get("services", space, "m")["spec"]["selector"]
    budget = kube.get("poddisruptionbudgets", space, "m")["spec"]["selector"]["matchLabels"]
    for selector in (service, budget):
        assert {name for name, pod in pods.items() if is_selected(selector, pod)} == own
    made = {x for x in on_pods.left() if ".canary" in x and not x.startswith("replicasets/")}
    assert made == {
        "deployments/m.canary",
        "poddisruptionbudgets/m.canary",
        f"pods/{canary['id']}",
    }
    assert on_pods.gateway.cli("logs", "m", "--replica", canary["id"]).stdout

    # Half of the requests are its: of 200, 60 to 140 are more than five deviations to both sides.
    now = until(lambda: (r := rollout(on_pods))["canary"]["requests"] >= 100 and r)
    share = now["canary"]["requests"] / (now["canary"]["requests"] + now["stable"]["requests"])
    assert 0.3 < share < 0.7
    assert versions(on_pods, "stable") == [[1], [1]]

    on_pods.deploy("m", *CANARY, *PASSES)
    until(lambda: rollout(on_pods)["phase"] == "succeeded")
    until(lambda: not [x for x in on_pods.left() if ".canary" in x])
    # The others are where they were, and have it now.
    until(lambda: versions(on_pods, "stable") == [[2], [2]])
    assert {r["id"] for r in on_pods.replicas("m")} == own


async def test_the_next_gateway_finds_a_canarys_pods_and_ends_them(
    cluster: ControlPlane, kube: Api, namespace: str
) -> None:
    """Under the longest name that a model can have, and where a quota left room for one of two."""
    name = "m" * 46
    kube.create("resourcequotas", namespace,
                {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "2"}}})  # fmt: skip
    until(lambda: kube.get("resourcequotas", namespace, "few")["status"].get("hard"))
    own = desired(name, **IMAGE)
    both = [own, desired(name, 2, **IMAGE, group=CANARY_GROUP)]
    async with on_two_nodes(cluster, namespace) as (first, _), asyncio.timeout(120):
        await first.ensure(both[:1])
        await _until(first, lambda: len(listening(first)) == 1)
        await first.ensure(both)
        await _until(first, lambda: len(listening(first)) == 2 and len(first.replicas()) == 3)
        found = {r.id: r.group for r in listening(first)}
        assert sorted(found.values()) == ["", CANARY_GROUP]
        (absent,) = [r for r in first.replicas() if r.id not in found]
        assert (absent.model, absent.group, absent.state) == (
            name, CANARY_GROUP, ReplicaState.FAILED,
        )  # fmt: skip
        assert "exceeded quota" in absent.reason
        kubeconfig = str(cluster.kubeconfig())
        settings = KubernetesSettings(kubeconfig=kubeconfig, namespace=namespace, leave_s=2.0)
        async with KubernetesScheduler(settings) as second:
            assert {r.id: r.group for r in listening(second)} == found
            await second.ensure([own])
            (canary,) = [i for i, group in found.items() if group]
            states = {r.id: r.state for r in second.replicas()}
            assert states.pop(canary) is ReplicaState.DRAINING
            assert ReplicaState.DRAINING not in states.values()
            first.stand_down()
            await second.remove(canary)
            await _until(second, lambda: {r.group for r in second.replicas()} == {""})
    assert [d["metadata"]["name"] for d in kube.list("deployments", namespace)] == [name]


async def _until(scheduler: KubernetesScheduler, is_so: Callable[[], bool]) -> None:
    while not is_so():
        await scheduler.changed()


@pytest.mark.long
def test_a_canary_in_its_own_pod_is_promoted_and_costs_no_request(
    cluster: ControlPlane, kube: Api, tmp_path: Path
) -> None:
    name = cluster.namespace()
    with MadeNodes(cluster, IMAGES) as nodes:
        nodes.add("canary-a")
        nodes.add("canary-b")
        with gateway_on_pods(cluster, name, tmp_path) as on_pods:
            on_pods.publish("m", 1)
            on_pods.deploy("m", *CANARY, *LASTS)
            with Load(on_pods.gateway, "m") as load:
                promoted(on_pods, kube)
            assert (load.summary.failed, load.summary.errors) == (0, ())
            assert load.versions == {1, 2}
            print(load.summary)
            on_pods.gateway.cli("delete", "model", "m")
            until(lambda: not on_pods.left())
    cluster.api.delete("namespaces", None, name)


NEXT = "localhost/tests/server-onnx:2"
"""The same program under another name: what is run is another image."""


def images(on_pods: OnPods, kube: Api, deployment: str) -> set[str]:
    """What the pods of a Deployment are made of; none where there is no such Deployment."""
    pods = kube.list("pods", on_pods.namespace)
    own = "-".join((deployment, ""))
    named = [p for p in pods if p["metadata"]["name"].startswith(own)]
    return {c["image"] for p in named for c in p["spec"]["containers"]}


def changed(on_pods: OnPods, kube: Api) -> None:
    """Another image: in the canary's pod, then in all; and one that nobody has, taken back."""
    own = {r["id"] for r in on_pods.replicas("m")}
    on_pods.deploy("m", "--image", NEXT, "--no-wait")
    until(lambda: rollout(on_pods)["phase"] == "progressing")
    assert (images(on_pods, kube, "m"), images(on_pods, kube, "m.canary")) == ({ONNX}, {NEXT})
    assert (versions(on_pods, "stable"), versions(on_pods, "canary")) == ([[1], [1]], [[1]])
    shown = rollout(on_pods)
    assert shown["template"]["changes"] == [f"image none → {NEXT}"]
    assert own <= {r["id"] for r in on_pods.replicas("m")}
    now = until(lambda: (r := rollout(on_pods))["canary"]["requests"] >= 100 and r)
    share = now["canary"]["requests"] / (now["canary"]["requests"] + now["stable"]["requests"])
    assert 0.3 < share < 0.7

    on_pods.deploy("m", *PASSES)
    until(lambda: rollout(on_pods)["phase"] == "succeeded")
    until(lambda: not [x for x in on_pods.left() if ".canary" in x])
    until(lambda: images(on_pods, kube, "m") == {NEXT} and len(on_pods.replicas("m")) == 2)
    assert not own & {r["id"] for r in on_pods.replicas("m")}

    own = {r["id"] for r in on_pods.replicas("m")}
    on_pods.deploy("m", "--image", "localhost/tests/nobody-has-it:1", *LASTS, "--no-wait")
    until(lambda: "canary replica m.canary" in (rollout(on_pods)["reason"] or ""))
    on_pods.gateway.cli("rollout", "abort", "m")
    until(lambda: rollout(on_pods)["phase"] == "failed")
    until(lambda: not [x for x in on_pods.left() if ".canary" in x])
    assert {r["id"] for r in on_pods.replicas("m")} == own
    assert images(on_pods, kube, "m") == {NEXT}
    assert "was rolled back" in on_pods.gateway.cli("describe", "model", "m").stdout


@pytest.mark.long
def test_another_image_is_tried_in_a_pod_of_its_own_and_costs_no_request(
    cluster: ControlPlane, kube: Api, tmp_path: Path
) -> None:
    name = cluster.namespace()
    with MadeNodes(cluster, {**IMAGES, NEXT: IMAGES[ONNX]}) as nodes:
        nodes.add("image-a")
        nodes.add("image-b")
        with gateway_on_pods(cluster, name, tmp_path) as on_pods:
            on_pods.publish("m", 1)
            on_pods.deploy("m", *CANARY, *LASTS)
            with Load(on_pods.gateway, "m") as load:
                changed(on_pods, kube)
            assert (load.summary.failed, load.summary.errors) == (0, ())
            print(load.summary)
            on_pods.gateway.cli("delete", "model", "m")
            until(lambda: not on_pods.left())
    cluster.api.delete("namespaces", None, name)
