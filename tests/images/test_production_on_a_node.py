"""The overlay `production`, run: three gateways as pods on one PostgreSQL, models from object
storage, and the gateway that leads killed and evicted under load."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter

import pytest

from gateway.core.leadership import LeaseSettings
from loadtests.traffic import wrong_versions
from tests.cluster.api import Api, ApiError
from tests.cluster.audit import counted
from tests.cluster.control_plane import ControlPlane
from tests.cluster.deployed import NAMESPACES
from tests.cluster.on_a_node import STARTED_S, load_images, ready_pods
from tests.cluster.real_node import RealNode
from tests.cluster.waiting import until
from tests.parts.need import need
from tests.parts.postgres import PASSWORD, Postgres
from tests.parts.s3 import INSTALL, s3_server, weed

need(importlib.util.find_spec("onnx") is not None, "pip install -e '.[onnx,dev]'")
from tests.cluster.gateway_on_pods import Load  # noqa: E402 - needs the part checked above
from tests.cluster.production import (  # noqa: E402 - the same
    GATEWAYS,
    Production,
    production,
    source,
)

pytestmark = [pytest.mark.images, pytest.mark.long, pytest.mark.timeout(1500)]

MODEL = "digits"
RATE_PER_S = 20.0
"""On each of two protocols at each gateway."""
IN_FLIGHT_S = 0.5
"""How long the replicas keep a request, so that a gateway always has some."""
LEASE_S = LeaseSettings().lease_s
LEAVES_S = 10.0
"""Of the preStop hook, in which balancers hear that a pod goes."""
MARGIN_S = 10.0
"""For a machine that stands still for seconds; usually it is less than one beyond the lease."""


@pytest.fixture(scope="module")
def installed(
    cluster: ControlPlane,
    real_node: RealNode,
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Production]:
    """All gateways Ready. They wait for their database's address, as the README says."""
    need(weed() is not None, INSTALL)
    folder = tmp_path_factory.mktemp("production")
    load_images(real_node, folder, "gateway", "server-onnx")
    with s3_server() as s3, production(cluster, real_node, postgres, s3, folder) as made:
        until(lambda: sum("gateway-database" in why for why in made.waiting()) == GATEWAYS)
        made.give_secrets()
        until(lambda: len(made.gateways()) == GATEWAYS, STARTED_S)
        made.publish(MODEL)
        yield made


PREDICT = ("predict", MODEL, "--data", "[[41.0]]")


@pytest.fixture
def running(installed: Production) -> Production:
    """With the model on two replicas, and all gateways there to answer for it."""
    until(lambda: len(installed.gateways()) == GATEWAYS, STARTED_S)
    if not installed.models():
        installed.deploy_mark = installed.cluster.audit.mark()
        with installed.control() as control:
            control.cli(
                "deploy", "model", MODEL, "--source", source(MODEL), "--replicas", "2",
                "--batch-size", "64", "--batch-delay-ms", str(IN_FLIGHT_S * 1000),
                "--timeout", str(STARTED_S), timeout_s=STARTED_S + 20,
            )  # fmt: skip
    for gateway in installed.gateways().values():
        until(lambda gateway=gateway: not gateway.cli(*PREDICT, check=False).returncode)
    return installed


@contextmanager
def under_load(running: Production) -> Iterator[dict[str, Load]]:
    """Predictions through every gateway, by the pod's name. What they asked for is checked after
    the block, when the last answers are in."""
    with ExitStack() as stack:
        loads = {
            name: stack.enter_context(Load(gateway, MODEL, RATE_PER_S))
            for name, gateway in running.gateways().items()
        }
        assert len(loads) == GATEWAYS
        until(lambda: all(load.summary.requests > 50 for load in loads.values()))
        yield loads


def shown(what: str, loads: list[Load]) -> None:
    """A row of the table, and that it is one to be shown."""
    found = [load.summary for load in loads]
    print(f"\n| {what} | {sum(s.requests for s in found)} | {sum(s.failed for s in found)} | "
          f"p99 {max(s.p99_s for s in found):.3f} s |")  # fmt: skip
    assert [s.errors for s in found if s.failed] == []


def test_all_say_alike_which_pod_leads(running: Production) -> None:
    def said() -> set[tuple[str, int]]:
        roles = [gateway.role() for gateway in running.gateways().values()]
        return {(r["leader_control"], r["others"]) for r in roles}

    leader = until(running.leader)
    until(lambda: said() == {(f"{leader}:8080", GATEWAYS - 1)})


def test_each_gateway_answers_and_the_services_lead_to_it(running: Production) -> None:
    gateways = running.gateways()
    for gateway in gateways.values():
        for protocol in ("tfs-rest", "v2-grpc"):
            answer = gateway.cli(*PREDICT, "--protocol", protocol)
            assert str(41 + running.version) in answer.stdout
    ports = {p: {g.addresses[p] for g in gateways.values()} for p in ("http", "grpc", "control")}
    control = {"control": ports.pop("control")}
    until(lambda: running.endpoints("gateway-control") == control)
    for service in ("gateway", "gateway-headless"):
        until(lambda service=service: running.endpoints(service) == ports)


