"""What happens to pods and to the control plane on an ordinary day, under load: nobody notices.

Shown-by 2 of issue 6. Each test prints its row of the table: what was done, requests, failed.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.cluster.api import Api, Json
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_nodes import MadeNodes
from tests.cluster.made_pods import is_ready
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

MODEL = "resnet"
REPLICAS = 3


@pytest.fixture(scope="module")
def nodes(cluster: ControlPlane) -> Iterator[MadeNodes]:
    with MadeNodes(cluster, IMAGES) as made:
        for name in ("day-a", "day-b", "day-c"):
            made.add(name)
        yield made


@pytest.fixture(scope="module")
def on_pods(
    cluster: ControlPlane, nodes: MadeNodes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnPods]:
    name = cluster.namespace()
    with gateway_on_pods(cluster, name, tmp_path_factory.mktemp("day")) as running:
        running.publish(MODEL, 1)
        running.deploy(MODEL, "--replicas", str(REPLICAS))
        yield running
    cluster.api.delete("namespaces", None, name)


@pytest.fixture
def load(on_pods: OnPods, request: pytest.FixtureRequest) -> Iterator[Load]:
    """Predictions all the while; at the end all is as it was, and none has failed."""
    _settled(on_pods)
    with Load(on_pods.gateway, MODEL) as running:
        until(lambda: running.summary.requests > 20)
        yield running
        _settled(on_pods)
        so_far = running.summary.requests
        until(lambda: running.summary.requests > so_far + 20)
    summary = running.summary
    done = request.node.name.removeprefix("test_").replace("_", " ")
    print(f"\n| {done} | {summary.requests} | {summary.failed} | p99 {summary.p99_s:.3f} s |")
    assert summary.failed == 0, "\n".join(summary.errors)


def _pods(on_pods: OnPods) -> list[Json]:
    return on_pods.cluster.api.list("pods", on_pods.namespace)


def _settled(on_pods: OnPods) -> None:
    """As many pods as wanted, all Ready, none on its way, and the gateway says so too."""

    def is_so() -> bool:
        pods = _pods(on_pods)
        staying = [p for p in pods if is_ready(p) and "deletionTimestamp" not in p["metadata"]]
        if len(staying) != REPLICAS or len(pods) != REPLICAS:
            return False
        return len(on_pods.replicas(MODEL, "ready")) == REPLICAS

    until(is_so, 120)


def _name(pod: Json) -> str:
    return str(pod["metadata"]["name"])


def test_a_node_is_drained(load: Load, on_pods: OnPods, kube: Api) -> None:
    node = _pods(on_pods)[0]["spec"]["nodeName"]
    try:
        assert kube.drain(node, 120)
    finally:
        kube.patch("nodes", None, node, {"spec": {"unschedulable": False}})


def test_a_pod_is_evicted(load: Load, on_pods: OnPods, kube: Api) -> None:
    victim = _name(_pods(on_pods)[0])
    kube.evict(on_pods.namespace, victim)
    until(lambda: victim not in map(_name, _pods(on_pods)))


def test_a_pod_is_deleted_by_hand(load: Load, on_pods: OnPods, kube: Api) -> None:
    victim = _name(_pods(on_pods)[0])
    kube.delete("pods", on_pods.namespace, victim)
    until(lambda: victim not in map(_name, _pods(on_pods)))


def test_a_server_is_killed(load: Load, on_pods: OnPods, nodes: MadeNodes) -> None:
    victim = _name(_pods(on_pods)[0])
    os.kill(nodes.pod(victim).pid, signal.SIGKILL)
    until(lambda: [r for r in on_pods.replicas(MODEL) if r["id"] == f"{victim}.1"])


def test_a_change_of_the_pods_rolls(load: Load, on_pods: OnPods) -> None:
    before = set(map(_name, _pods(on_pods)))
    on_pods.deploy(MODEL, "--batch-size", "8")
    until(lambda: not before & set(map(_name, _pods(on_pods))), 120)


def test_our_fields_are_put_back_and_others_left_alone(
    load: Load, on_pods: OnPods, kube: Api
) -> None:
    where = ("deployments", on_pods.namespace, MODEL)
    kube.patch(*where, {"spec": {"replicas": 1}, "metadata": {"annotations": {"theirs": "x"}}})
    until(lambda: kube.get(*where)["spec"]["replicas"] == REPLICAS)
    kube.delete("services", on_pods.namespace, MODEL)
    until(lambda: kube.get("services", on_pods.namespace, MODEL))
    kube.patch("poddisruptionbudgets", on_pods.namespace, MODEL, {"spec": {"maxUnavailable": 3}})
    budget = ("poddisruptionbudgets", on_pods.namespace, MODEL)
    until(lambda: kube.get(*budget)["spec"]["maxUnavailable"] == 1)
    assert kube.get(*where)["metadata"]["annotations"]["theirs"] == "x"


def test_the_watches_are_cut(load: Load, cluster: ControlPlane) -> None:
    cluster.restart("kube-apiserver")


def test_etcd_is_restarted(load: Load, cluster: ControlPlane) -> None:
    cluster.restart("etcd")
    cluster.wait_ready()


@pytest.mark.long
def test_the_api_server_is_away_for_a_minute(
    load: Load, on_pods: OnPods, cluster: ControlPlane
) -> None:
    cluster.stop("kube-apiserver")
    asked = load.summary.requests
    time.sleep(60.0)  # the minute that is promised
    assert load.summary.requests > asked + 1000
    cluster.start("kube-apiserver")
    # What was missed is made up for: a pod that goes now is noticed.
    victim = _name(_pods(on_pods)[0])
    cluster.api.delete("pods", on_pods.namespace, victim)
    until(lambda: victim not in map(_name, _pods(on_pods)))
