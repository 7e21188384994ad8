"""The whole of it: our images and deploy/ on a real node, with a kubelet and containers.

What a cluster would give is given by hand: two volumes, as folders of the node.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.api import Json
from tests.cluster.control_plane import ControlPlane
from tests.cluster.deployed import deployed
from tests.cluster.on_a_node import STARTED_S, gateway_in, load_images, names, ready_pods
from tests.cluster.real_node import RealNode
from tests.cluster.waiting import until
from tests.parts.gateway_process import GatewayProcess
from tests.parts.manifests import DEPLOY
from tests.parts.need import need

need(importlib.util.find_spec("onnx") is not None, "pip install -e '.[onnx,dev]'")
from loadtests.models import write_adder  # noqa: E402 - needs the part checked above

pytestmark = [pytest.mark.images, pytest.mark.long, pytest.mark.timeout(1500)]

SETTINGS = """
scheduler = "kubernetes"
insecure = true
[kubernetes]
namespace = "models"
image_pull_policy = "Never"
model_volume = "claim:models"
leave_s = 2.0
[kubernetes.images]
onnx = "localhost/server-onnx:0.1.0"
"""


def volume(name: str, namespace: str, folder: Path) -> Json:
    """A folder of the node that is there for one claim."""
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
        "hostPath": {"path": str(folder)},
        "claimRef": {"name": name, "namespace": namespace},
    }
    metadata = {"name": f"{namespace}-{name}"}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}


def claim(namespace: str) -> Json:
    spec = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "models", "namespace": namespace}
    kind = "PersistentVolumeClaim"
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}


def overlay(folder: Path) -> Path:
    """As somebody would adapt `local`: models on a volume that the gateway and its pods share."""
    for name in ("state", "models"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    objects = [
        volume("gateway-state", "gateway", folder / "state"),
        volume("models", "gateway", folder / "models"),
        volume("models", "models", folder / "models"),
        claim("gateway"),
        claim("models"),
    ]
    container = {"name": "gateway", "volumeMounts": [{"name": "models", "mountPath": "/models"}]}
    volumes = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gateway", "namespace": "gateway"},
        "spec": {"template": {"spec": {"containers": [container], "volumes": volumes}}},
    }
    settings = {"name": "gateway-settings", "namespace": "gateway", "behavior": "merge"}
    made = folder / "overlay"
    made.mkdir()
    (made / "gateway.toml").write_text(SETTINGS)
    (made / "volumes.yaml").write_text(yaml.safe_dump_all(objects))
    kustomization = {
        "resources": [os.path.relpath(DEPLOY / "overlays" / "local", made), "volumes.yaml"],
        "patches": [{"patch": yaml.safe_dump(patch)}],
        "configMapGenerator": [{**settings, "files": ["gateway.toml"]}],
    }
    (made / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return made


@pytest.fixture
def installed(cluster: ControlPlane, real_node: RealNode, tmp_path: Path) -> Iterator[Path]:
    """The overlay, and the images on the node; gives the folder of the models."""
    load_images(real_node, tmp_path, "gateway", "server-onnx")
    with deployed(cluster, overlay(tmp_path)):
        yield tmp_path / "models"
    for name in ("gateway-gateway-state", "gateway-models", "models-models"):
        cluster.api.call("DELETE", f"/api/v1/persistentvolumes/{name}")


def gateway_at(cluster: ControlPlane, folder: Path) -> GatewayProcess:
    """The CLI of this machine, and the one gateway pod once it is Ready."""
    (pod,) = until(lambda: ready_pods(cluster, "gateway"), STARTED_S)
    return gateway_in(pod, folder)


def test_a_model_is_deployed_and_outlives_the_gateways_pod(
    cluster: ControlPlane, installed: Path, tmp_path: Path
) -> None:
    write_adder(installed / "digits" / "1", 1.0)
    gateway = gateway_at(cluster, tmp_path)
    gateway.cli(
        "deploy", "model", "digits", "--source", "file:///models/digits", "--replicas", "2",
        "--timeout", "300", timeout_s=320,
    )  # fmt: skip
    for protocol in ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"):
        answer = gateway.cli("predict", "digits", "--data", "[[41.0]]", "--protocol", protocol)
        assert "42" in answer.stdout
    models = until(lambda: ready_pods(cluster, "models"))
    assert len(models) == 2
    for pod in models:
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]

    (before,) = names(ready_pods(cluster, "gateway"))
    cluster.api.delete("pods", "gateway", before)
    until(lambda: names(ready_pods(cluster, "gateway")) - {before}, STARTED_S)
    gateway = gateway_at(cluster, tmp_path)
    until(
        lambda: "42" in gateway.cli("predict", "digits", "--data", "[[41.0]]", check=False).stdout
    )
    assert names(ready_pods(cluster, "models")) == names(models)

    gateway.cli("delete", "model", "digits")
    until(lambda: not cluster.api.list("pods", "models"))
