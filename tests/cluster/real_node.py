"""One real node: kubelet, containerd and runc; pods that really run and answer at their addresses.

    with real_node(cluster) as node:
        node.import_image(tar)
        node.set_resources({"nvidia.com/gpu": "4"})

All of it lives in a network and a mount namespace of its own. There is no route out of it: this
machine reaches the pods over one veth link, and they reach the API server at the address of the
Service `kubernetes` (gate.py). /run, /var/lib, /var/log and the kernel settings that a kubelet
changes are the namespace's own: the machine's stay as they are, and no mount outlives the node.

Needs root and Debian's containerd, runc, containernetworking-plugins. Other Services than
`kubernetes` have no address that works, as there is no kube-proxy: talk to pods.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from tests.cluster.api import Json
from tests.cluster.commands import SERVICE_ADDRESS
from tests.cluster.control_plane import ControlPlane, revived
from tests.cluster.identities import write_kubeconfig
from tests.cluster.images import write_image
from tests.cluster.made_nodes import PRODUCT
from tests.cluster.node_files import PAUSE, cni_config, containerd_config, kubelet_config
from tests.cluster.node_host import Namespaces, hierarchies, make_cgroups, plugins
from tests.cluster.part import Part
from tests.cluster.programs import PROJECT, program
from tests.cluster.sweeper import sweep_node
from tests.cluster.waiting import until

NAME = "real-node"

READY_S = 120.0
"""Usually some seconds; as for the control plane, a busy machine takes far longer."""

TINY = "localhost/tests/tiny:1"
"""An image of one small program that serves HTTP on 8000 (binaries/tiny)."""


class RealNode:
    """The running node."""

    name = NAME

    def __init__(self, cluster: ControlPlane) -> None:
        slot = cluster.slot
        self.cluster = cluster
        self.folder = slot.folder / "node"
        self.spaces = Namespaces(slot)
        self._socket = self.folder / "containerd.sock"
        self.parts: dict[str, Part] = {}

    @property
    def address(self) -> str:
        """Of the node itself."""
        return f"{self.cluster.slot.node_subnet}.2"

    def import_image(self, tar: Path) -> list[str]:
        """Make an image known to the node (of `podman save` or images.write_image); its names.

        Pods must say `imagePullPolicy: Never` (or IfNotPresent): there is no registry.
        """
        before = set(self._images())
        self._ctr("images", "import", "--snapshotter", "overlayfs", str(tar))
        # The kubelet's side adds a name by digest to each, in its own time.
        return sorted(n for n in set(self._images()) - before if not n.startswith("sha256:"))

    def set_resources(self, resources: Mapping[str, str], product: str | None = None) -> None:
        """Extended resources such as GPUs, as a device plugin would announce them."""
        status = {"status": {"capacity": dict(resources), "allocatable": dict(resources)}}
        self.cluster.api.patch("nodes", None, NAME, status, sub="status")
        labels = {"metadata": {"labels": {PRODUCT: product}}}
        self.cluster.api.patch("nodes", None, NAME, labels)
        until(lambda: resources.items() <= self._node()["status"]["allocatable"].items())

    def open_gate(self, port: int, seen_as: int | None = None) -> str:
        """Let pods reach a server of this machine that listens on 127.0.0.1:`port`.

        Returns the address at which pods find it, with the port `seen_as` where that is given;
        other loopback ports stay closed to them.
        """
        there = f"{self.address}:{seen_as or port}"
        self._gate(there, f"127.0.0.1:{port}")
        until(lambda: answers(self.address, seen_as or port))
        return there

    def pids(self, pod: Json) -> list[int]:
        """The processes of a pod's containers, as this machine numbers them; sandbox included."""
        at = f"{self.cluster.slot.cgroup}/**/pod{pod['metadata']['uid']}/*/cgroup.procs"
        files = [f for root in hierarchies() for f in root.glob(at)]
        return sorted({int(p) for f in files for p in f.read_text().split()})

    def start(self) -> None:
        """Bring everything up and wait until the node is Ready."""
        slot = self.cluster.slot
        self.folder.mkdir()
        make_cgroups(slot)
        self.spaces.make()
        self._gate(f"{SERVICE_ADDRESS}:443", f"{slot.address}:6443")
        self._start(Part("containerd", slot, self._containerd(), mark="node"))
        self._until(lambda: [self._images()], "containerd")
        for name, command in ((PAUSE, "pause"), (TINY, "serve")):
            tiny = program("tiny")
            assert tiny is not None
            tar = self.folder / f"{command}.tar"
            self.import_image(write_image(tar, name, {"/tiny": tiny}, ["/tiny", command]))
        self._start(Part("kubelet", slot, self._kubelet(), mark="node"))
        self._until(self._is_ready, "kubelet")

    def stop(self) -> None:
        """End it all; its pods and the Node are deleted from the API as if it had never been."""
        for part in self.parts.values():
            part.stop()
        self.spaces.holder.stop()
        sweep_node(self.cluster.slot)
        with contextlib.suppress(OSError):
            api = self.cluster.api
            for pod in api.list("pods", fieldSelector=f"spec.nodeName={NAME}"):
                meta = pod["metadata"]
                api.delete("pods", meta["namespace"], meta["name"], grace_s=0)
            api.delete("nodes", None, NAME)

    def _start(self, part: Part) -> None:
        self.parts[part.name] = part
        part.start()

    def _gate(self, listen: str, target: str) -> None:
        pid = str(self.spaces.holder.pid)
        command = [sys.executable, "-m", "tests.cluster.gate", pid, listen, target]
        environ = {"PYTHONPATH": str(PROJECT)}
        self._start(Part(f"gate-{listen}", self.cluster.slot, command, environ, mark="node"))

    def _until(self, true: Callable[[], object], name: str) -> None:
        part = self.parts[name]
        try:
            until(true, READY_S, partial(revived, part))
        except TimeoutError as error:
            said = f"{name} is not ready: {error}\nIts log ends:\n{part.said()}"
            raise RuntimeError(said) from None

    def _is_ready(self) -> bool:
        conditions = self._node()["status"]["conditions"]
        tainted = self._node()["spec"].get("taints")
        return not tainted and any(
            c["type"] == "Ready" and c["status"] == "True" for c in conditions
        )

    def _node(self) -> Json:
        return self.cluster.api.get("nodes", None, NAME)

    def _images(self) -> list[str]:
        return self._ctr("images", "ls", "-q").split()

    def _ctr(self, *command: str) -> str:
        whole = ["ctr", "--address", str(self._socket), "-n", "k8s.io", *command]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"ctr {' '.join(command)}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _containerd(self) -> list[str]:
        found, networks = plugins(), self.folder / "networks"
        assert found is not None
        networks.mkdir()
        slot = self.cluster.slot
        (networks / "pods.conflist").write_text(json.dumps(cni_config(slot)))
        config = self.folder / "containerd.toml"
        config.write_text(containerd_config(slot, self._socket, found, networks))
        return self.spaces.enter("containerd", "--config", str(config))

    def _kubelet(self) -> list[str]:
        slot, who = self.cluster.slot, self.cluster.identities
        (self.folder / "resolv.conf").write_text("")
        config = self.folder / "kubelet.json"
        config.write_text(json.dumps(kubelet_config(slot, self._socket)))
        url, token = f"https://{SERVICE_ADDRESS}:443", who.tokens[f"system:node:{NAME}"]
        kubeconfig = write_kubeconfig(self.folder / "kubeconfig", url, who.ca, token)
        return self.spaces.enter(
            str(program("kubelet")),
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--root-dir={self.folder}/kubelet",
            f"--cert-dir={self.folder}/kubelet/pki",
            f"--hostname-override={NAME}",
            f"--node-ip={self.address}",
        )


def answers(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.create_connection((host, port), 5):
        return True


@contextlib.contextmanager
def real_node(cluster: ControlPlane) -> Iterator[RealNode]:
    """Start the node; at the end nothing of it is left (node_host.why_not tells beforehand).

    Raises:
        RuntimeError: a part does not start; with the end of its log.
    """
    node = RealNode(cluster)
    try:
        node.start()
        yield node
    finally:
        node.stop()
