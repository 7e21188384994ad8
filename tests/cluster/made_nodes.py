"""GPU nodes that exist only in the API, so that the real scheduler has something to schedule on.

What is real: the Node objects with `nvidia.com/gpu`, product label, Lease and Ready condition; the
scheduler that places pods on them; the controllers that make, evict and replace pods; every status
and deletion as the API server sees it. What is not: there is no kubelet and no container. Unless
asked otherwise, a pod placed here stays Pending, as on a node whose kubelet is dead.

`MadeNodes(…, images={"localhost/onnx:1": [sys.executable, "-m", "servers.onnx"]})` plays as much of
a kubelet as predictions through pods need (made_pods.py): each container is the given program as a
plain process of this machine on the pod's own loopback address. `images=SAID` plays even less: pods
are said to be Ready and nothing runs; for thousands of pods.

For a real node with real containers see real_node.py; use it wherever it can run.
"""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from types import MappingProxyType

from tests.cluster.api import ApiError, Json, ignoring
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_containers import MadeContainer, Surroundings
from tests.cluster.made_logs import MadeLogs
from tests.cluster.made_pods import MadePod, finalize, is_ready, say_all_ready
from tests.cluster.waiting import until

A100 = "NVIDIA-A100-SXM4-80GB"
"""A product as GPU feature discovery writes it into the label."""

PRODUCT = "nvidia.com/gpu.product"

BEAT_S = 2.0
"""Kubernetes' own is 10 s with a grace of 50; here the grace is commands.GRACE_S."""

SAID: Mapping[str, Sequence[str]] = MappingProxyType({})
"""`images=SAID`: pods are said to be Ready at an address where nothing listens."""


