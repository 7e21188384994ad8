"""Pods on made nodes are real model servers on addresses of their own, and end as pods do."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import Api, Json
from tests.cluster.commands import GRACE_S
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_nodes import MadeNodes
from tests.cluster.made_pods import is_ready
from tests.cluster.waiting import until
from tests.parts.local_replicas import is_running
from tests.parts.need import need

need(
    all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime")),
    "pip install -e '.[onnx,dev]'",
)
from tests.parts import tiny_onnx  # noqa: E402 - needs the parts checked above

pytestmark = [pytest.mark.slow, pytest.mark.onnx]

ONNX = "localhost/tests/server-onnx:1"
SHELL = "localhost/tests/shell:1"
IMAGES = {ONNX: [sys.executable, "-m", "servers.onnx"], SHELL: ["/bin/sh"]}


@pytest.fixture(scope="module")
def nodes(cluster: ControlPlane) -> Iterator[MadeNodes]:
    with MadeNodes(cluster, IMAGES) as made:
        made.add("gpu-a", gpus=2)
        made.add("gpu-b", gpus=2)
        yield made


def pods_of(api: Api, namespace: str) -> list[Json]:
    """The namespace's Ready pods that stay."""
    pods = api.list("pods", namespace)
    return [p for p in pods if is_ready(p) and "deletionTimestamp" not in p["metadata"]]


