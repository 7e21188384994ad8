"""Models of the backend `tensorflow` as pods: TensorFlow Serving's container and our agent's.

TensorFlow Serving is a stand-in here: its image is in no package index. The pod is as it would be,
with the stock server's command line, and in the place of its binary runs a program that takes the
same flags and the same file, ends on the same signal, speaks the same two protocols, and loads
SavedModels by TensorFlow itself (tests/parts/tensorflow_model_server.py). The agent, the control
plane and the gateway are real. What rests on the stock server alone is not shown; see the README of
servers/agent.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import Api
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_nodes import MadeNodes
from tests.cluster.made_pods import MadePod, is_ready
from tests.cluster.programs import PROJECT
from tests.cluster.waiting import until
from tests.parts import tiny_tf
from tests.parts.need import need

need(
    all(importlib.util.find_spec(m) for m in ("onnx", "tensorflow", "kubernetes")),
    "pip install -e '.[onnx,tensorflow,kubernetes,dev]'",
)
from tests.cluster.gateway_on_pods import (  # noqa: E402 - needs the parts checked above
    Load,
    OnPods,
    gateway_on_pods,
)

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow, pytest.mark.timeout(300)]

STOCK, AGENT = "localhost/tests/tensorflow-serving:1", "localhost/tests/agent:1"
MODEL = "adder"
LEAVE_S, DEADLINE_S = 4.0, 5
HOLD_S = LEAVE_S / 2 + DEADLINE_S
"""How long the preStop hook of both containers holds back SIGTERM."""


@pytest.fixture(scope="module")
def nodes(cluster: ControlPlane) -> Iterator[MadeNodes]:
    with MadeNodes(cluster, {STOCK: [], AGENT: []}) as made:
        for name in ("tf-a", "tf-b"):
            made.add(name)
        yield made


@pytest.fixture(scope="module")
def on_pods(
    cluster: ControlPlane, nodes: MadeNodes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnPods]:
    name = cluster.namespace()
    folders = [PROJECT / "tests" / "parts" / "bin", Path(sys.prefix) / "bin", os.environ["PATH"]]
    settings = {
        "images": {"tensorflow": STOCK, "agent": AGENT},
        "environment": {"PATH": ":".join(map(str, folders)), "TFS_STANDIN_LISTEN": "0.0.0.0"},
        "leave_s": LEAVE_S,
    }
    with gateway_on_pods(
        cluster, name, tmp_path_factory.mktemp("tensorflow"), **settings
    ) as running:
        running.publish(MODEL, 1, tiny_tf.adder)
        running.deploy(MODEL, "--replicas", "2", "--timeout-s", str(DEADLINE_S))
        yield running
    cluster.api.delete("namespaces", None, name)


@pytest.fixture
def load(on_pods: OnPods, nodes: MadeNodes) -> Iterator[Load]:
    """Predictions all the while; none may fail."""
    until(lambda: len(on_pods.replicas(MODEL, "ready")) == len(nodes.pods()) == 2)
    with Load(on_pods.gateway, MODEL) as running:
        until(lambda: running.summary.requests > 20)
        yield running
        so_far = running.summary.requests
        until(lambda: running.summary.requests > so_far + 20)
    print(running.summary)
    assert running.summary.failed == 0, "\n".join(running.summary.errors)


def shared(pod: MadePod) -> Path:
    """The folder that both containers see as /shared."""
    server = pod.container("server")
    assert server is not None
    return server.around.volume("cache")


def placed(pod: MadePod) -> list[str]:
    """The versions that the agent has put where the server reads them."""
    folder = shared(pod) / "models" / MODEL
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_the_agent_fetches_and_the_server_beside_it_answers(
    on_pods: OnPods, nodes: MadeNodes, kube: Api
) -> None:
    for protocol in ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"):
        said = on_pods.gateway.cli("predict", MODEL, "--data", "[[41.0]]", "--protocol", protocol)
        assert "42" in said.stdout
    # Ready is who holds the model, by the server's own word; the probe asks every 5 s.
    until(lambda: all(is_ready(pod) for pod in kube.list("pods", on_pods.namespace)))
    for pod in nodes.pods():
        # Written before the server starts, and never again: the agent speaks to its ModelService.
        assert (shared(pod) / "models.config").read_text() == "model_config_list {}\n"
        assert placed(pod) == ["1"]
        said = on_pods.gateway.cli("logs", MODEL, "--replica", f"{pod.name}/agent").stdout
        assert '"event": "agent.started"' in said
        # Linked from the agent's cache on the same volume, not copied.
        assert (shared(pod) / "models" / MODEL / "1" / "saved_model.pb").stat().st_nlink == 2


def test_a_version_is_swapped_in_the_same_pods(
    load: Load, on_pods: OnPods, nodes: MadeNodes
) -> None:
    pids = {pod.name: pod.pid for pod in nodes.pods()}
    on_pods.publish(MODEL, 2, tiny_tf.adder)
    until(lambda: 2 in load.versions)
    # The old one leaves the server first and the shared folder after that.
    until(lambda: [placed(pod) for pod in nodes.pods()] == [["2"], ["2"]])
    assert {pod.name: pod.pid for pod in nodes.pods()} == pids


def test_a_deleted_pod_answers_until_its_hook_is_over(
    load: Load, on_pods: OnPods, nodes: MadeNodes, kube: Api
) -> None:
    """SIGTERM would end TensorFlow Serving in the middle of its answers, so it comes last."""
    victim = nodes.pods()[0]
    page = f"http://{victim.address}:8501/v1/models/{MODEL}"
    began = time.perf_counter()
    kube.delete("pods", on_pods.namespace, victim.name)
    while time.perf_counter() - began < HOLD_S - 1.0:
        with urllib.request.urlopen(page, timeout=5) as answer:
            assert "AVAILABLE" in answer.read().decode()
    until(lambda: victim not in nodes.pods())
    assert time.perf_counter() - began >= HOLD_S
    until(lambda: len(on_pods.replicas(MODEL, "ready")) == 2)


def test_a_server_that_comes_back_empty_is_told_again(
    load: Load, on_pods: OnPods, nodes: MadeNodes
) -> None:
    victim = nodes.pods()[0]
    server = victim.container("server")
    assert server is not None
    os.killpg(server.pid, signal.SIGKILL)
    until(lambda: f"{victim.name}.1" in {r["id"] for r in on_pods.replicas(MODEL, "ready")})
    agent = victim.container("agent")
    assert agent is not None
    assert "tfs.came_back_empty" in agent.log.read_text()
    assert agent.restarts == 0


def test_after_the_delete_nothing_is_left(on_pods: OnPods, nodes: MadeNodes) -> None:
    on_pods.gateway.cli("delete", "model", MODEL)
    until(lambda: not on_pods.left())
    assert nodes.pods() == []
