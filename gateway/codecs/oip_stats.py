"""Model statistics of the Open Inference Protocol (Triton's extension), in JSON and in protos.

Every duration is a pair: how often, and nanoseconds in all. Source: extension_statistics.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from gateway.codecs.pb import oip_pb2
from gateway.domain.names import Version


@dataclass(frozen=True, slots=True)
class Span:
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def __add__(self, other: Span) -> Span:
        return Span(self.count + other.count, self.ns + other.ns)


_NONE = Span()


@dataclass(frozen=True, slots=True)
class InferSpans:
    """What became of requests. `queue` and the `compute_*` cover successful ones."""

    success: Span = _NONE
    fail: Span = _NONE
    queue: Span = _NONE
    compute_input: Span = _NONE
    compute_infer: Span = _NONE
    compute_output: Span = _NONE
    cache_hit: Span = _NONE
    cache_miss: Span = _NONE


@dataclass(frozen=True, slots=True)
class BatchSpans:
    """What runs of one batch size cost."""

    batch_size: int
    compute_input: Span = _NONE
    compute_infer: Span = _NONE
    compute_output: Span = _NONE


@dataclass(frozen=True, slots=True)
class ModelStats:
    """One version's statistics since it was loaded."""

    name: str
    version: Version
    last_inference_ms: int = 0
    """Milliseconds since the Unix epoch; 0 before the first."""
    inference_count: int = 0
    """Rows answered."""
    execution_count: int = 0
    """Runs of the model; fewer than rows where rows were joined."""
    inference: InferSpans = InferSpans()
    batches: tuple[BatchSpans, ...] = ()


_INFER_FIELDS = tuple(one.name for one in fields(InferSpans))
_BATCH_FIELDS = ("compute_input", "compute_infer", "compute_output")


def statistics_json(stats: Iterable[ModelStats]) -> bytes:
    """`GET /v2/models/NAME/stats` and `GET /v2/models/stats`."""
    body = {"model_stats": [_one_json(one) for one in stats]}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _one_json(one: ModelStats) -> dict[str, Any]:
    return {
        "name": one.name,
        "version": str(one.version),
        "last_inference": one.last_inference_ms,
        "inference_count": one.inference_count,
        "execution_count": one.execution_count,
        "inference_stats": {name: _span(getattr(one.inference, name)) for name in _INFER_FIELDS},
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": batch.batch_size,
                **{name: _span(getattr(batch, name)) for name in _BATCH_FIELDS},
            }
            for batch in one.batches
        ],
        "memory_usage": [],
    }


def _span(span: Span) -> dict[str, int]:
    return {"count": span.count, "ns": span.ns}


def statistics_proto(stats: Iterable[ModelStats]) -> oip_pb2.ModelStatisticsResponse:
    """ModelStatistics."""
    answer = oip_pb2.ModelStatisticsResponse()
    for one in stats:
        made = answer.model_stats.add(
            name=one.name,
            version=str(one.version),
            last_inference=one.last_inference_ms,
            inference_count=one.inference_count,
            execution_count=one.execution_count,
        )
        for name in _INFER_FIELDS:
            _fill(getattr(made.inference_stats, name), getattr(one.inference, name))
        for batch in one.batches:
            row = made.batch_stats.add(batch_size=batch.batch_size)
            for name in _BATCH_FIELDS:
                _fill(getattr(row, name), getattr(batch, name))
    return answer


def _fill(duration: oip_pb2.StatisticDuration, span: Span) -> None:
    duration.SetInParent()
    duration.count, duration.ns = span.count, span.ns


# ---- of several replicas --------------------


def added(replicas: Iterable[Sequence[Any]]) -> list[Any]:
    """Lists of statistics, in JSON's form, as one: what is counted is added up by version, the last
    inference is the latest. What is there in one list only stays, unknown fields as well."""
    found: dict[tuple[Any, Any], Any] = {}
    for entries in replicas:
        for entry in entries:
            is_one = isinstance(entry, dict)
            key = (str(entry.get("name")), str(entry.get("version"))) if is_one else (None, None)
            found[key] = _sum("", found[key], entry) if key in found else entry
    return list(found.values())


def _sum(name: str, a: Any, b: Any) -> Any:
    if isinstance(a, dict) and isinstance(b, dict):
        return {
            key: _sum(key, a[key], b[key]) if key in a and key in b else a.get(key, b.get(key))
            for key in (*a, *(key for key in b if key not in a))
        }
    if isinstance(a, list) and isinstance(b, list):
        return _by_batch_size(a, b) if name == "batch_stats" else a + b
    if isinstance(a, bool) or not (isinstance(a, int) and isinstance(b, int)):
        return a
    if name == "last_inference":
        return max(a, b)
    return a if name == "batch_size" else a + b


def _by_batch_size(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    rows: dict[Any, Any] = {}
    for row in (*a, *b):
        size = row.get("batch_size") if isinstance(row, dict) else None
        rows[size] = _sum("", rows[size], row) if size in rows else row
    return [rows[size] for size in sorted(rows, key=lambda s: s if isinstance(s, int) else -1)]
