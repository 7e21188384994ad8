"""The rights that deploy/ gives are enough, and each of them is needed.

A gateway with the service account of the overlay `local`, on the real API server. Its models come
from a real S3 server, whose credentials are in the Secret that deploy/README.md tells to make; its
pods are in the namespace `models`, where pods are restricted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.api import Json
from tests.cluster.audit import Call
from tests.cluster.control_plane import ControlPlane
from tests.cluster.deployed import deployed
from tests.cluster.made_nodes import MadeNodes
from tests.cluster.waiting import until
from tests.parts.gateway_process import Failed, GatewayProcess
from tests.parts.manifests import one
from tests.parts.need import need
from tests.parts.s3 import INSTALL, S3, s3_server, weed

need(
    all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime", "kubernetes")),
    "pip install -e '.[onnx,kubernetes,dev]'",
)
from loadtests.models import write_adder  # noqa: E402 - needs the parts checked above

pytestmark = [pytest.mark.slow, pytest.mark.onnx, pytest.mark.timeout(300)]

USER = "system:serviceaccount:gateway:gateway"
ONNX = "localhost/server-onnx:0.1.0"
MODEL = "digits"

ROLE = one("local", "Role", "gateway", "models")
RIGHTS = [
    (verb, resource)
    for rule in ROLE["rules"]
    for resource in rule["resources"]
    for verb in rule["verbs"]
]
LOOKING = ("list", "watch")


def rights(*, looking: bool) -> pytest.MarkDecorator:
    """A test for each of them."""
    chosen = [r for r in RIGHTS if (r[0] in LOOKING) is looking]
    return pytest.mark.parametrize(("verb", "resource"), chosen, ids=map(" ".join, chosen))


@dataclass
class Installed:
    """What deploy/ has made of a cluster, with something to serve."""

    cluster: ControlPlane
    s3: S3
    folder: Path
    kubeconfig: Path

    def gateway(self, name: str) -> GatewayProcess:
        """One that has not started yet, with a state of its own."""
        toml = self.folder / "gateway.toml"
        toml.write_text(
            '[kubernetes]\nnamespace = "models"\ncredentials_secret = "model-storage"\n'
            f'leave_s = 5.0\nlast_apply_retry_s = 2.0\n[kubernetes.images]\nonnx = "{ONNX}"\n'
        )
        flags = ["--scheduler", "kubernetes", "--kubeconfig", str(self.kubeconfig), "--config",
                 str(toml), "--poll-s", "0.5", "--settle-s", "0.5"]  # fmt: skip
        return GatewayProcess(self.folder / name, flags, self.s3.env())

    @contextlib.contextmanager
    def without(self, verb: str, resource: str) -> Iterator[None]:
        """The role lacks one right meanwhile."""
        rules = deepcopy(ROLE["rules"])
        for rule in rules:
            if resource in rule["resources"]:
                rule["verbs"].remove(verb)
        self._set([rule for rule in rules if rule["verbs"]])
        until(lambda: not self.may(verb, resource))
        try:
            yield
        finally:
            self._set(ROLE["rules"])
            until(lambda: self.may(verb, resource))

    def may(self, verb: str, resource: str) -> bool:
        """As the API server judges at this moment."""
        kind, _, part = resource.partition("/")
        (group,) = [r["apiGroups"][0] for r in ROLE["rules"] if resource in r["resources"]]
        asked = {"namespace": "models", "verb": verb, "group": group, "resource": kind}
        spec = {"user": USER, "resourceAttributes": {**asked, "subresource": part}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self.cluster.api.call("POST", path, {"spec": spec})["status"]["allowed"])

    def _set(self, rules: Sequence[Json]) -> None:
        self.cluster.api.patch("roles", "models", "gateway", {"rules": list(rules)})

    def end_a_pod(self) -> str:
        """One of the model's ends for good, as one that its node has evicted; its name."""
        name: str = self.cluster.api.list("pods", "models")[0]["metadata"]["name"]
        over = {"status": {"phase": "Failed", "reason": "Evicted"}}
        self.cluster.api.patch("pods", "models", name, over, sub="status")
        return name

    def pods(self) -> set[str]:
        """Names of those in the models' namespace."""
        return {pod["metadata"]["name"] for pod in self.cluster.api.list("pods", "models")}

    def left(self) -> list[str]:
        """Of the gateway's, in the models' namespace."""
        kinds = ("deployments", "services", "poddisruptionbudgets", "pods")
        return [
            o["metadata"]["name"] for kind in kinds for o in self.cluster.api.list(kind, "models")
        ]


