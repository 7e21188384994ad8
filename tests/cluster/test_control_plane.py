"""The control plane that the other tests stand on: it is real, it comes back, it leaves nothing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.api import Api, ApiError, Json
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_nodes import PRODUCT, SAID, MadeNodes
from tests.cluster.programs import CONTROL_PLANE, need_programs
from tests.cluster.slots import taken_slot
from tests.cluster.sweeper import swept
from tests.cluster.waiting import until, until_told
from tests.parts.local_replicas import is_running

H100 = "NVIDIA-H100-80GB-HBM3"


def a_deployment(name: str, replicas: int, **pod: object) -> Json:
    """`replicas` pods, each with one GPU unless told otherwise."""
    container = {
        "name": "main",
        "image": "localhost/nothing:1",
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }
    labels = {"app": name}
    return {
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], **pod},
            },
        },
    }


def ready(api: Api, namespace: str, name: str) -> int:
    return int(api.get("deployments", namespace, name)["status"].get("readyReplicas", 0))


def test_it_says_its_release(cluster: ControlPlane) -> None:
    version = cluster.api.call("GET", "/version")
    assert (version["major"], int(version["minor"].rstrip("+")) >= 34) == ("1", True)


def test_a_wrong_token_is_401_and_a_missing_right_403(cluster: ControlPlane) -> None:
    stranger = Api(cluster.url, "no-such-token", cluster.identities.ca)
    nobody = cluster.client("nobody")
    with pytest.raises(ApiError, match=r"401 Unauthorized"):
        stranger.list("pods", "default")
    with pytest.raises(ApiError, match=r'403 Forbidden.*User "nobody" cannot list.*"pods"'):
        nobody.list("pods", "default")
    stranger.close()
    nobody.close()


def test_a_service_account_has_the_rights_it_was_given(
    cluster: ControlPlane, kube: Api, namespace: str
) -> None:
    kube.create("serviceaccounts", namespace, {"metadata": {"name": "reader"}})
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    kube.create("roles", namespace, {"metadata": {"name": "reader"}, "rules": [rule]})
    bound = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
    }
    kube.create("rolebindings", namespace, bound)
    config = json.loads(cluster.service_account(namespace, "reader").read_text())
    api = Api(cluster.url, config["users"][0]["user"]["token"], cluster.identities.ca)
    assert until(lambda: api.list("pods", namespace) == [])
    with pytest.raises(ApiError, match="403"):
        api.list("secrets", namespace)
    api.close()


def test_gpus_are_scheduled_by_the_real_scheduler(
    cluster: ControlPlane, kube: Api, namespace: str
) -> None:
    with MadeNodes(cluster, images=SAID) as nodes:
        for name in ("two-a", "two-b"):
            nodes.add(name, gpus=2)
        kube.create("deployments", namespace, a_deployment("web", 5))
        until(lambda: ready(kube, namespace, "web") == 4)
        pods = kube.list("pods", namespace)
        (pending,) = (p for p in pods if "nodeName" not in p["spec"])
        placed = sorted(p["spec"]["nodeName"] for p in pods if "nodeName" in p["spec"])
        assert placed == ["two-a", "two-a", "two-b", "two-b"]
        words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu"
        until_told(kube, namespace, pending["metadata"]["name"], words)


def test_a_gpu_product_that_no_node_has_stays_pending(
    cluster: ControlPlane, kube: Api, namespace: str
) -> None:
    with MadeNodes(cluster, images=SAID) as nodes:
        nodes.add("a100", gpus=8)
        wanted = a_deployment("web", 1, nodeSelector={PRODUCT: H100})
        kube.create("deployments", namespace, wanted)
        pod = until(lambda: kube.list("pods", namespace))[0]["metadata"]["name"]
        until_told(kube, namespace, pod, "didn't match Pod's node affinity/selector")
        nodes.add("h100", gpus=8, product=H100)
        until(lambda: ready(kube, namespace, "web") == 1)


def test_the_audit_tells_who_did_what(cluster: ControlPlane, kube: Api, namespace: str) -> None:
    mark = cluster.audit.mark()
    kube.create("configmaps", namespace, {"metadata": {"name": "seen"}, "data": {"a": "1"}})
    kube.list("configmaps", namespace)
    wrote, listed = cluster.audit.since(mark, user="tests", resource="configmaps")
    assert (wrote.verb, wrote.name, wrote.status, wrote.is_write) == ("create", "seen", 201, True)
    assert wrote.body["data"] == {"a": "1"}
    assert (listed.verb, listed.namespace, listed.is_write) == ("list", namespace, False)


def test_parts_come_back_with_their_data(cluster: ControlPlane, kube: Api, namespace: str) -> None:
    kube.create("configmaps", namespace, {"metadata": {"name": "kept"}})
    cluster.stop("kube-apiserver")
    with pytest.raises(ConnectionError):
        kube.list("pods", namespace)
    cluster.restart("etcd")
    cluster.start("kube-apiserver")
    assert kube.get("configmaps", namespace, "kept")["metadata"]["name"] == "kept"
    cluster.wait_ready()


def test_a_frozen_part_keeps_its_connections_and_goes_on(cluster: ControlPlane) -> None:
    host, port = cluster.slot.address, 6443
    server = cluster.parts["kube-apiserver"]
    server.freeze()
    try:
        # The kernel still accepts; nobody answers the TLS hello.
        with socket.create_connection((host, port), 5) as silent:
            silent.settimeout(0.3)
            silent.sendall(b"\x16\x03\x01")
            with pytest.raises(TimeoutError):
                silent.recv(1)
    finally:
        server.thaw()
    cluster.wait_ready()


KILLED = """
import sys
from tests.cluster.control_plane import control_plane
with control_plane() as cluster:
    print(cluster.slot.folder, *[p.pid for p in cluster.parts.values()], flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("sweeper_too", [False, True], ids=["run", "run and its sweeper"])
def test_a_killed_run_leaves_no_process_and_no_file(sweeper_too: bool) -> None:
    """Where the sweeper was killed as well, once the next run begins."""
    need_programs(*CONTROL_PLANE)
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdin is not None
    assert run.stdout is not None
    folder, *pids = run.stdout.readline().split()
    assert len(pids) == 4
    if sweeper_too:
        children = psutil.Process(run.pid).children()
        (sweeper,) = (c for c in children if "tests.cluster.sweeper" in c.cmdline())
        sweeper.kill()
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdin.close()
    run.stdout.close()
    if sweeper_too:
        until(lambda: not is_running(sweeper.pid))  # the slot is its, too, until it has ended
        with taken_slot() as slot, swept(slot):
            pass
    until(lambda: not Path(folder).exists())
    until(lambda: not any(is_running(int(pid)) for pid in pids))
