"""What the metrics say of traffic now, as numbers that can be subtracted: `gateway top` reads them
twice and shows what lies between. Read from the same counts that Prometheus scrapes, so the two
never disagree, and summed over all processes with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client import Metric

_ERRORS = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
"""gRPC's codes of what went wrong on this side; of HTTP's, 500 and above."""


@dataclass(slots=True)
class VersionTraffic:
    """Of one version since the gateway started. `version` is "" where none has answered: requests
    that were refused, or have failed before."""

    version: str
    requests: int = 0
    errors: int = 0
    """Answers that say that something failed here: 5xx, and gRPC's like."""
    latency_counts: list[int] = field(default_factory=list)
    """Answers by how long they took, as `Traffic.bounds_s`; the last are those above all bounds."""


@dataclass(slots=True)
class ModelTraffic:
    """Of one model."""

    model: str
    in_flight: int = 0
    queued: int = 0
    limit: int = 0
    """How many may be with replicas at once; 0 while nobody has asked."""
    shed: int = 0
    """Refused without having been sent, since the gateway started."""
    versions: dict[str, VersionTraffic] = field(default_factory=dict)


def traffic(metrics: Iterable[Metric], bounds_s: Sequence[float]) -> list[ModelTraffic]:
    """By model, of those whom somebody has asked."""
    models: dict[str, ModelTraffic] = {}

    def of(labels: dict[str, str]) -> ModelTraffic:
        return models.setdefault(labels["model"], ModelTraffic(labels["model"]))

    def version_of(labels: dict[str, str]) -> VersionTraffic:
        version, versions = labels["version"], of(labels).versions
        if version not in versions:
            counts = [0] * (len(bounds_s) + 1)
            versions[version] = VersionTraffic(version, latency_counts=counts)
        return versions[version]

    places = {f"{bound}": i for i, bound in enumerate(bounds_s)} | {"+Inf": len(bounds_s)}
    for metric in metrics:
        for name, labels, value, *_ in metric.samples:
            count = int(value)
            match name:
                case "gateway_requests_total":
                    mine = version_of(labels)
                    mine.requests += count
                    mine.errors += count if _is_error(labels["code"]) else 0
                case "gateway_request_duration_seconds_bucket":
                    version_of(labels).latency_counts[places[labels["le"]]] += count
                case "gateway_requests_in_flight":
                    of(labels).in_flight += count
                case "gateway_requests_queued":
                    of(labels).queued += count
                case "gateway_concurrency_limit":
                    of(labels).limit += count
                case "gateway_shed_total":
                    of(labels).shed += count
    for model in models.values():
        for version in model.versions.values():
            counts = version.latency_counts
            # Prometheus' buckets hold all that is below their bound.
            version.latency_counts = [b - a for a, b in zip([0, *counts], counts, strict=False)]
    models.pop("", None)  # models that nobody deployed
    return [models[name] for name in sorted(models)]


def _is_error(code: str) -> bool:
    return code in _ERRORS or (code.isdigit() and int(code) >= 500)
