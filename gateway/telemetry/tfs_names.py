"""What was answered, under TensorFlow Serving's own names: dashboards and alerts made for it find
on the gateway's prediction port what they look for, over all replicas.

Read from the gateway's own counts. Written by hand because prometheus_client would append `_total`.
Two things differ from the original: latencies have the gateway's buckets (in microseconds, as its
own), and no label `API`, since they are not counted by method.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import Metric

_COUNT = ":tensorflow:serving:request_count"
_LATENCY = ":tensorflow:serving:request_latency"

_STATUS = {
    "200": "OK",
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "NOT_FOUND",
    "405": "INVALID_ARGUMENT",
    "409": "ABORTED",
    "413": "RESOURCE_EXHAUSTED",
    "429": "RESOURCE_EXHAUSTED",
    "499": "CANCELLED",
    "500": "INTERNAL",
    "501": "UNIMPLEMENTED",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "DEADLINE_EXCEEDED",
}
"""The status that the original counts, for an HTTP answer; over gRPC it is the code's own name."""


def tfs_page(metrics: Iterable[Metric]) -> bytes:
    """The text that Prometheus scrapes."""
    counts: dict[tuple[str, str], int] = {}
    latencies: dict[str, dict[tuple[str, str, str], float]] = {"bucket": {}, "sum": {}, "count": {}}
    for metric in metrics:
        for name, labels, value, *_ in metric.samples:
            if name == "gateway_requests_total":
                key = labels["model"], _status(labels["code"])
                counts[key] = counts.get(key, 0) + int(value)
            elif name.startswith("gateway_request_duration_seconds_"):
                part = latencies.get(name.rpartition("_")[2])
                if part is not None:
                    place = labels["model"], _entrypoint(labels["protocol"]), labels.get("le", "")
                    part[place] = part.get(place, 0.0) + value
    return ("\n".join([*_counted(counts), *_timed(latencies)]) + "\n").encode()


def _status(code: str) -> str:
    return _STATUS.get(code, "UNKNOWN") if code.isdigit() else code


def _entrypoint(protocol: str) -> str:
    return "GRPC" if protocol == "grpc" else "REST"


def _counted(counts: dict[tuple[str, str], int]) -> Iterator[str]:
    yield f"# TYPE {_COUNT} counter"
    for (model, status), count in sorted(counts.items()):
        yield f'{_COUNT}{{model_name="{model}",status="{status}"}} {count}'


def _timed(latencies: dict[str, dict[tuple[str, str, str], float]]) -> Iterator[str]:
    yield f"# TYPE {_LATENCY} histogram"
    for (model, entrypoint, bound), value in latencies["bucket"].items():
        le = bound if bound == "+Inf" else f"{float(bound) * 1e6:.0f}"
        yield f'{_LATENCY}_bucket{{{_labels(model, entrypoint)},le="{le}"}} {value:.0f}'
    for (model, entrypoint, _), value in latencies["sum"].items():
        yield f"{_LATENCY}_sum{{{_labels(model, entrypoint)}}} {value * 1e6:.3f}"
    for (model, entrypoint, _), value in latencies["count"].items():
        yield f"{_LATENCY}_count{{{_labels(model, entrypoint)}}} {value:.0f}"


def _labels(model: str, entrypoint: str) -> str:
    return f'model_name="{model}",entrypoint="{entrypoint}"'
