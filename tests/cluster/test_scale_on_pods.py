"""500 models of 4 pods each (issue 6, shown by 6): it converges, and then asks for nothing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.audit import counted
from tests.cluster.control_plane import ControlPlane
from tests.cluster.gateway_on_pods import OURS, RULES, with_rights
from tests.cluster.made_nodes import SAID, MadeNodes
from tests.cluster.programs import PROJECT
from tests.cluster.waiting import until
from tests.parts.need import need

need(bool(importlib.util.find_spec("kubernetes")), "pip install -e '.[kubernetes,dev]'")

pytestmark = [pytest.mark.slow]

PODS_OF_NODE = 500


@pytest.mark.parametrize(
    ("models", "replicas", "steady_s"),
    [
        pytest.param(10, 2, 15, marks=pytest.mark.timeout(300)),
        pytest.param(500, 4, 60, marks=[pytest.mark.long, pytest.mark.timeout(2400)]),
    ],
    ids=["20 pods", "2000 pods"],
)
def test_many_models(
    cluster: ControlPlane, namespace: str, models: int, replicas: int, steady_s: int
) -> None:
    kubeconfig = with_rights(cluster, namespace, RULES)
    user = f"system:serviceaccount:{namespace}:gateway"
    numbers = (str(models), str(replicas), str(steady_s))
    command = [sys.executable, "-m", "tests.cluster.scale_on_pods", str(kubeconfig), namespace]
    with MadeNodes(cluster, SAID) as nodes:
        for index in range(models * replicas // PODS_OF_NODE + 1):
            nodes.add(f"scale-{index}", cpu="10000", memory="10000Gi")
        with subprocess.Popen(
            [*command, *numbers], cwd=PROJECT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            told = _Told(process)
            empty = told.next()
            mark = cluster.audit.mark()
            there = told.step()
            made = counted(cluster.audit.since(mark, user=user))
            writes = sum(n for (verb, _), n in made.items() if verb not in ("list", "watch"))
            # Three objects of each model, each applied once; nothing else is written.
            assert writes <= 3.2 * models, made
            assert not [what for what in made if what[0] == "list"]

            mark = cluster.audit.mark()
            steady = told.step()
            quiet = counted(cluster.audit.since(mark, user=user))
            assert {verb for verb, _ in quiet} <= {"watch"}, quiet

            mark = cluster.audit.mark()
            told.step()
            changed = counted(cluster.audit.since(mark, user=user))
            told_of = {k: n for k, n in changed.items() if k[0] != "watch"}
            assert told_of == {("patch", "deployments"): 1}

            gone = told.step()
            process.communicate("\n", timeout=60)
        left = ("deployments", "services", "poddisruptionbudgets", "pods")
        assert set(left) < set(OURS)
        until(lambda: not any(cluster.api.list(kind, namespace) for kind in left), 120)
    pods = models * replicas
    print(
        f"\n{models} models, {pods} pods: there after {there['s']:.1f} s ({there['cpu_s']:.1f} s "
        f"of CPU), {writes / models:.2f} writes per model; memory {empty['rss'] / 1e6:.0f} MB "
        f"before, {there['rss'] / 1e6:.0f} MB after; steady for {steady['s']:.0f} s: "
        f"{steady['cpu_s']:.2f} s of CPU, {sum(quiet.values())} calls, all of them watches begun "
        f"anew; gone after {gone['s']:.1f} s"
    )


class _Told:
    """What the process says, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def step(self) -> dict[str, Any]:
        """Let it go on; what it says then."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.next()

    def next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return dict(json.loads(line))
