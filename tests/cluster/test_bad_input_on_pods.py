"""What is wrong with a cluster or a deploy is said where its user looks, in words that help."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import Api, Json
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
    RULES,
    SHELL,
    OnPods,
    gateway_on_pods,
    with_rights,
)

pytestmark = [pytest.mark.slow, pytest.mark.onnx, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def on_pods(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPods]:
    name = cluster.namespace()
    with MadeNodes(cluster, IMAGES) as nodes:
        nodes.add("bad-a", gpus=1)
        with gateway_on_pods(cluster, name, tmp_path_factory.mktemp("bad")) as running:
            yield running
    cluster.api.delete("namespaces", None, name)


def serve(kubeconfig: Path, namespace: str, folder: Path) -> str:
    """What `gateway serve` says when it does not start."""
    command = [sys.executable, "-m", "gateway", "serve", "--scheduler", "kubernetes",
               "--kubeconfig", str(kubeconfig), "--namespace", namespace,
               "--state", str(folder / "state")]  # fmt: skip
    for port in ("http", "grpc", "control"):
        command += [f"--{port}", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_namespace_that_does_not_exist(cluster: ControlPlane, tmp_path: Path) -> None:
    said = serve(cluster.kubeconfig("tests"), "nowhere", tmp_path)
    assert "The namespace nowhere does not exist" in said


def test_credentials_that_the_api_server_does_not_know(
    cluster: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    config = json.loads(cluster.kubeconfig("tests").read_text())
    config["users"][0]["user"]["token"] = "expired"
    (tmp_path / "config").write_text(json.dumps(config))
    said = serve(tmp_path / "config", namespace, tmp_path)
    assert "does not take these credentials (401)" in said


def test_a_file_that_is_no_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("kind: [Config")
    assert "The kubeconfig" in serve(tmp_path / "config", "default", tmp_path)
    (tmp_path / "config").write_text("{}")
    assert "The kubeconfig" in serve(tmp_path / "config", "default", tmp_path)


@pytest.mark.parametrize("resource", ["pods", "deployments"])
def test_a_right_to_look_that_is_missing(
    cluster: ControlPlane, namespace: str, tmp_path: Path, resource: str
) -> None:
    rules = [r for r in RULES if r["resources"] != [resource]]
    said = serve(with_rights(cluster, namespace, rules), namespace, tmp_path)
    assert f'cannot list resource "{resource}"' in said
    assert "role lacks this right" in said


def test_a_right_to_write_that_is_missing(
    cluster: ControlPlane, on_pods: OnPods, kube: Api
) -> None:
    """The model says which; given the right, it goes on by itself."""
    role = kube.get("roles", on_pods.namespace, "gateway")
    less = [
        {**r, "verbs": ["list", "watch"]} if r["resources"] == ["deployments"] else r
        for r in role["rules"]
    ]
    kube.patch("roles", on_pods.namespace, "gateway", {"rules": less})
    on_pods.publish("rightless", 1)
    on_pods.deploy("rightless", "--no-wait")
    model = until(lambda: _with_reason(on_pods, "rightless", "deployments"))
    assert 'cannot patch resource "deployments"' in model["reason"]
    kube.patch("roles", on_pods.namespace, "gateway", {"rules": role["rules"]})
    on_pods.deploy("rightless")
    on_pods.gateway.cli("delete", "model", "rightless")


def test_a_quota_that_is_exceeded(on_pods: OnPods, kube: Api) -> None:
    until(lambda: not kube.list("pods", on_pods.namespace))
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    kube.create("resourcequotas", on_pods.namespace, quota)
    until(lambda: kube.get("resourcequotas", on_pods.namespace, "few")["status"].get("hard"))
    on_pods.publish("many", 1)
    on_pods.deploy("many", "--replicas", "3", "--no-wait")
    model = until(lambda: _with_reason(on_pods, "many", "exceeded quota"))
    assert "limited: pods=1" in model["reason"]
    kube.delete("resourcequotas", on_pods.namespace, "few")
    on_pods.gateway.cli("scale", "model", "many", "--replicas", "2")
    until(lambda: len(on_pods.replicas("many", "ready")) == 2)
    on_pods.gateway.cli("delete", "model", "many")


def test_an_image_that_does_not_exist(on_pods: OnPods) -> None:
    on_pods.publish("imageless", 1)
    flags = ("--backend", "onnx", "--image", "nowhere/none:1")
    done = on_pods.deploy("imageless", *flags, check=False)
    assert done.returncode == 1
    assert "image nowhere/none:1 cannot be had" in done.stderr
    (failed,) = _told(on_pods, "imageless", "replica.failed")
    assert "image nowhere/none:1 cannot be had (ErrImage" in failed
    on_pods.gateway.cli("delete", "model", "imageless")


def test_a_gpu_type_that_no_node_has(on_pods: OnPods) -> None:
    on_pods.publish("picky", 1)
    done = on_pods.deploy(
        "picky", "--gpus", "1", "--gpu-type", "Q9000", "--timeout", "10", check=False
    )
    assert done.returncode == 1
    assert "didn't match Pod's node affinity/selector" in done.stderr
    assert "Q9000" in done.stderr
    (waiting,) = _told(on_pods, "picky", "replica.waiting")
    assert "is waiting: 0/1 nodes are available: 1 node(s) didn't match" in waiting
    assert "Q9000" in waiting
    on_pods.gateway.cli("delete", "model", "picky")


def test_a_program_that_crashes_says_its_last_words(on_pods: OnPods) -> None:
    on_pods.publish("crashing", 1)
    command = "sh -c 'echo loading; echo ValueError: no such layer; exit 3'"
    flags = ("--backend", "custom", "--image", SHELL, "--command", command)
    done = on_pods.deploy("crashing", *flags, check=False)
    assert done.returncode == 1
    assert "exited with code 3" in done.stderr
    assert "loading | ValueError: no such layer" in done.stderr
    failed = _told(on_pods, "crashing", "replica.failed")
    assert failed
    for told in failed:
        assert "exited with code 3" in told
        assert "loading | ValueError: no such layer" in told
    on_pods.gateway.cli("delete", "model", "crashing")


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("My_Model", (), "cannot name a model on Kubernetes"),
        ("m", ("--gpus", "1", "--gpu-type", "NVIDIA A100"), "--gpu-type"),
        ("m2", ("--image", "a b"), "is no container image"),
        ("m3", ("--backend", "custom", "--command", "x"), "needs an image"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    on_pods: OnPods, name: str, flags: tuple[str, ...], words: str
) -> None:
    on_pods.publish(name, 1)
    done = on_pods.deploy(name, *flags, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert on_pods.gateway.cli("describe", "model", name, check=False).returncode == 1


def test_somebody_elses_deployment_is_not_taken_over(on_pods: OnPods, kube: Api) -> None:
    labels = {"app": "theirs"}
    pod = {"containers": [{"name": "c", "image": SHELL}]}
    theirs = {
        "metadata": {"name": "frontend"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    kube.create("deployments", on_pods.namespace, theirs)
    on_pods.publish("frontend", 1)
    on_pods.deploy("frontend", "--no-wait")
    until(lambda: _with_reason(on_pods, "frontend", "onflict"))
    spec = kube.get("deployments", on_pods.namespace, "frontend")["spec"]
    assert spec["template"]["spec"]["containers"][0]["image"] == SHELL
    on_pods.gateway.cli("delete", "model", "frontend")
    until(lambda: not kube.list("services", on_pods.namespace))
    assert kube.get("deployments", on_pods.namespace, "frontend")


def test_a_gateway_with_another_database_takes_nobodys_models_for_garbage(
    on_pods: OnPods, cluster: ControlPlane, kube: Api, tmp_path: Path
) -> None:
    """As one that has lost its state, or that somebody points at the wrong namespace."""
    on_pods.publish("kept", 1)
    on_pods.deploy("kept")
    pods = {p["metadata"]["uid"] for p in kube.list("pods", on_pods.namespace)}
    mark = cluster.audit.mark()
    with gateway_on_pods(cluster, on_pods.namespace, tmp_path, account="stranger") as other:
        # What it does have is made, so it has had the time to remove what it takes for garbage.
        other.publish("own", 1)
        other.deploy("own")
        other.publish("kept", 1)
        other.deploy("kept", "--no-wait")
        until(lambda: _with_reason(other, "kept", "onflict"))
        other.gateway.cli("delete", "model", "kept")
        other.gateway.cli("delete", "model", "own")
        until(lambda: not other.gateway.get("models"))
        wrote = cluster.audit.since(mark, user=other.user, verb="delete")
        assert {c.name for c in wrote if c.status < 300} <= {"own"}
    assert {p["metadata"]["uid"] for p in kube.list("pods", on_pods.namespace)} == pods
    assert "1" in on_pods.gateway.cli("predict", "kept", "--data", "[[0.0]]").stdout
    on_pods.gateway.cli("delete", "model", "kept")
    until(lambda: not on_pods.gateway.get("models"))


def test_the_logs_of_all_containers_are_followed_as_each_begins(on_pods: OnPods) -> None:
    on_pods.publish("talking", 1)
    go = on_pods.folder / "models" / "go"
    before = f"echo preparing; until test -e {go}; do sleep 0.1; done"
    command = "sh -c 'echo serving; exec sleep 600'"
    flags = ("--backend", "custom", "--image", SHELL, "--command", command, "--before", before)
    on_pods.deploy("talking", *flags, "--no-wait")
    (replica,) = until(lambda: on_pods.replicas("talking"))
    page = f"{on_pods.gateway.url}/api/v1/models/talking/logs?follow=1"
    with urllib.request.urlopen(page, timeout=60) as followed:
        assert followed.readline().decode() == f"[{replica['id']}/before] preparing\n"
        go.touch()
        assert followed.readline().decode() == f"[{replica['id']}/server] serving\n"
    refused = on_pods.gateway.cli(
        "logs", "talking", "--replica", f"{replica['id']}/agent", check=False
    )
    assert refused.returncode == 1
    assert "has no container 'agent'; it has before, server" in refused.stderr
    on_pods.gateway.cli("delete", "model", "talking", "--no-wait")


def _told(on_pods: OnPods, model: str, kind: str) -> list[str]:
    """The model's events of a kind, oldest first."""
    return [e["message"] for e in on_pods.gateway.get("events", model) if e["type"] == kind]


def _with_reason(on_pods: OnPods, model: str, words: str) -> Json | None:
    (shown,) = on_pods.gateway.get("models", model)
    return shown if words in (shown["reason"] or "") else None
