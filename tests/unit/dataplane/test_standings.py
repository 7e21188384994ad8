from __future__ import annotations

import pytest

from gateway.dataplane.standings import merged
from gateway.domain.replicas import ReplicaStanding

OUT, BACK, SUSPECT = ("ejected", "latency"), ("probation", "latency"), ("suspect", "just failed")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([], {}),
        ([{}, {}], {}),
        ([{"a": OUT}], {"a": ReplicaStanding("ejected", "latency", 1, 1)}),
        ([{"a": OUT}, {}], {"a": ReplicaStanding("ejected", "latency", 1, 2)}),
        ([{"a": SUSPECT}, {"a": OUT}], {"a": ReplicaStanding("ejected", "latency", 1, 2)}),
        ([{"a": SUSPECT}, {"a": BACK}], {"a": ReplicaStanding("probation", "latency", 1, 2)}),
        (
            [{"a": OUT}, {"a": OUT}, {"a": ("ejected", "error_ratio")}],
            {"a": ReplicaStanding("ejected", "latency", 3, 3)},
        ),
        (
            [{"a": OUT}, {"b": SUSPECT}],
            {
                "a": ReplicaStanding("ejected", "latency", 1, 2),
                "b": ReplicaStanding("suspect", "just failed", 1, 2),
            },
        ),
        ([{"a": ("new word", "x")}, {"a": SUSPECT}], {"a": ReplicaStanding(*SUSPECT, 1, 2)}),
    ],
)
def test_the_worst_counts_with_how_many_think_so(told, expected):
    assert merged(told) == expected
