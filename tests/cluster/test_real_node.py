"""Real containers on the real node: they start, answer, end as told, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cluster.api import Api, Json
from tests.cluster.images import write_image
from tests.cluster.made_pods import is_ready
from tests.cluster.node_host import hierarchies
from tests.cluster.programs import program
from tests.cluster.real_node import NAME, TINY, RealNode, answers
from tests.cluster.waiting import until, until_told

pytestmark = pytest.mark.slow

IP = {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}

PROBE = {"httpGet": {"path": "/ready", "port": 8000}, "periodSeconds": 1}


def a_container(*arguments: str, **more: object) -> Json:
    """The tiny program; `arguments` are its own, without any it serves and is probed."""
    never = {"name": "main", "image": TINY, "imagePullPolicy": "Never"}
    does = {"command": ["/tiny", *arguments]} if arguments else {"readinessProbe": PROBE}
    return {**never, **does, **more}


def a_pod(name: str, container: Json, **spec: object) -> Json:
    return {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "enableServiceLinks": False, **spec},
    }


def on_the_node(api: Api, namespace: str) -> list[Json]:
    """The namespace's Ready pods on the real node."""
    pods = api.list("pods", namespace)
    return [p for p in pods if is_ready(p) and p["spec"]["nodeName"] == NAME]


def get(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}:8000/", timeout=30) as answer:
        return str(answer.read().decode())


def test_two_pods_of_a_deployment_answer_at_their_addresses(
    real_node: RealNode, kube: Api, namespace: str
) -> None:
    real_node.set_resources({"nvidia.com/gpu": "2"}, "NVIDIA-A100-SXM4-80GB")
    gpu = {"limits": {"nvidia.com/gpu": 1}}
    container = a_container(env=[IP], resources=gpu)
    pod = a_pod("web", container)
    match = {"matchLabels": pod["metadata"]["labels"]}
    spec = {"replicas": 3, "selector": match, "template": pod}
    del pod["metadata"]["name"]
    kube.create("deployments", namespace, {"metadata": {"name": "web"}, "spec": spec})
    until(lambda: len(on_the_node(kube, namespace)) == 2)
    for found in on_the_node(kube, namespace):
        address = found["status"]["podIP"]
        assert get(address) == f"hello {found['metadata']['name']} {address}"
    (third,) = (p for p in kube.list("pods", namespace) if "nodeName" not in p["spec"])
    until_told(kube, namespace, third["metadata"]["name"], "1 Insufficient nvidia.com/gpu")


def test_the_hook_runs_then_sigterm_then_the_pod_is_gone(
    real_node: RealNode, kube: Api, namespace: str, tmp_path: Path
) -> None:
    notes = {"name": "notes", "hostPath": {"path": str(tmp_path)}}
    hook = {"exec": {"command": ["/tiny", "note", "/notes/file", "hook"]}}
    container = a_container(
        env=[{"name": "NOTES", "value": "/notes/file"}],
        lifecycle={"preStop": hook},
        volumeMounts=[{"name": "notes", "mountPath": "/notes"}],
    )
    kube.create("pods", namespace, a_pod("one", container, volumes=[notes]))
    until(lambda: on_the_node(kube, namespace))
    kube.delete("pods", namespace, "one", grace_s=20)
    until(lambda: not kube.list("pods", namespace))
    assert (tmp_path / "file").read_text().splitlines() == ["hook", "one got SIGTERM"]


def test_a_killed_container_is_started_again(
    real_node: RealNode, kube: Api, namespace: str
) -> None:
    kube.create("pods", namespace, a_pod("one", a_container()))
    (pod,) = until(lambda: on_the_node(kube, namespace))
    address = pod["status"]["podIP"]
    assert get(address).startswith("hello one")
    (serving,) = (p for p in real_node.pids(pod) if b"pause" not in _command(p))
    os.kill(serving, signal.SIGKILL)

    def again() -> bool:
        (status,) = kube.get("pods", namespace, "one")["status"]["containerStatuses"]
        return bool(status["restartCount"] == 1 and status["ready"])

    until(again)
    assert get(address).startswith("hello one")