@pytest.fixture(scope="module")
def installed(
    cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    need(weed() is not None, INSTALL)
    folder = tmp_path_factory.mktemp("installed")
    with (
        deployed(cluster, "local"),
        s3_server() as s3,
        MadeNodes(cluster, {ONNX: [sys.executable]}) as nodes,
    ):
        nodes.add("node-a")
        secret = {"metadata": {"name": "model-storage"}, "stringData": s3.env(s3.ro)}
        cluster.api.create("secrets", "models", secret)
        until(lambda: cluster.api.get("serviceaccounts", "models", "default"))
        made = Installed(cluster, s3, folder, cluster.service_account("gateway", "gateway"))
        yield made


@pytest.fixture(scope="module")
def published(installed: Installed) -> str:
    """The source of a model with one version."""
    write_adder(installed.folder / "staging", 1.0)
    source = f"s3://models/{MODEL}"
    gateway = installed.gateway("publisher")
    gateway.addresses = {"control": "127.0.0.1:9"}
    gateway.cli("publish", str(installed.folder / "staging"), source, "--version", "1")
    return source


def test_with_all_of_them_a_model_lives_from_deploy_to_delete(
    installed: Installed, published: str
) -> None:
    mark = installed.cluster.audit.mark()
    gateway = installed.gateway("whole")
    gateway.start(timeout_s=60.0)
    try:
        gateway.cli("deploy", "model", MODEL, "--source", published, "--replicas", "2")
        assert "42" in gateway.cli("predict", MODEL, "--data", "[[41.0]]").stdout
        gateway.cli("logs", MODEL)
        over = installed.end_a_pod()
        until(lambda: over not in installed.pods() and len(installed.pods()) == 2)
        gateway.cli("scale", "model", MODEL, "--replicas", "1")
        until(lambda: len(installed.pods()) == 1)
        gateway.cli("delete", "model", MODEL)
        until(lambda: not installed.left())
    finally:
        gateway.stop()
    calls = installed.cluster.audit.since(mark, user=USER)
    refused = {(c.verb, c.resource) for c in calls if c.status == 403}
    # Whether the namespace is there is asked for a better message, and goes without the answer.
    assert refused <= {("get", "namespaces")}
    assert {c.namespace for c in calls if c.status < 300} == {"models"}
    used = {(c.verb, c.resource) for c in calls} - refused
    # Making something by server-side apply is a `patch` in the log; see the test below.
    assert used == {(verb, resource) for verb, resource in RIGHTS if verb != "create"}


@pytest.fixture(scope="module")
def running(installed: Installed) -> Iterator[GatewayProcess]:
    gateway = installed.gateway("running")
    gateway.start(timeout_s=60.0)
    yield gateway
    gateway.stop()


def refused(installed: Installed, mark: int, verb: str, resource: str) -> Callable[[], list[Call]]:
    """Whether the API server has refused it since."""
    asked = "patch" if verb == "create" else verb

    def look() -> list[Call]:
        calls = installed.cluster.audit.since(mark, user=USER, verb=asked, resource=resource)
        return [c for c in calls if c.status == 403]

    return look


@pytest.mark.long
@rights(looking=True)
def test_a_gateway_that_may_not_look_says_so(
    installed: Installed, verb: str, resource: str
) -> None:
    mark = installed.cluster.audit.mark()
    gateway = installed.gateway(f"without-{verb}-{resource}")
    with installed.without(verb, resource):
        try:
            gateway.start(timeout_s=60.0)
        except Failed:
            assert verb == "list"
        try:
            until(refused(installed, mark, verb, resource))
            words = f'cannot {verb} resource "{resource}"'
            until(lambda: words in gateway.log().replace("\\", ""))
        finally:
            gateway.stop()


@pytest.mark.long
@rights(looking=False)
def test_what_a_gateway_may_not_do_is_not_done_until_it_may(
    installed: Installed, published: str, running: GatewayProcess, verb: str, resource: str
) -> None:
    mark = installed.cluster.audit.mark()
    deploy = ("deploy", "model", MODEL, "--source", published, "--replicas", "2")
    makes = verb in ("create", "patch") and resource != "pods"
    if not makes:
        running.cli(*deploy)
    with installed.without(verb, resource):
        if makes:
            # A Service or a budget that is missing holds nobody up, and is told all the same.
            running.cli(*deploy, "--timeout", "8", check=False)
        elif (verb, resource) == ("delete", "pods"):
            over = installed.end_a_pod()
        elif resource == "pods":
            running.cli("scale", "model", MODEL, "--replicas", "1")
        elif resource == "pods/log":
            said = running.cli("logs", MODEL, check=False)
            assert f'cannot get resource "{resource}"' in said.stdout + said.stderr
        else:
            running.cli("delete", "model", MODEL, "--no-wait")
        until(refused(installed, mark, verb, resource))
        if resource != "pods/log":
            assert f'cannot {verb} resource "{resource}"' in running.log().replace("\\", "")
    # It goes on by itself from where it was held up.
    if makes:
        until(lambda: not running.cli(*deploy, check=False).returncode, 120)
    if (verb, resource) == ("delete", "pods"):
        until(lambda: over not in installed.pods())
    elif resource == "pods":
        until(lambda: len(installed.pods()) == 1)
    running.cli("delete", "model", MODEL, check=False)
    until(lambda: not installed.left(), 120)