def test_credentials_are_in_the_secrets_and_nowhere_else(running: Production, kube: Api) -> None:
    secret = running.s3.ro
    kinds = ("pods", "deployments", "replicasets", "configmaps", "events")
    for space in NAMESPACES:
        texts = [json.dumps(o) for kind in kinds for o in kube.list(kind, space)]
        texts += [kube.log(space, p["metadata"]["name"]) for p in kube.list("pods", space)]
        assert "model-storage" in "".join(texts)
        assert not [t for t in texts for s in (secret.key, secret.secret, PASSWORD) if s in t]
    # Yet those who look and those who fetch have them; the database is the gateways' alone.
    for space, has_database in (("gateway", True), ("models", False)):
        for pod in ready_pods(running.cluster, space):
            seen = running.environment(pod)
            assert running.storage_env.items() <= seen.items()
            assert (PASSWORD in seen.get("GATEWAY_DATABASE_URL", "")) == has_database


def test_the_pod_that_leads_is_killed_and_another_goes_on(
    running: Production, cluster: ControlPlane
) -> None:
    models, mark = set(running.models()), cluster.audit.mark()
    with under_load(running) as loads:
        victim = running.leader()
        lost = loads.pop(victim)
        until(lambda: lost.outstanding > 3)
        killed_at = perf_counter()  # of the same clock as the samples
        running.kill(victim)
        lost.stop()
        assert victim != until(running.leader, LEASE_S + MARGIN_S)
        took_s = perf_counter() - killed_at
        until(lambda: len(running.gateways()) == GATEWAYS, STARTED_S)
        published = [(running.version, 0.0), (running.version + 1, perf_counter())]
        version = running.publish(MODEL)
        until(lambda: all(version in load.versions for load in loads.values()))
    in_flight = [s for s in lost.samples if s.error and s.started_s < killed_at]
    print(f"\nanother led after {took_s:.2f} s; {len(in_flight)} requests lost with the killed one")
    assert in_flight, "it was not killed with requests in flight"
    assert min(s.ended_s for s in in_flight) > killed_at
    shown("the leader's pod killed, a version swapped by its successor", list(loads.values()))
    for load in loads.values():
        assert wrong_versions(load.samples, published) == []
    # The one in its place answers as they do.
    (new,) = set(running.gateways()) - set(loads)
    answer = running.gateways()[new].cli(*PREDICT)
    assert str(41 + version) in answer.stdout
    assert (set(running.models()), running.writes(mark)) == (models, [])


def test_the_pod_that_leads_is_evicted_and_no_request_is_lost(
    running: Production, cluster: ControlPlane, kube: Api
) -> None:
    models, mark = set(running.models()), cluster.audit.mark()
    with under_load(running) as loads:
        leader = running.leader()
        other = next(name for name in loads if name != leader)
        address = running.gateways()[leader].http
        asked_at = perf_counter()
        kube.evict("gateway", leader)
        with pytest.raises(ApiError, match="disruption budget") as refused:
            kube.evict("gateway", other)
        assert refused.value.status == 429
        until(lambda: address not in running.endpoints("gateway")["http"])
        heard_s = perf_counter() - asked_at
        # Balancers hear of it a little later; until then it answers on.
        count = loads[leader].summary.requests
        until(lambda: loads[leader].summary.requests > count + 100)
        loads[leader].stop()
        assert leader != until(running.leader)
        took_s = perf_counter() - asked_at
        until(lambda: len(running.gateways()) == GATEWAYS, STARTED_S)
    print(f"\nout of the Service after {heard_s:.2f} s; another led after {took_s:.2f} s")
    shown("the leader's pod evicted", list(loads.values()))
    assert took_s < LEAVES_S + LEASE_S, "it has not given its place up, but let it lapse"
    assert (set(running.models()), running.writes(mark)) == (models, [])


def test_a_deleted_model_leaves_nothing_and_each_thing_was_done_once(running: Production) -> None:
    mark, leader = running.cluster.audit.mark(), running.leader()
    objects = ("deployments", "services", "poddisruptionbudgets")
    next(iter(running.gateways().values())).cli("delete", "model", MODEL)
    until(lambda: not running.left())
    assert {c.pod for c in running.writes(mark)} == {leader}
    done = counted(running.writes(running.deploy_mark))
    assert {("patch", o): done["patch", o] for o in objects} == {("patch", o): 1 for o in objects}
    assert {("delete", o): done["delete", o] for o in objects} == {
        ("delete", o): 1 for o in objects
    }
    print(f"\nwritten from deploy to delete: {dict(done)}")
