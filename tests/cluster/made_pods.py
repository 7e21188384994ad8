"""As much of a kubelet as pods on made nodes need: containers as processes of this machine.

One thread for each pod looks ten times a second at what is wanted, at its processes and probes, and
writes the pod's status where it changed. Kept from a kubelet: init containers in order, startup,
readiness and liveness probes, restarts with backoff, restart counts and last exit codes; at
deletion the preStop hook within the grace time, then SIGTERM, at its end SIGKILL, a last status,
and only then the object's removal. Not kept: isolation, resource limits, images, node pressure.

What a container sees of its own network and files is done by words: `0.0.0.0`, `[::]` and
`127.0.0.1` in its command and environment become the pod's address, and the mount path of a volume
the folder that stands for it.
"""

from __future__ import annotations

import http.client
import shutil
import signal
import threading
from contextlib import suppress
from datetime import UTC, datetime
from time import perf_counter

from tests.cluster.api import Api, ApiError, Json, ignoring, path_of
from tests.cluster.made_containers import MadeContainer, Surroundings
from tests.cluster.probes import http_get

LEAST_GRACE_S = 2.0
"""minimumGracePeriodInSeconds of the kubelet (pkg/kubelet/kuberuntime)."""

LOOK_S = 0.1
"""Between looks at processes and probes; probes have their own period on top."""


class MadePod:
    """One pod's life, from its binding to its removal from the API."""

    def __init__(self, around: Surroundings) -> None:
        pod = around.pod
        self.name = str(pod["metadata"]["name"])
        self.namespace = str(pod["metadata"]["namespace"])
        self.address = around.address
        self._api = around.api
        self._around = around
        spec = pod["spec"]
        self._first = [MadeContainer(c, self._around) for c in spec.get("initContainers", [])]
        self.containers = {c["name"]: MadeContainer(c, self._around) for c in spec["containers"]}
        self._initialized = False
        self._wanted = pod
        self._written: Json = {}
        self._began = _now()
        self._ending = 0.0
        self._look = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"made pod {self.name}")

    @property
    def pid(self) -> int:
        """Of the first container's process."""
        return next(iter(self.containers.values())).pid

    @property
    def log(self) -> str:
        """What the first container has written, over all its lives."""
        path = next(iter(self.containers.values())).log
        return path.read_text(errors="replace") if path.exists() else ""

    def container(self, name: str) -> MadeContainer | None:
        """One of its containers, or init containers."""
        return next((c for c in self._all() if c.name == name), None)

    def start(self) -> None:
        """Begin; returns at once."""
        self._around.folder.mkdir(parents=True)
        self._thread.start()

    def look_at(self, pod: Json) -> None:
        """What the API says of the pod now."""
        self._wanted = pod
        self._look.set()

    def abandon(self) -> None:
        """Gone from the API, or the node is: kill its processes, say nothing more."""
        self._abandoned.set()
        self._look.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _live(self) -> None:
        try:
            while not self._abandoned.is_set():
                if "deletionTimestamp" in self._wanted["metadata"]:
                    if self._end():
                        return
                else:
                    # No connection to the API server: the processes go on, as under a kubelet.
                    with suppress(OSError, http.client.HTTPException, ApiError):
                        self._advance()
                        self._write(self._status())
                self._look.wait(LOOK_S)
                self._look.clear()
        finally:
            for container in self._all():
                container.signal(signal.SIGKILL)
                container.wait()
            shutil.rmtree(self._around.folder, ignore_errors=True)

    def _all(self) -> list[MadeContainer]:
        return [*self._first, *self.containers.values()]

    def _advance(self) -> None:
        """Init containers one after the other, then all others at once."""
        for container in self._first:
            stays = container.spec.get("restartPolicy") == "Always"  # a sidecar
            if stays or container.code != 0:
                container.look()
            if not (container.is_ready if stays else container.code == 0):
                return
        self._initialized = True
        for container in self.containers.values():
            container.look()

    def _end(self) -> bool:
        """Hooks, SIGTERM, grace, SIGKILL, a last status; whether the API has let go of the pod."""
        self._ending = self._ending or perf_counter()
        hooks = [threading.Thread(target=self._stop, args=(c,)) for c in self.containers.values()]
        for hook in hooks:
            hook.start()
        for hook in hooks:
            hook.join()
        for container in self._first:
            container.signal(signal.SIGTERM)
        with suppress(OSError, http.client.HTTPException, ApiError):
            finalize(self._api, self._wanted, self._status())
            return True
        self._abandoned.wait(0.5)  # the API server is away: the deletion is said again later
        return False

    def _end_at(self) -> float:
        """When the grace is over. A second deletion may shorten it; a kubelet that has begun the
        preStop hook goes through with that all the same (seen on the real node)."""
        grace_s = float(self._wanted["metadata"].get("deletionGracePeriodSeconds", 30))
        return self._ending + grace_s

    def _stop(self, container: MadeContainer) -> None:
        hook = container.spec.get("lifecycle", {}).get("preStop", {})
        if container.is_running and hook:
            self._hook(container, hook)
        container.signal(signal.SIGTERM)
        # However long the hook took, a kubelet leaves two seconds between the signals.
        least = perf_counter() + LEAST_GRACE_S
        while container.is_running and perf_counter() < max(least, self._end_at()):
            if self._abandoned.wait(0.02):
                break
        container.signal(signal.SIGKILL)
        container.wait()

    def _hook(self, container: MadeContainer, hook: Json) -> None:
        left_s = max(0.1, self._end_at() - perf_counter())
        if sleeps := hook.get("sleep"):
            self._abandoned.wait(min(left_s, float(sleeps["seconds"])))
        elif get := hook.get("httpGet"):
            with suppress(OSError, http.client.HTTPException):
                http_get(self.address, container.port(get["port"]), get, left_s)
        elif run := hook.get("exec"):
            container.run(run["command"], left_s)

    def _status(self) -> Json:
        containers = list(self.containers.values())
        ready = self._initialized and all(c.is_ready for c in containers)
        return {
            "phase": "Running" if self._initialized else "Pending",
            "startTime": self._began,
            **_addresses(self.address),
            "conditions": conditions(self._initialized, ready),
            "initContainerStatuses": [c.status() for c in self._first],
            "containerStatuses": [c.status() for c in containers],
        }

    def _write(self, status: Json) -> None:
        """Say it, if it is news or if somebody has said otherwise (a node controller does)."""
        of_api = is_ready(self._wanted) == _says_ready(status)
        if status == self._written and of_api:
            return
        with ignoring(404):
            stamped = {**status, "conditions": _stamped(status["conditions"])}
            self._api.patch(
                "pods", self.namespace, self.name, {"status": stamped}, sub="status",
                how="strategic",
            )  # fmt: skip
            self._written = status


