"""deploy/ on the real API server: as `kubectl apply -k` takes it, and with the rights it gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.api import Api, Json
from tests.cluster.control_plane import ControlPlane
from tests.cluster.deployed import apply, deployed
from tests.cluster.waiting import until
from tests.parts.manifests import known, objects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def applied(cluster: ControlPlane) -> Iterator[None]:
    """The overlay `local`, on the cluster."""
    with deployed(cluster, "local"):
        yield


def test_a_second_apply_changes_nothing(cluster: ControlPlane, applied: None) -> None:
    said = apply(cluster, "local")
    assert len(said) > 15
    assert [line for line in said if not line.endswith(" unchanged")] == []


def test_the_pod_of_the_gateway_is_let_in_where_pods_are_restricted(
    kube: Api, applied: None
) -> None:
    """It is made, and waits for a node: were it not restricted, there would be none."""

    def pods() -> list[Json]:
        return kube.list("pods", "gateway", labelSelector="app.kubernetes.io/name=gateway")

    (pod,) = until(pods)
    assert pod["spec"]["serviceAccountName"] == "gateway"
    namespace = kube.get("namespaces", None, "gateway")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"


def test_production_is_taken_by_the_api_server_too(cluster: ControlPlane, applied: None) -> None:
    """Of what differs: the server checks every field and would name one that it does not know."""
    assert len(known("production")) < len(objects("production"))
    said = apply(cluster, "production", "--dry-run=server", "--validate=strict")
    assert len(said) == len(known("production"))
