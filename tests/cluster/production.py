"""The overlay `production` on the real node, step by step as deploy/README.md tells people.

PostgreSQL and an S3 server run on this machine. Pods reach them at the node's address, at the ports
of the README: 5432, and 9000 for object storage that has a port of its own.

Not shown by it: there is one node, so nothing is spread; no kube-proxy and no DNS, so pods are
asked at their own addresses, the control API through kubectl port-forward to its Service, and of
the other Services only where they lead; nothing enforces the network policies; the database and the
storage speak clear text; the kinds of the Prometheus operator are left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from loadtests.models import write_adder
from tests.cluster import programs
from tests.cluster.api import Json
from tests.cluster.audit import Call
from tests.cluster.control_plane import ControlPlane
from tests.cluster.deployed import NAMESPACES, deployed, kubectl
from tests.cluster.gateway_on_pods import OURS
from tests.cluster.on_a_node import gateway_in, ready_pods
from tests.cluster.real_node import RealNode
from tests.parts.gateway_process import GatewayProcess
from tests.parts.manifests import DEPLOY
from tests.parts.postgres import Postgres
from tests.parts.s3 import S3

USER = "system:serviceaccount:gateway:gateway"
GATEWAYS = 3
"""As the overlay has it."""


def adapted(folder: Path) -> Path:
    """`cp -r deploy mine`, and what an editor does then: where the images are, and the patch for
    storage on a port of its own, which waits in comments."""
    shutil.copytree(DEPLOY, folder / "mine")
    overlay = folder / "mine" / "overlays" / "production"
    for name in ("kustomization.yaml", "gateway.toml"):
        text = (overlay / name).read_text().replace("registry.example.com", "localhost")
        (overlay / name).write_text(re.sub(r"^# (patches:|  )", r"\1", text, flags=re.M))
    return overlay


@dataclass
class Production:
    """What that has made, and what is asked of it."""

    cluster: ControlPlane
    node: RealNode
    s3: S3
    folder: Path
    database: str
    """The URL of the database, as pods find it."""
    storage: str
    """The endpoint of object storage, likewise."""
    version: int = 0
    """The newest that was published."""
    deploy_mark: int = 0
    """In the audit log, just before the model was deployed."""

    def give_secrets(self) -> None:
        """Storage for both namespaces, only to look and fetch; then what the pods wait for."""
        literals = [f"--from-literal={k}={v}" for k, v in self.storage_env.items()]
        create = ("create", "secret", "generic")
        for space in NAMESPACES:
            kubectl(self.cluster, "-n", space, *create, "model-storage", *literals)
        url = f"--from-literal=url={self.database}"
        kubectl(self.cluster, "-n", "gateway", *create, "gateway-database", url)

    @property
    def storage_env(self) -> dict[str, str]:
        """What is in the Secret `model-storage`."""
        return self.s3.env(self.s3.ro, self.storage)

    def waiting(self) -> list[str]:
        """Why containers of gateways do not start, in the kubelet's words."""
        return [
            c["state"]["waiting"].get("message", "")
            for pod in self.cluster.api.list("pods", "gateway")
            for c in pod["status"].get("containerStatuses", [])
            if "waiting" in c["state"]
        ]

    def gateways(self) -> dict[str, GatewayProcess]:
        """By pod, those that are Ready and stay."""
        found = ready_pods(self.cluster, "gateway")
        return {p["metadata"]["name"]: gateway_in(p, self.folder) for p in found}

    def leader(self) -> str:
        """The pod that says that it leads; empty while none does."""
        leading = (n for n, g in self.gateways().items() if g.role()["role"] == "leader")
        return next(leading, "")

    def endpoints(self, service: str) -> dict[str, set[str]]:
        """Where a Service of the namespace `gateway` leads: of each port, `address:port`."""
        label = f"kubernetes.io/service-name={service}"
        found: dict[str, set[str]] = {}
        for part in self.cluster.api.list("endpointslices", "gateway", labelSelector=label):
            ready = [e for e in part["endpoints"] or () if e["conditions"]["ready"]]
            for port in part["ports"]:
                there = {f"{a}:{port['port']}" for e in ready for a in e["addresses"]}
                found.setdefault(port["name"], set()).update(there)
        return found

    @contextlib.contextmanager
    def control(self) -> Iterator[GatewayProcess]:
        """The CLI at the Service of the control API, through kubectl port-forward."""
        kubeconfig = self.cluster.kubeconfig("tests")
        forward = subprocess.Popen(
            [programs.kubectl(), f"--kubeconfig={kubeconfig}", "-n", "gateway", "port-forward",
             "service/gateway-control", ":8080"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert forward.stdout is not None
            said = re.match(r"Forwarding from (127\.0\.0\.1:\d+) ", forward.stdout.readline())
            assert said is not None, "kubectl port-forward has ended"
            client = GatewayProcess(self.folder)
            client.addresses = {"control": said[1]}
            yield client
        finally:
            forward.kill()
            forward.communicate()

    def publish(self, model: str) -> int:
        """The next version, whose answer to 0 is its own number; as who may write."""
        self.version += 1
        staging = self.folder / "staging" / str(self.version)
        write_adder(staging, float(self.version))
        publisher = GatewayProcess(self.folder, env=self.s3.env())
        publisher.addresses = {"control": "127.0.0.1:9"}  # it asks no gateway
        publisher.cli("publish", str(staging), source(model), "--version", str(self.version))
        return self.version

    def kill(self, name: str) -> None:
        """As a node that is lost: all its processes at once, and its object without a grace."""
        for pid in self.node.pids(self.cluster.api.get("pods", "gateway", name)):
            with contextlib.suppress(ProcessLookupError):  # it went with its sandbox
                os.kill(pid, signal.SIGKILL)
        self.cluster.api.delete("pods", "gateway", name, grace_s=0)

    def environment(self, pod: Json) -> dict[str, str]:
        """What the processes of a pod were given."""
        texts = [Path(f"/proc/{pid}/environ").read_text() for pid in self.node.pids(pod)]
        return dict(v.split("=", 1) for text in texts for v in text.split("\0") if "=" in v)

    def models(self) -> dict[str, Json]:
        """The pods of models, by UID."""
        return {p["metadata"]["uid"]: p for p in self.cluster.api.list("pods", "models")}

    def left(self) -> list[str]:
        """What there is of ours in the namespace of the models."""
        return [
            f"{kind}/{one['metadata']['name']}"
            for kind in (*OURS, "endpointslices")
            for one in self.cluster.api.list(kind, "models")
        ]

    def writes(self, mark: int) -> list[Call]:
        """What gateways have asked the API server to change since; `pod` says which of them."""
        return [c for c in self.cluster.audit.since(mark, user=USER) if c.is_write]


def source(model: str) -> str:
    """Of a model, as `deploy` is told."""
    return f"s3://models/{model}"


@contextlib.contextmanager
def production(
    cluster: ControlPlane, node: RealNode, postgres: Postgres, s3: S3, folder: Path
) -> Iterator[Production]:
    """The overlay applied, without its Secrets yet; at the end its namespaces are gone."""
    there = node.open_gate(postgres.port, 5432)
    database = postgres.database().replace(f"127.0.0.1:{postgres.port}", there)
    s3_port = urlsplit(s3.endpoint).port
    assert s3_port is not None
    storage = f"http://{node.open_gate(s3_port, 9000)}"
    with deployed(cluster, adapted(folder)):
        yield Production(cluster, node, s3, folder, database, storage)