def servers(model: Path, replicas: int) -> Json:
    """A Deployment of ONNX servers of one model, a GPU each."""
    container = {
        "name": "server",
        "image": ONNX,
        "args": ["--http", "0.0.0.0:8501", "--grpc", "0.0.0.0:8500", "--model", f"m={model}"],
        "ports": [{"name": "http", "containerPort": 8501}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": "http"},
                           "periodSeconds": 1},
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }  # fmt: skip
    labels = {"app": "m"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": "m"}, "spec": spec}


def a_pod(script: str, **container: object) -> Json:
    """A pod that runs a script of the shell."""
    main = {"name": "main", "image": SHELL, "args": ["-c", script], **container}
    return {
        "metadata": {"name": "one"},
        "spec": {"containers": [main], "automountServiceAccountToken": False},
    }


def predict(address: str) -> list[list[float]]:
    body = json.dumps({"instances": [[1.0, 2.0, 3.0]]}).encode()
    url = f"http://{address}:8501/v1/models/m:predict"
    with urllib.request.urlopen(url, body, timeout=30) as answer:
        return list(json.load(answer)["predictions"])


def test_pods_answer_predictions_each_at_its_own_address(
    nodes: MadeNodes, kube: Api, namespace: str, tmp_path: Path
) -> None:
    tiny_onnx.affine(tmp_path / "m" / "7", 7)
    kube.create("deployments", namespace, servers(tmp_path / "m", 3))
    until(lambda: len(pods_of(kube, namespace)) == 3)
    addresses = {p["status"]["podIP"] for p in pods_of(kube, namespace)}
    assert len(addresses) == 3
    for address in addresses:
        assert predict(address) == [[9.0, 11.0, 13.0]]

    killed = pods_of(kube, namespace)[0]["metadata"]["name"]
    os.kill(nodes.pod(killed).pid, signal.SIGKILL)

    def restarted() -> Json | None:
        status = kube.get("pods", namespace, killed)["status"]["containerStatuses"][0]
        return status if status["restartCount"] == 1 and status["ready"] else None

    status = until(restarted)
    assert status is not None
    assert status["lastState"]["terminated"]["exitCode"] == 137
    assert predict(nodes.pod(killed).address) == [[9.0, 11.0, 13.0]]


def test_a_drained_node_ends_its_pods_and_others_take_over(
    nodes: MadeNodes, kube: Api, namespace: str, tmp_path: Path
) -> None:
    tiny_onnx.affine(tmp_path / "m" / "7", 7)
    kube.create("deployments", namespace, servers(tmp_path / "m", 2))
    until(lambda: len(pods_of(kube, namespace)) == 2)
    nodes.add("gpu-c", gpus=2)
    try:
        for node in ("gpu-a", "gpu-b"):
            kube.drain(node)
        until(lambda: len(pods_of(kube, namespace)) == 2)
        assert {p["spec"]["nodeName"] for p in pods_of(kube, namespace)} == {"gpu-c"}
    finally:
        for node in ("gpu-a", "gpu-b"):
            kube.patch("nodes", None, node, {"spec": {"unschedulable": False}})
        nodes.remove("gpu-c")


def test_pods_go_on_while_the_api_server_is_away_and_end_when_it_is_back(
    cluster: ControlPlane, nodes: MadeNodes, kube: Api, namespace: str, tmp_path: Path
) -> None:
    tiny_onnx.affine(tmp_path / "m" / "7", 7)
    kube.create("deployments", namespace, servers(tmp_path / "m", 1))
    (pod,) = until(lambda: pods_of(kube, namespace))
    pid = nodes.pod(pod["metadata"]["name"]).pid
    cluster.stop("kube-apiserver")
    try:
        assert predict(pod["status"]["podIP"]) == [[9.0, 11.0, 13.0]]
    finally:
        cluster.start("kube-apiserver")
    assert [p["metadata"]["uid"] for p in pods_of(kube, namespace)] == [pod["metadata"]["uid"]]
    kube.delete("deployments", namespace, "m")
    until(lambda: not kube.list("pods", namespace))
    until(lambda: not is_running(pid))


def test_the_hook_runs_before_sigterm_and_both_within_the_grace(
    nodes: MadeNodes, kube: Api, namespace: str, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    hook = {"exec": {"command": ["/bin/sh", "-c", f"echo hook >> {notes}; sleep 0.3"]}}
    script = (
        f"trap 'echo term >> {notes}; exit 0' TERM; echo up >> {notes}; while :; do sleep 0.1; done"
    )
    kube.create("pods", namespace, a_pod(script, lifecycle={"preStop": hook}))
    until(lambda: notes.exists() and is_ready(kube.get("pods", namespace, "one")))
    kube.delete("pods", namespace, "one", grace_s=20)
    until(lambda: not kube.list("pods", namespace))
    assert notes.read_text().split() == ["up", "hook", "term"]


def test_what_ignores_sigterm_is_killed_when_the_grace_is_over(
    nodes: MadeNodes, kube: Api, namespace: str
) -> None:
    kube.create("pods", namespace, a_pod("trap '' TERM; while :; do sleep 0.1; done"))
    until(lambda: is_ready(kube.get("pods", namespace, "one")))
    pid = nodes.pod("one").pid
    kube.delete("pods", namespace, "one", grace_s=1)
    until(lambda: not kube.list("pods", namespace))
    assert not is_running(pid)


def test_environment_secrets_and_folders_reach_the_container(
    nodes: MadeNodes, kube: Api, namespace: str
) -> None:
    kube.create("secrets", namespace, {"metadata": {"name": "s"}, "stringData": {"key": "hidden"}})
    from_secret = {"secretKeyRef": {"name": "s", "key": "key"}}
    env: list[Json] = [
        {"name": "KEY", "valueFrom": from_secret},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "BOTH", "value": "$(KEY)@$(IP)"},
    ]
    pod = a_pod(
        "echo got > /data/file; cat /data/file /secret/key; echo; echo $BOTH; exec sleep 60",
        env=env,
        volumeMounts=[{"name": "d", "mountPath": "/data"}, {"name": "s", "mountPath": "/secret"}],
    )
    pod["spec"]["volumes"] = [{"name": "d", "emptyDir": {}},
                              {"name": "s", "secret": {"secretName": "s"}}]  # fmt: skip
    kube.create("pods", namespace, pod)
    until(lambda: is_ready(kube.get("pods", namespace, "one")))
    made = nodes.pod("one")
    assert until(lambda: made.log.split() if "@" in made.log else []) == [
        "got", "hidden", f"hidden@{made.address}",
    ]  # fmt: skip


def test_a_crash_loop_says_so(nodes: MadeNodes, kube: Api, namespace: str) -> None:
    kube.create("pods", namespace, a_pod("echo no model; exit 3"))

    def looping() -> bool:
        statuses = kube.get("pods", namespace, "one")["status"].get("containerStatuses", [])
        waits = [s["state"].get("waiting", {}).get("reason") for s in statuses]
        return waits == ["CrashLoopBackOff"] and statuses[0]["restartCount"] >= 1

    until(looping)
    (status,) = kube.get("pods", namespace, "one")["status"]["containerStatuses"]
    assert status["lastState"]["terminated"]["exitCode"] == 3


@pytest.mark.long
def test_a_silent_node_loses_its_pods_to_others(
    nodes: MadeNodes, kube: Api, namespace: str, tmp_path: Path
) -> None:
    tiny_onnx.affine(tmp_path / "m" / "7", 7)
    kube.create("deployments", namespace, servers(tmp_path / "m", 2))
    until(lambda: len(pods_of(kube, namespace)) == 2)
    lost = pods_of(kube, namespace)[0]["spec"]["nodeName"]
    nodes.silence(lost)
    try:
        until(lambda: _is_lost(kube, lost), 6 * GRACE_S)
        until(lambda: all(p["spec"]["nodeName"] != lost for p in pods_of(kube, namespace)), 90)
        until(lambda: len(pods_of(kube, namespace)) == 2)
    finally:
        nodes.resume(lost)
        until(lambda: not _is_lost(kube, lost))


def _is_lost(api: Api, node: str) -> bool:
    conditions = api.get("nodes", None, node)["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] != "True" for c in conditions)
