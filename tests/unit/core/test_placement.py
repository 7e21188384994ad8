"""Replicas to start and to drain, GPUs, and waits."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from gateway.core.placement import (
    Assigned,
    Existing,
    Gpu,
    Plan,
    assign_gpus,
    plan,
    restart_delay_s,
    template_of,
)
from gateway.domain.models import Backend, Batching, Latest, ModelSpec, Resources


def listening(replica_id, template="t", *, started=0, draining=False):
    return Existing(replica_id, template, listening=True, draining=draining, started=started)


def ending(replica_id, template="t"):
    return replace(listening(replica_id, template, draining=True), may_stay=True)


def starting(replica_id, template="t", started=0):
    return Existing(replica_id, template, listening=False, started=started)


@pytest.mark.parametrize(
    ("wanted", "existing", "expected"),
    [
        (2, [], Plan(2)),
        (2, [starting("a")], Plan(1)),
        (2, [listening("a"), starting("b")], Plan(0)),
        (1, [listening("a", started=1), listening("b", started=2)], Plan(0, ("b",))),
        (1, [listening("a", started=1), starting("b")], Plan(0, ("b",))),
        (0, [listening("a")], Plan(0, ("a",))),
        (2, [listening("a", "old"), listening("b", "old")], Plan(1)),
        (2, [listening("a", "old"), listening("b", "old"), starting("c")], Plan(0)),
        (2, [listening("a", "old"), listening("b", "old"), listening("c")], Plan(0, ("a",))),
        (2, [listening("a", "old", draining=True), listening("b", "old"), listening("c")], Plan(0)),
        (2, [listening("b", "old"), listening("c")], Plan(1)),
        (1, [starting("a", "old")], Plan(1, ("a",))),
        (1, [ending("a")], Plan(0, keep=("a",))),
        (2, [ending("a"), listening("b")], Plan(0, keep=("a",))),
        (3, [ending("a"), listening("b")], Plan(1, keep=("a",))),
        (1, [ending("a"), listening("b")], Plan(0)),
        (1, [ending("a"), ending("b")], Plan(0, keep=("a",))),
        (1, [ending("a", "old")], Plan(1)),
        (1, [listening("a", draining=True)], Plan(1)),
        (0, [ending("a")], Plan(0)),
    ],
)
def test_one_step(wanted, existing, expected):
    assert plan(wanted, "t", existing) == expected


def test_a_changed_template_is_reached_step_by_step_within_the_surge():
    fleet = [listening(f"old{i}", "old") for i in range(3)]
    for step in range(20):
        todo = plan(3, "t", fleet)
        fleet = [replace(e, draining=e.draining or e.id in todo.drain) for e in fleet]
        fleet += [starting(f"new{step}.{i}") for i in range(todo.start)]
        assert len(fleet) <= 4
        serving = [e for e in fleet if e.listening and not e.draining]
        assert len(serving) >= 3 - 1
        fleet = [replace(e, listening=True) for e in fleet if not e.draining]
    assert {e.template for e in fleet} == {"t"}
    assert len(fleet) == 3


GPUS = [Gpu("0", "A100"), Gpu("1", "A100"), Gpu("2", "T4"), Gpu("3", "T4")]


@pytest.mark.parametrize(
    ("need", "product", "used", "per_gpu", "expected"),
    [
        (0, None, {}, 1, Assigned()),
        (1, None, {"0": 1}, 1, Assigned(("1",))),
        (2, "T4", {}, 1, Assigned(("2", "3"))),
        (1, None, {"0": 1, "1": 0, "2": 1, "3": 1}, 2, Assigned(("1",))),
        (
            2,
            None,
            {"0": 1, "1": 1, "2": 1},
            1,
            Assigned(lacking="needs 2 GPUs, 1 free of 4 on this machine"),
        ),
        (
            1,
            "H200",
            {},
            1,
            Assigned(lacking="needs 1 GPU of type H200, 0 free of 0 on this machine"),
        ),
    ],
)
def test_gpus_go_to_the_least_used_or_are_said_to_lack(need, product, used, per_gpu, expected):
    assert assign_gpus(need, product, GPUS, used, per_gpu) == expected


def test_waits_double_from_half_a_second_to_half_a_minute():
    rng = Random(1)
    waits = [restart_delay_s(n, rng) for n in range(1, 12)]
    for wait, full in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30], strict=True):
        assert 0.75 * full <= wait <= full


def test_only_what_a_running_replica_cannot_change_is_in_the_template():
    spec = ModelSpec("m", "s3://b/m", Backend.ONNX)
    same = replace(spec, replicas=5, policy=Latest(3), labels={"a": 1}, timeout_s=1.0)
    assert template_of(same) == template_of(spec)
    for other in (
        replace(spec, source="s3://b/n"),
        replace(spec, resources=Resources(gpus=1)),
        replace(spec, batching=Batching(1)),
        replace(spec, before="true"),
    ):
        assert template_of(other) != template_of(spec)