def say_all_ready(api: Api, pod: Json, address: str) -> None:
    """Write that every container of a pod runs and is ready. Nothing does."""
    status = {
        "phase": "Running",
        "startTime": _now(),
        **_addresses(address),
        "conditions": _stamped(conditions(True, True)),
        "containerStatuses": [
            {"name": c["name"], "image": c["image"], "imageID": "", "ready": True,
             "started": True, "restartCount": 0, "state": {"running": {"startedAt": _now()}}}
            for c in pod["spec"]["containers"]
        ],
    }  # fmt: skip
    meta = pod["metadata"]
    body = {"status": status}
    api.patch("pods", meta["namespace"], meta["name"], body, sub="status", how="strategic")


def finalize(api: Api, pod: Json, status: Json | None = None) -> None:
    """The kubelet's last word: nothing of the pod runs any more, so its object may go."""
    meta = pod["metadata"]
    with ignoring(404, 409):
        if status is not None:
            stamped = {**status, "conditions": _stamped(conditions(True, False))}
            body = {"status": stamped}
            api.patch("pods", meta["namespace"], meta["name"], body, sub="status", how="strategic")
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        api.call("DELETE", path_of("pods", meta["namespace"], meta["name"]), options)


def is_ready(pod: Json) -> bool:
    """Whether the API says that a pod is Ready."""
    return _says_ready(pod.get("status", {}))


def conditions(initialized: bool, ready: bool) -> list[Json]:
    """A pod's conditions but for the scheduler's."""
    says = {"Initialized": initialized, "ContainersReady": ready, "Ready": ready}
    return [{"type": kind, "status": str(value)} for kind, value in says.items()]


def _says_ready(status: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))


def _stamped(said: list[Json]) -> list[Json]:
    return [{**c, "lastTransitionTime": _now()} for c in said]


def _addresses(address: str) -> Json:
    return {"hostIP": address, "podIP": address, "podIPs": [{"ip": address}]}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