def test_a_crash_loop_and_its_last_words(real_node: RealNode, kube: Api, namespace: str) -> None:
    kube.create("pods", namespace, a_pod("one", a_container("fail", "no model here")))

    def looping() -> bool:
        statuses = kube.get("pods", namespace, "one")["status"].get("containerStatuses", [])
        waits = [s["state"].get("waiting", {}).get("reason") for s in statuses]
        return waits == ["CrashLoopBackOff"]

    until(looping)
    until(lambda: kube.log(namespace, "one", previous="true") == "no model here\n")
    until_told(kube, namespace, "one", "BackOff")


def test_an_image_that_does_not_exist(real_node: RealNode, kube: Api, namespace: str) -> None:
    missing = a_container(image="localhost/tests/missing:1", imagePullPolicy="IfNotPresent")
    kube.create("pods", namespace, a_pod("one", missing))

    def waits() -> bool:
        statuses = kube.get("pods", namespace, "one")["status"].get("containerStatuses", [])
        why = [s["state"].get("waiting", {}).get("reason") for s in statuses]
        return why in (["ErrImagePull"], ["ImagePullBackOff"])

    until(waits)
    until_told(kube, namespace, "one", "Failed to pull image")


def test_an_image_of_an_image_builder(
    real_node: RealNode, kube: Api, namespace: str, tmp_path: Path
) -> None:
    tiny = program("tiny")
    assert tiny is not None
    tar = write_image(tmp_path / "t.tar", "localhost/tests/own:2", {"/x": tiny}, ["/x", "serve"])
    assert real_node.import_image(tar) == ["localhost/tests/own:2"]
    kube.create("pods", namespace, a_pod("one", a_container(image="localhost/tests/own:2")))
    (pod,) = until(lambda: on_the_node(kube, namespace))
    assert get(pod["status"]["podIP"]).startswith("hello one")


def test_a_pod_reaches_the_api_server_as_its_service_account(
    real_node: RealNode, kube: Api, namespace: str
) -> None:
    """By the address that Kubernetes tells every pod, with the token that it mounts."""
    kube.create("pods", namespace, a_pod("one", a_container("ask", "/version")))
    until(lambda: "v1." in kube.log(namespace, "one"))


def test_a_pod_reaches_a_server_of_this_machine_by_a_gate(
    real_node: RealNode, kube: Api, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "hello").write_text("from this machine")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        url = f"http://{real_node.open_gate(port)}/hello"
        until(lambda: answers("127.0.0.1", port))
        kube.create("pods", namespace, a_pod("one", a_container("get", url)))
        until(lambda: kube.log(namespace, "one") == "from this machine\n")
    finally:
        server.kill()
        server.wait()


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


KILLED = """
import sys
from tests.cluster.test_real_node import a_container, a_pod, on_the_node
from tests.cluster.waiting import until
from tests.cluster.control_plane import control_plane
from tests.cluster.real_node import real_node
with control_plane() as cluster, real_node(cluster) as node:
    slot = cluster.slot
    cluster.api.create("pods", "default", a_pod("one", a_container()))
    until(lambda: on_the_node(cluster.api, "default"))
    print(slot.folder, slot.link, slot.cgroup, flush=True)
    sys.stdin.read()
"""


@pytest.mark.long
@pytest.mark.usefixtures("real_node")
def test_a_killed_run_leaves_nothing() -> None:
    """Another run, with a node and a pod of its own, dies beside this one."""
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdin is not None
    assert run.stdout is not None
    folder, link, cgroup = run.stdout.readline().split()
    assert Path(f"/sys/class/net/{link}").exists()
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdin.close()
    run.stdout.close()
    until(lambda: not Path(folder).exists())
    until(lambda: not Path(f"/sys/class/net/{link}").exists())
    assert [root for root in hierarchies() if (root / cgroup).exists()] == []
    assert folder not in Path("/proc/self/mountinfo").read_text()
