"""What the manifests say to each other and to the program that they run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from gateway import __version__
from gateway.control.operations import OPERATIONS
from gateway.telemetry import Metrics
from tests.parts.manifests import DEPLOY, OVERLAYS, ROOT, Object, objects, one

YAML = sorted(DEPLOY.rglob("*.yaml"))

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def settings(overlay: str) -> dict[str, object]:
    (found,) = [
        o
        for o in objects(overlay)
        if o["kind"] == "ConfigMap" and "gateway.toml" in o.get("data", {})
    ]
    return tomllib.loads(found["data"]["gateway.toml"])


def container(overlay: str) -> Object:
    (found,) = one(overlay, "Deployment", "gateway")["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("path", YAML, ids=lambda p: str(p.relative_to(DEPLOY)))
def test_every_file_is_yaml_and_says_what_it_is(path: Path) -> None:
    for read in yaml.safe_load_all(path.read_text()):
        assert {"apiVersion", "kind"} <= read.keys()


@each_overlay
def test_an_overlay_names_each_object_once_and_in_one_of_two_namespaces(overlay: str) -> None:
    found = [
        (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects(overlay)
    ]
    assert len(set(found)) == len(found)
    spaces = {name for kind, _, name in found if kind == "Namespace"}
    assert spaces == {"gateway", "models"}
    assert {space for kind, space, _ in found if kind != "Namespace"} == spaces


@each_overlay
def test_the_rights_are_where_the_models_are_and_the_gateways_own(overlay: str) -> None:
    kubernetes = settings(overlay)["kubernetes"]
    assert isinstance(kubernetes, dict)
    role = one(overlay, "Role", "gateway", "models")
    assert role["metadata"]["namespace"] == kubernetes["namespace"] == "models"
    (subject,) = one(overlay, "RoleBinding", "gateway", "models")["subjects"]
    pod = one(overlay, "Deployment", "gateway")["spec"]["template"]["spec"]
    assert (subject["name"], subject["namespace"]) == (pod["serviceAccountName"], "gateway")
    assert not [o for o in objects(overlay) if o["kind"].startswith("ClusterRole")]
    assert "*" not in str(role["rules"])


@each_overlay
def test_services_lead_to_ports_that_the_container_has(overlay: str) -> None:
    ports = {p["name"]: p["containerPort"] for p in container(overlay)["ports"]}
    assert ports == {"http": 8501, "grpc": 8500, "control": 8080}
    services = [o for o in objects(overlay) if o["kind"] == "Service"]
    assert len(services) == 3
    for service in services:
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


@each_overlay
def test_probes_ask_pages_that_there_are(overlay: str) -> None:
    made = container(overlay)
    control = {o.path for o in OPERATIONS if o.method == "GET"}
    for probe in ("startupProbe", "livenessProbe"):
        assert made[probe]["httpGet"]["port"] == "control"
        assert made[probe]["httpGet"]["path"] in control
    assert made["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}


@each_overlay
def test_a_pod_has_time_to_leave(overlay: str) -> None:
    from gateway.domain.models import ModelSpec

    waits = int(container(overlay)["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = one(overlay, "Deployment", "gateway")["spec"]["template"]["spec"][
        "terminationGracePeriodSeconds"
    ]
    assert grace > waits + ModelSpec.__dataclass_fields__["timeout_s"].default


@each_overlay
def test_images_are_of_this_version(overlay: str) -> None:
    named = [container(overlay)["image"]]
    kubernetes = settings(overlay)["kubernetes"]
    assert isinstance(kubernetes, dict)
    ours = [i for i in kubernetes["images"].values() if "tensorflow/serving" not in i]
    for image in (*named, *ours):
        assert re.fullmatch(rf"[^:]+:{re.escape(__version__)}(-cuda)?", image), image
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.M))
    assert {i.rpartition(":")[0].rpartition("/")[2] for i in (*named, *ours)} <= targets


def test_the_local_gateway_keeps_its_state_and_is_alone() -> None:
    """Two would each take the other's models for garbage; so would one that forgets its own."""
    deployment = one("local", "Deployment", "gateway")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    volumes = {v["name"]: v for v in deployment["template"]["spec"]["volumes"]}
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == "gateway-state"
    assert "GATEWAY_DATABASE_URL" not in str(container("local"))
    assert not [o for o in objects("local") if o["kind"] == "PodDisruptionBudget"]


def test_in_production_several_share_a_database_whose_password_is_in_a_secret() -> None:
    assert one("production", "Deployment", "gateway")["spec"]["replicas"] >= 2
    (url,) = [e for e in container("production")["env"] if e["name"] == "GATEWAY_DATABASE_URL"]
    assert url["valueFrom"]["secretKeyRef"] == {"name": "gateway-database", "key": "url"}
    assert one("production", "PodDisruptionBudget", "gateway")["spec"]["maxUnavailable"] == 1
    assert not [o for o in objects("production") if o["kind"] == "Secret"]


def test_the_metrics_page_that_is_scraped_is_on_the_port_of_predictions() -> None:
    from gateway.dataplane.http import METRICS_PATH

    (endpoint,) = one("production", "PodMonitor", "gateway")["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", METRICS_PATH)
    assert Metrics().render()
