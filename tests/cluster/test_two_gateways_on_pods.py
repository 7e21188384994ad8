"""Two gateways, one set of pods (issue 6, shown by 3): one acts, the other takes over and finds
nothing to do."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import pytest

from tests.cluster.api import Api, Json
from tests.cluster.audit import counted
from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_nodes import MadeNodes
from tests.cluster.made_pods import is_ready
from tests.cluster.waiting import until
from tests.parts.need import need
from tests.parts.postgres import Postgres

need(
    all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime", "kubernetes", "psycopg")),
    "pip install -e '.[onnx,kubernetes,postgres,dev]'",
)
from tests.cluster.gateway_on_pods import (  # noqa: E402 - needs the parts checked above
    IMAGES,
    Load,
    OnPods,
)
from tests.cluster.two_on_pods import Pair, leads, role, two_on_pods  # noqa: E402 - the same

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.onnx, pytest.mark.timeout(300)]

MODEL = "resnet"
LEASE_S = 3.0
MARGIN_S = 15.0
"""For a machine that stands still for seconds; usually it is less than one beyond the lease."""

APPLIED_ONCE = {
    ("patch", "deployments"): 1,
    ("patch", "services"): 1,
    ("patch", "poddisruptionbudgets"): 1,
}


@pytest.fixture
def pair(
    cluster: ControlPlane, namespace: str, tmp_path: Path, postgres: Postgres
) -> Iterator[Pair]:
    with MadeNodes(cluster, IMAGES) as nodes:
        nodes.add(f"pair-{namespace}")
        with two_on_pods(cluster, namespace, tmp_path, postgres.database(), LEASE_S) as running:
            _deploy(running)
            yield running


def _deploy(pair: Pair) -> None:
    """A model with two pods, asked for at the follower: only the leader may do it."""
    leader, follower = pair.by_role()
    follower.publish(MODEL, 1)
    follower.deploy(MODEL, "--replicas", "2")
    for each in (leader, follower):
        until(lambda each=each: _answers(each))
    assert counted(pair.writes()) == APPLIED_ONCE
    pair.check_who_wrote()


def _answers(of: OnPods, version: int = 1) -> bool:
    """With this version, over both protocols. A follower may not have heard of it yet."""
    for protocol in ("tfs-rest", "v2-grpc"):
        done = of.gateway.cli(
            "predict", MODEL, "--data", "[[41.0]]", "--protocol", protocol, check=False
        )
        if done.returncode or str(41 + version) not in done.stdout:
            return False
    return True


def _pods(kube: Api, namespace: str) -> dict[str, Json]:
    return {p["metadata"]["uid"]: p for p in kube.list("pods", namespace)}


def _ready(kube: Api, namespace: str, of: OnPods) -> int:
    """Pods that are ready, where the gateway says the same of as many."""
    pods = _pods(kube, namespace).values()
    there = [p for p in pods if is_ready(p) and "deletionTimestamp" not in p["metadata"]]
    same = len(there) == len(pods) == len(of.replicas(MODEL, "ready"))
    return len(there) if same else -1


@contextmanager
def _under_load(pair: Pair) -> Iterator[tuple[OnPods, OnPods, Load]]:
    """Predictions at both: who leads, who follows, and the load of the latter. Told as late as can
    be, for a machine that stalls may have cost the one that led first its term."""
    with Load(pair.one.gateway, MODEL) as one, Load(pair.two.gateway, MODEL) as two:
        until(lambda: min(one.summary.requests, two.summary.requests) > 50)
        leader, follower = pair.by_role()
        yield leader, follower, one if follower is pair.one else two


def test_the_other_leads_on_with_the_same_pods_when_the_leader_is_killed(
    pair: Pair, kube: Api, cluster: ControlPlane, namespace: str
) -> None:
    before = _pods(kube, namespace)
    assert len(before) == 2
    with _under_load(pair) as (leader, survivor, load):
        leader.gateway.kill()
        killed_at, mark = perf_counter(), cluster.audit.mark()
        until(lambda: leads(survivor))
        took_s = perf_counter() - killed_at
        # It knows of both from looking at them itself, and is asked on.
        until(lambda: _ready(kube, namespace, survivor) == 2)
        count = load.summary.requests
        until(lambda: load.summary.requests > count + 100)
        assert set(_pods(kube, namespace)) == set(before)
        assert pair.writes(mark) == []

        # What is asked of it now is one write: whatever else it did would be seen here, too.
        survivor.gateway.cli("scale", "model", MODEL, "--replicas", "3")
        until(lambda: _ready(kube, namespace, survivor) == 3)
        assert counted(pair.writes(mark)) == {("patch", "deployments"): 1}
        assert set(before) < set(_pods(kube, namespace))
    summary = load.summary
    print(f"\nled after {took_s:.2f} s; {summary.requests} requests, {summary.failed} failed, "
          f"p99 {summary.p99_s:.3f} s")  # fmt: skip
    assert (summary.failed, summary.errors) == (0, ())
    assert took_s < LEASE_S + MARGIN_S
    assert {c.user for c in pair.writes(mark)} == {survivor.user}

    survivor.gateway.cli("delete", "model", MODEL)
    until(lambda: not survivor.left())
    pair.check_who_wrote()
    assert [c for c in pair.writes() if c.status >= 300] == []


def test_a_leader_that_was_frozen_past_its_term_changes_nothing_when_it_wakes(
    pair: Pair, kube: Api, cluster: ControlPlane, namespace: str
) -> None:
    mark = cluster.audit.mark()
    with _under_load(pair) as (frozen, follower, load):
        assert frozen.gateway.process is not None
        pid = frozen.gateway.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: leads(follower))
            follower.gateway.cli("scale", "model", MODEL, "--replicas", "3")
            follower.publish(MODEL, 2)
            until(lambda: 2 in load.versions)
            until(lambda: _ready(kube, namespace, follower) == 3)
        finally:
            os.kill(pid, signal.SIGCONT)
        # Woken, it hears of a Deployment that is not as it knew it, and leaves it so.
        me = role(frozen)["gateway"]
        until(lambda: role(frozen)["leader"] not in ("", me))
        until(lambda: len(frozen.replicas(MODEL, "ready")) == 3)
        assert _answers(frozen, 2)
        count = load.summary.requests
        until(lambda: load.summary.requests > count + 50)
    assert (load.summary.failed, load.summary.errors) == (0, ())
    pair.check_who_wrote()
    assert counted(pair.writes(mark)) == {("patch", "deployments"): 1}
    assert kube.get("deployments", namespace, MODEL)["spec"]["replicas"] == 3
