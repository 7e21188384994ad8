"""Our images on the real node, and the gateways that run there as pods."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.api import Json
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_pods import is_ready
from tests.cluster.real_node import RealNode
from tests.parts.containers import built, podman
from tests.parts.gateway_process import GatewayProcess

STARTED_S = 300.0
"""For pods of ours to be Ready: some seconds, on a machine that has nothing else to do."""


def load_images(node: RealNode, folder: Path, *targets: str) -> None:
    """What a user does with `make images` and the node's own tool; under the names of deploy/."""
    for target in targets:
        name = f"localhost/{target}:0.1.0"
        podman("tag", built(target), name)
        tar = folder / f"{target}.tar"
        podman("save", "--output", str(tar), name)
        node.import_image(tar)
        tar.unlink()


def ready_pods(cluster: ControlPlane, namespace: str) -> list[Json]:
    """Those that are Ready and stay."""
    found = cluster.api.list("pods", namespace)
    return [p for p in found if is_ready(p) and "deletionTimestamp" not in p["metadata"]]


def names(found: list[Json]) -> set[str]:
    """Of pods."""
    return {p["metadata"]["name"] for p in found}


def gateway_in(pod: Json, folder: Path) -> GatewayProcess:
    """The gateway of a pod, for the CLI of this machine."""
    address = pod["status"]["podIP"]
    client = GatewayProcess(folder)
    client.addresses = {
        "control": f"{address}:8080", "http": f"{address}:8501", "grpc": f"{address}:8500"
    }  # fmt: skip
    return client
