"""Models as pods, through what a user types: deployed, scaled, swapped, rolled, deleted."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator

import pytest

from tests.cluster.api import Api
from tests.cluster.audit import counted
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_nodes import MadeNodes
from tests.cluster.waiting import until
from tests.parts.need import need

need(
    all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime", "kubernetes")),
    "pip install -e '.[onnx,kubernetes,dev]'",
)
from tests.cluster.gateway_on_pods import (  # noqa: E402 - needs the parts checked above
    IMAGES,
    Load,
    OnPods,
    gateway_on_pods,
)

pytestmark = [pytest.mark.slow, pytest.mark.onnx, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes(cluster: ControlPlane) -> Iterator[MadeNodes]:
    with MadeNodes(cluster, IMAGES) as made:
        yield made


@pytest.fixture(scope="module")
def on_pods(
    cluster: ControlPlane, nodes: MadeNodes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnPods]:
    name = cluster.namespace()
    folder = tmp_path_factory.mktemp("on-pods")
    with gateway_on_pods(cluster, name, folder) as running:
        yield running
    cluster.api.delete("namespaces", None, name)


def test_three_replicas_on_two_gpu_nodes(on_pods: OnPods, nodes: MadeNodes, kube: Api) -> None:
    """From the deploy, with a GPU too few at first, to the delete."""
    gateway, m = on_pods.gateway, "resnet"
    nodes.add("gpu-a", gpus=1)
    nodes.add("gpu-b", gpus=1)
    on_pods.publish(m, 1)

    # One pod too many for two GPUs: the deploy says what it waits for, and the others answer.
    tried = on_pods.deploy(m, "--replicas", "3", "--gpus", "1", "--timeout", "15", check=False)
    assert tried.returncode == 1
    assert "0/2 nodes are available: 2 Insufficient nvidia.com/gpu" in tried.stderr
    assert "ready 2/3" in tried.stderr
    described = " ".join(gateway.cli("describe", "model", m).stdout.split())
    assert "2 Insufficient nvidia.com/gpu" in described
    (pending,) = on_pods.replicas(m, "starting")
    assert "Insufficient nvidia.com/gpu" in pending["reason"]
    for protocol in ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"):
        answer = gateway.cli("predict", m, "--data", "[[41.0]]", "--protocol", protocol)
        assert "42" in answer.stdout
    pods = {p["status"]["podIP"]: p for p in kube.list("pods", on_pods.namespace)
            if p["status"].get("podIP")}  # fmt: skip
    ready = on_pods.replicas(m, "ready")
    assert {r["endpoint"].split(":")[0] for r in ready} == set(pods)
    assert {p["spec"]["nodeName"] for p in pods.values()} == {"gpu-a", "gpu-b"}

    # A third GPU: the same deploy is now done.
    nodes.add("gpu-c", gpus=1)
    assert "on 3 replicas" in on_pods.deploy(m, "--replicas", "3", "--gpus", "1").stdout
    # In the log of events as well, each reason once and not at every look, and that it is over:
    # while the third node was new, that it was not ready yet is another reason.
    kinds = ("replica.waiting", "replica.resumed")
    told = [e for e in gateway.get("events", m) if e["type"] in kinds]
    assert [e["type"] for e in told[:1] + told[-1:]] == list(kinds)
    assert told[0]["message"] == (
        f"replica {pending['id']} is waiting: "
        "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    )
    assert len({e["message"] for e in told}) == len(told) <= 3
    assert "2 Insufficient nvidia.com/gpu" in described.partition("Events")[2]

    _changed_under_load(on_pods, kube, m)

    # Deleted: nothing of ours is left.
    gateway.cli("delete", "model", m)
    until(lambda: not on_pods.left())
    until(lambda: gateway.cli("describe", "model", m, check=False).returncode == 1)
    for node in ("gpu-a", "gpu-b", "gpu-c"):
        nodes.remove(node)


def _changed_under_load(on_pods: OnPods, kube: Api, m: str) -> None:
    """Scaled, swapped and rolled out, and no request notices."""
    with Load(on_pods.gateway, m) as load:
        # Scaled down and up again.
        on_pods.gateway.cli("scale", "model", m, "--replicas", "1")
        until(lambda: len(kube.list("pods", on_pods.namespace)) == 1)
        on_pods.deploy(m, "--replicas", "3")
        # Hot swap, in the same pods.
        names = {r["id"] for r in on_pods.replicas(m)}
        on_pods.publish(m, 2)
        until(lambda: 2 in load.versions)
        assert {r["id"] for r in on_pods.replicas(m)} == names
        # Canary: a part of the traffic, then all of it.
        on_pods.deploy(m, "--canary", "50", "--canary-samples", "20", "--canary-step-s", "1")
        on_pods.publish(m, 3)
        until(lambda: _phase(on_pods, m) == "succeeded", 120)
        until(lambda: 3 in load.versions)
    assert (load.summary.failed, load.summary.errors) == (0, ())
    assert load.versions == {1, 2, 3}
    print(load.summary)


def test_a_gateway_that_is_started_again_has_nothing_to_put_back(
    on_pods: OnPods, nodes: MadeNodes, cluster: ControlPlane
) -> None:
    """It hears of its objects by lists, which tell less of them than watches do."""
    gateway, m = on_pods.gateway, "again"
    nodes.add("cpu-a")
    on_pods.publish(m, 1)
    on_pods.deploy(m)
    gateway.stop()
    mark = cluster.audit.mark()
    gateway.start()
    until(lambda: on_pods.replicas(m, "ready"))
    # What is asked of it now is one write: whatever else it did would be seen here, too.
    gateway.cli("scale", "model", m, "--replicas", "2")
    until(lambda: len(on_pods.replicas(m, "ready")) == 2)
    writes = [c for c in cluster.audit.since(mark, user=on_pods.user) if c.is_write]
    assert counted(writes) == {("patch", "deployments"): 1}
    gateway.cli("delete", "model", m)
    until(lambda: not on_pods.left())
    nodes.remove("cpu-a")


def _phase(on_pods: OnPods, model: str) -> str:
    """Of its last rollout; none as long as the published version was not noticed."""
    shown = on_pods.gateway.cli("rollout", "status", model, "-o", "json", check=False)
    return str(json.loads(shown.stdout)["phase"]) if shown.returncode == 0 else ""