class MadeNodes:
    """Nodes, their heartbeats, and, where `images` is given, their pods. A context manager."""

    def __init__(
        self, cluster: ControlPlane, images: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.cluster = cluster
        self.images = images
        self._api = cluster.client("made-nodes")
        self._nodes: dict[str, Json] = {}
        self._silent: set[str] = set()
        self._pods: dict[str, MadePod] = {}
        self._addresses: dict[str, str] = {}
        self._indexes = itertools.count()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._beat, name="made nodes' heartbeats")]
        if images is not None:
            self._threads.append(threading.Thread(target=self._watch, name="made nodes' pods"))
        self._logs = MadeLogs(cluster, self._find) if images else None
        self._said = ThreadPoolExecutor(8, "made pods") if images is SAID else None

    def __enter__(self) -> MadeNodes:
        for thread in self._threads:
            thread.start()
        if self._logs is not None:
            self._logs.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """End every pod's processes and delete the nodes."""
        self._ended.set()
        if self._logs is not None:
            self._logs.__exit__(*error)
        for pod in list(self._pods.values()):
            pod.abandon()
        for thread in self._threads:
            thread.join()
        if self._said is not None:
            self._said.shutdown(cancel_futures=True)
        for name in list(self._nodes):
            with suppress(ApiError, OSError):
                self.remove(name)
        self._api.close()

    def add(
        self,
        name: str,
        *,
        gpus: int = 0,
        product: str = A100,
        cpu: str = "32",
        memory: str = "128Gi",
        resources: Mapping[str, str] = MappingProxyType({}),
        labels: Mapping[str, str] = MappingProxyType({}),
        taints: Sequence[Json] = (),
    ) -> str:
        """Make a node that is Ready and stays so; return its name. `resources`: others (MIG)."""
        label = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels}
        capacity = {"cpu": cpu, "memory": memory, "pods": "500", **resources}
        if gpus:
            label[PRODUCT] = product
            capacity["nvidia.com/gpu"] = str(gpus)
        body = {"metadata": {"name": name, "labels": label}, "spec": {"taints": list(taints)}}
        for pod in self._api.list("pods"):
            if pod["spec"].get("nodeName") == name:
                # Of a node of this name before it, which nobody ends any more.
                meta = pod["metadata"]
                self._api.delete("pods", meta["namespace"], meta["name"], grace_s=0)
        self._api.create("nodes", None, body)
        self._nodes[name] = capacity
        self._renew(name)
        self._say_ready(name)
        # A new node carries a taint until the controllers have seen that it is Ready.
        until(lambda: not _tainted_by_condition(self._api.get("nodes", None, name)))
        return name

    def remove(self, name: str) -> None:
        """Delete the node as if its machine were gone: pods there are garbage, and collected."""
        self._nodes.pop(name, None)
        self._silent.discard(name)
        self._api.delete("nodes", None, name)
        self._api.delete("leases", "kube-node-lease", name)

    def silence(self, name: str) -> None:
        """Stop its heartbeats: after commands.GRACE_S it is NotReady, its processes go on."""
        self._silent.add(name)

    def resume(self, name: str) -> None:
        """Let its heartbeats go on."""
        self._silent.discard(name)

    def pod(self, name: str) -> MadePod:
        """A pod that runs here, by its name."""
        return next(p for p in self.pods() if p.name == name)

    def pods(self) -> list[MadePod]:
        """The pods that run here."""
        return list(self._pods.values())

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            for name in [n for n in list(self._nodes) if n not in self._silent]:
                # No connection: the next beat tries again, as a kubelet does.
                with suppress(ApiError, OSError):
                    self._renew(name)
            with suppress(ApiError, OSError):
                self._say_ready_again()

    def _renew(self, name: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}
        try:
            self._api.patch("leases", "kube-node-lease", name, {"spec": spec})
        except ApiError as error:
            if error.status != 404:
                raise
            body = {"metadata": {"name": name}, "spec": spec}
            self._api.create("leases", "kube-node-lease", body)

    def _say_ready_again(self) -> None:
        """After an outage of the API server the controllers may have written Ready=Unknown."""
        for node in self._api.list("nodes"):
            name = node["metadata"]["name"]
            if name in self._nodes and name not in self._silent and _ready(node) != "True":
                self._say_ready(name)

    def _say_ready(self, name: str) -> None:
        capacity, now = self._nodes[name], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = [
            {"type": kind, "status": value, "reason": "MadeNode", "lastHeartbeatTime": now,
             "lastTransitionTime": now}
            for kind, value in (("Ready", "True"), ("MemoryPressure", "False"),
                                ("DiskPressure", "False"), ("PIDPressure", "False"))
        ]  # fmt: skip
        status = {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": self.cluster.slot.address}],
        }
        self._api.patch("nodes", None, name, {"status": status}, sub="status", how="strategic")

    def _watch(self) -> None:
        """List, then watch; list again only after an error, as a kubelet does."""
        version = ""
        while not self._ended.is_set():
            try:
                if not version:
                    version = self._list()
                # Short, so that the end is noticed; on a loopback a new watch costs nothing.
                for event in self._api.watch("pods", version, timeout_s=2):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] == "DELETED":
                        self._gone(event["object"]["metadata"]["uid"])
                    elif event["type"] != "BOOKMARK":
                        self._look_at(event["object"])
            except (ApiError, OSError, http.client.HTTPException):
                version = ""
                self._ended.wait(0.2)

    def _list(self) -> str:
        listed = self._api.call("GET", "/api/v1/pods")
        there = {p["metadata"]["uid"]: p for p in listed["items"]}
        for uid in [u for u in self._addresses if u not in there]:
            self._gone(uid)
        for pod in there.values():
            self._look_at(pod)
        return str(listed["metadata"]["resourceVersion"])

    def _find(self, namespace: str, name: str, container: str) -> MadeContainer | None:
        for pod in list(self._pods.values()):
            known = pod.container(container)
            if (pod.namespace, pod.name) == (namespace, name) and known is not None:
                return known
        return None

    def _look_at(self, pod: Json) -> None:
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName")
        if node not in self._nodes or self._ended.is_set():
            return
        if uid not in self._addresses:
            self._addresses[uid] = self.cluster.slot.made_pod_address(next(self._indexes) % 64_000)
        if self._said is not None:
            self._said.submit(self._say, pod, self._addresses[uid])
        elif (known := self._pods.get(uid)) is not None:
            known.look_at(pod)
        elif "deletionTimestamp" in pod["metadata"]:
            self._say(pod, self._addresses[uid])
        else:
            folder = self.cluster.slot.folder
            around = Surroundings(
                api=self._api,
                pod=pod,
                images=self.images or {},
                address=self._addresses[uid],
                folder=folder / "pods" / uid,
                mark=str(folder),
            )
            made = MadePod(around)
            self._pods[uid] = made
            made.start()

    def _gone(self, uid: str) -> None:
        """No longer in the API: by `finalize`, or deleted by force."""
        self._addresses.pop(uid, None)
        pod = self._pods.pop(uid, None)
        if pod is not None:
            pod.abandon()

    def _say(self, pod: Json, address: str) -> None:
        with suppress(OSError), ignoring(404, 409):
            if "deletionTimestamp" in pod["metadata"]:
                finalize(self._api, pod)
            elif not is_ready(pod):
                say_all_ready(self._api, pod, address)


def _tainted_by_condition(node: Json) -> bool:
    taints = node["spec"].get("taints", [])
    return any(t["key"].startswith("node.kubernetes.io/") for t in taints)


def _ready(node: Json) -> str:
    conditions = node.get("status", {}).get("conditions", [])
    return next((str(c["status"]) for c in conditions if c["type"] == "Ready"), "")
