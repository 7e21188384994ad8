"""A real `gateway serve --scheduler kubernetes` on the real control plane, with the rights that it
needs and no others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.models import write_adder
from loadtests.swap import adder_shot
from loadtests.traffic import Sample, Summary, Traffic, summarize
from tests.cluster.api import Json
from tests.cluster.control_plane import ControlPlane
from tests.parts.gateway_process import GatewayProcess

ONNX = "localhost/tests/server-onnx:1"
SHELL = "localhost/tests/shell:1"
IMAGES = {ONNX: [sys.executable, "-m", "servers.onnx"], SHELL: ["/bin/sh"]}

RULES: list[Json] = [
    {"apiGroups": [""], "resources": ["pods"],
     "verbs": ["list", "watch", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["services"],
     "verbs": ["list", "watch", "create", "patch", "delete"]},
    {"apiGroups": ["apps"], "resources": ["deployments"],
     "verbs": ["list", "watch", "create", "patch", "delete"]},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"],
     "verbs": ["list", "watch", "create", "patch", "delete"]},
]  # fmt: skip
"""All that the scheduler may do, in the namespace of the models."""

OURS = ("deployments", "replicasets", "services", "poddisruptionbudgets", "pods")


@dataclass
class OnPods:
    """One gateway, and the namespace where its models live."""

    cluster: ControlPlane
    gateway: GatewayProcess
    namespace: str
    folder: Path
    account: str = "gateway"
    """The service account that it is."""

    @property
    def user(self) -> str:
        """Its name in the audit log."""
        return f"system:serviceaccount:{self.namespace}:{self.account}"

    def publish(
        self, model: str, version: int, write: Callable[[Path, float], object] = write_adder
    ) -> None:
        """A version whose answer to 0 is its own number."""
        staging = self.folder / "staging" / model / str(version)
        write(staging, float(version))
        self.gateway.cli("publish", str(staging), self.source(model), "--version", str(version))

    def source(self, model: str) -> str:
        return str(self.folder / "models" / model)

    def deploy(self, model: str, *flags: str, **how: Any) -> Any:
        """`gateway deploy model`, its output."""
        return self.gateway.cli("deploy", "model", model, "--source", self.source(model), *flags,
                                **how)  # fmt: skip

    def replicas(self, model: str, state: str = "") -> list[Json]:
        """What `gateway get replicas` says, of those in `state`."""
        return [r for r in self.gateway.get("replicas", model) if state in ("", r["state"])]

    def left(self) -> list[str]:
        """What there is in the namespace of the gateway's."""
        return [
            f"{kind}/{one['metadata']['name']}"
            for kind in OURS
            for one in self.cluster.api.list(kind, self.namespace)
        ]


@contextlib.contextmanager
def gateway_on_pods(
    cluster: ControlPlane, namespace: str, folder: Path, *flags: str, **settings: Any
) -> Iterator[OnPods]:
    """A gateway in `namespace`; its models are below `folder`, which pods see as a volume."""
    made = prepared(cluster, namespace, folder, *flags, **settings)
    made.gateway.start(timeout_s=60.0)
    try:
        yield made
    finally:
        made.gateway.stop()


def prepared(
    cluster: ControlPlane,
    namespace: str,
    folder: Path,
    *flags: str,
    account: str = "gateway",
    env: Mapping[str, str] | None = None,
    **settings: Any,
) -> OnPods:
    """The same before its start. Several of one namespace and folder differ in their `account`."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    config = {
        "images": {"onnx": ONNX, "onnx-gpu": ONNX},
        "model_volume": f"host:{folder / 'models'}",
        "model_path": str(folder / "models"),
        "leave_s": 30.0,
        **settings,
    }
    kubeconfig = with_rights(cluster, namespace, RULES, account)
    toml = folder / f"{account}.toml"
    toml.write_text(_toml(config))
    arguments = ["--scheduler", "kubernetes", "--kubeconfig", str(kubeconfig), "--config",
                 str(toml), "--poll-s", "0.5", "--settle-s", "0.5", *flags]  # fmt: skip
    gateway = GatewayProcess(folder / f"{account}-state", arguments, env or {})
    return OnPods(cluster, gateway, namespace, folder, account)


def with_rights(
    cluster: ControlPlane, namespace: str, rules: list[Json], account: str = "gateway"
) -> Path:
    """A kubeconfig of a service account that may do what `rules` say."""
    name = {"metadata": {"name": account}}
    group = "rbac.authorization.k8s.io"
    cluster.api.create("serviceaccounts", namespace, name)
    cluster.api.create("roles", namespace, {**name, "rules": rules})
    binding = {
        "roleRef": {"apiGroup": group, "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
    cluster.api.create("rolebindings", namespace, {**name, **binding})
    return cluster.service_account(namespace, account)


def _toml(settings: Mapping[str, Any]) -> str:
    def value(of: Any) -> str:
        if isinstance(of, Mapping):
            inside = ", ".join(f"{json.dumps(k)} = {value(v)}" for k, v in of.items())
            return f"{{ {inside} }}"
        return json.dumps(of)

    return "[kubernetes]\n" + "".join(f"{k} = {value(v)}\n" for k, v in settings.items())


class Load:
    """Predictions over HTTP and gRPC, `rate_per_s` of each, for the length of a `with` block."""

    def __init__(self, gateway: GatewayProcess, model: str, rate_per_s: float = 20.0) -> None:
        self._gateway, self._model, self._rate_per_s = gateway, model, rate_per_s
        self._up = threading.Event()
        self._is_stopped = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        assert self._up.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Ask no more; the end of the block waits for the last answers."""
        if not self._is_stopped:
            self._is_stopped = True
            self._loop.call_soon_threadsafe(self._traffic.stop.set)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._traffic = Traffic(
            self._gateway.http,
            self._gateway.grpc,
            adder_shot(self._model),
            self._rate_per_s,
            # A machine that stands still for seconds fails no request; a refused one does.
            timeout_s=60.0,
        )
        self._up.set()
        await self._traffic.run()

    @property
    def summary(self) -> Summary:
        """Of what was answered so far."""
        return summarize(self._traffic.samples)

    @property
    def outstanding(self) -> int:
        """Requests that were sent and are not answered yet."""
        return self._traffic.outstanding

    @property
    def samples(self) -> list[Sample]:
        """What came of each request so far; times are time.monotonic()'s."""
        return list(self._traffic.samples)

    @property
    def versions(self) -> set[int | None]:
        """That have answered."""
        return {s.version for s in self._traffic.samples}
