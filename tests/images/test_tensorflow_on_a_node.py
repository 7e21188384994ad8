"""TensorFlow Serving's pod with our agent on a real node: kubelet, containers, a shared emptyDir.

The image of TensorFlow Serving is a stand-in: `tensorflow/serving` is in no package index. In the
place of its binary is a program that takes the same flags and file, speaks the same protocols, and
like the binary handles no signal (tests/parts/tensorflow_model_server.py). The agent's image is the
one of the Dockerfile, and the pod is as the gateway makes it for the stock image.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import Api, Json
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_pods import is_ready
from tests.cluster.real_node import RealNode
from tests.cluster.waiting import until
from tests.parts import tiny_tf
from tests.parts.containers import ROOT, built, podman
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

pytestmark = [pytest.mark.images, pytest.mark.long, pytest.mark.timeout(1500)]

STAND_IN = "localhost/tests/tensorflow-serving-stand-in:1"
MODEL = "adder"
LEAVE_S, DEADLINE_S, MARGIN_S = 40.0, 5, 20.0
HOLD_S = LEAVE_S / 2 + DEADLINE_S
GRACE_S = LEAVE_S + DEADLINE_S + MARGIN_S

CONTAINERFILE = """
FROM {base}
USER 0:0
COPY tensorflow_model_server.py /opt/stand-in/tests/parts/
COPY bin/tensorflow_model_server /usr/bin/
ENV PYTHONPATH=/opt/app:/opt/stand-in
USER 10001:0
"""


def stand_in(folder: Path) -> str:
    """Our server's image with the stand-in where tensorflow/serving has its binary."""
    (folder / "bin").mkdir(parents=True)
    for name in ("tensorflow_model_server.py", "bin/tensorflow_model_server"):
        shutil.copy(ROOT / "tests" / "parts" / name, folder / name)
    (folder / "Containerfile").write_text(CONTAINERFILE.format(base=built("server-tensorflow")))
    podman("build", "--isolation", "oci", "--network", "none", "--ulimit", "nofile=1024:1024",
           "--ulimit", "nproc=4096:4096", "--tag", STAND_IN, str(folder))  # fmt: skip
    return STAND_IN


@pytest.fixture
def on_pods(
    cluster: ControlPlane, real_node: RealNode, namespace: str, tmp_path: Path
) -> Iterator[OnPods]:
    images = {"tensorflow": stand_in(tmp_path / "stand-in"), "agent": built("agent")}
    for name in images.values():
        tar = tmp_path / "image.tar"
        podman("save", "--output", str(tar), name)
        real_node.import_image(tar)
        tar.unlink()
    settings = {
        "images": images,
        "image_pull_policy": "Never",
        "environment": {"TFS_STANDIN_LISTEN": "0.0.0.0"},
        "leave_s": LEAVE_S,
        "margin_s": MARGIN_S,
    }
    with gateway_on_pods(cluster, namespace, tmp_path, **settings) as running:
        yield running


def test_the_pod_answers_swaps_and_leaves_when_told(on_pods: OnPods, kube: Api) -> None:
    on_pods.publish(MODEL, 1, tiny_tf.adder)
    flags = ("--timeout-s", str(DEADLINE_S), "--timeout", "300")
    on_pods.deploy(MODEL, *flags, timeout_s=320)
    (pod,) = until(lambda: _ready(kube, on_pods.namespace))
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert [c["name"] for c in pod["spec"]["containers"]] == ["server", "agent"]
    for protocol in ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"):
        said = on_pods.gateway.cli("predict", MODEL, "--data", "[[41.0]]", "--protocol", protocol)
        assert "42" in said.stdout

    with Load(on_pods.gateway, MODEL) as load:
        on_pods.publish(MODEL, 2, tiny_tf.adder)
        until(lambda: 2 in load.versions)
        # The only replica: it goes on answering until another does.
        victim = pod["metadata"]["name"]
        began = time.perf_counter()
        kube.delete("pods", on_pods.namespace, victim)
        until(lambda: victim not in _names(kube.list("pods", on_pods.namespace)))
        took = time.perf_counter() - began
        until(lambda: len(on_pods.replicas(MODEL, "ready")) == 1)
    print(f"gone after {took:.1f} s, hook {HOLD_S:g} s, SIGKILL after {GRACE_S:g} s", load.summary)
    assert load.summary.failed == 0, "\n".join(load.summary.errors)
    # By SIGTERM after the hook, which the server by itself would not have heard: not by SIGKILL.
    assert HOLD_S <= took < GRACE_S

    on_pods.gateway.cli("delete", "model", MODEL)
    until(lambda: not on_pods.left(), 180)


def _ready(kube: Api, namespace: str) -> list[Json]:
    return [p for p in kube.list("pods", namespace) if is_ready(p)]


def _names(pods: list[Json]) -> set[str]:
    return {p["metadata"]["name"] for p in pods}
