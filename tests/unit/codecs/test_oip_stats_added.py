"""Statistics of several replicas as one."""

from __future__ import annotations

import json

from gateway.codecs.oip_stats import (
    BatchSpans,
    InferSpans,
    ModelStats,
    Span,
    added,
    statistics_json,
)


def told(*stats: ModelStats) -> list:
    return json.loads(statistics_json(stats))["model_stats"]


def one(version: int, count: int, last: int = 0, sizes: tuple[int, ...] = ()) -> ModelStats:
    spans = InferSpans(success=Span(count, count * 10))
    batches = tuple(BatchSpans(size, compute_infer=Span(count, 1)) for size in sizes)
    return ModelStats("m", version, last, count, count, spans, batches)


def test_counts_are_added_by_version_and_the_last_inference_is_the_latest():
    first, second = told(one(1, 2, 50, (1, 4))), told(one(1, 3, 40, (4, 2)), one(2, 7))
    old, new = added([first, second])
    assert (old["version"], old["inference_count"], old["execution_count"]) == ("1", 5, 5)
    assert old["last_inference"] == 50
    assert old["inference_stats"]["success"] == {"count": 5, "ns": 50}
    rows = {row["batch_size"]: row["compute_infer"]["count"] for row in old["batch_stats"]}
    assert rows == {1: 2, 2: 3, 4: 5}
    assert list(rows) == [1, 2, 4]
    assert new == told(one(2, 7))[0]


def test_one_list_stays_as_it_is_and_none_is_none():
    stats = told(one(1, 2, 50, (1, 4)), one(2, 7))
    assert added([stats]) == stats
    assert added([stats, []]) == stats
    assert added([]) == []


def test_what_is_unknown_or_odd_breaks_nothing():
    mine = {"name": "m", "version": "1", "n": 2**64 - 1, "x": "a", "b": True, "l": [1]}
    other = {"name": "m", "version": "1", "n": 1, "x": 5, "b": True, "l": [2], "y": {"z": 1}}
    whole = {"name": "m", "version": "1", "n": 2**64, "x": "a", "b": True, "l": [1, 2]}
    assert added([[mine], [other]]) == [whole | {"y": {"z": 1}}]
    assert added([[5, None], ["a"]]) == [5]
    assert added([[{"batch_stats": [1, {}]}], [{"batch_stats": [{"batch_size": "x"}]}]])
