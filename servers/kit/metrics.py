"""Counts and latencies under TensorFlow Serving's own names, in Prometheus' text form.

Written by hand because the names are given: prometheus_client would append `_total` to
`:tensorflow:serving:request_count`, and dashboards made for the original would find nothing.
Only models that are configured get a label, so callers cannot make the page grow.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterable

from servers.kit import logs

_COUNT = ":tensorflow:serving:request_count"
_LATENCY = ":tensorflow:serving:request_latency"

BOUNDS_US: tuple[int, ...] = tuple(round(10 * 1.8**step) for step in range(33))
"""Microseconds; the original's buckets (scale 10, growth 1.8, 33 of them)."""

_Labels = tuple[tuple[str, str], ...]


class _Histogram:
    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_US) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BOUNDS_US, value)] += 1
        self.sum += value


class Metrics:
    """Everything one server counts. Used on the event loop only."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], int] = {}
        self._latencies: dict[tuple[str, str, str], _Histogram] = {}

    def observe(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Count one answered request. `api` is `Predict`, `entrypoint` `REST` or `GRPC`."""
        key = (model, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        place = (model, api, entrypoint)
        histogram = self._latencies.get(place)
        if histogram is None:
            histogram = self._latencies[place] = _Histogram()
        histogram.observe(seconds * 1e6)
        if logs.is_talkative():  # off but for V2's log_verbose_level: a line for each request
            logs.event(
                "request.answered",
                logging.DEBUG,
                model=model,
                api=api,
                entrypoint=entrypoint,
                status=status,
                took_us=round(seconds * 1e6),
            )

    def forget(self, models: Iterable[str]) -> None:
        """Drop models that are no longer configured."""
        gone = set(models)
        self._requests = {k: v for k, v in self._requests.items() if k[0] not in gone}
        self._latencies = {k: v for k, v in self._latencies.items() if k[0] not in gone}

    def page(self) -> bytes:
        """The exposition."""
        lines = [f"# TYPE {_COUNT} counter"]
        for (model, status), count in sorted(self._requests.items()):
            labels = (("model_name", model), ("status", status))
            lines.append(f"{_COUNT}{_shown(labels)} {count}")
        lines.append(f"# TYPE {_LATENCY} histogram")
        for (model, api, entrypoint), histogram in sorted(self._latencies.items()):
            place = (("model_name", model), ("API", api), ("entrypoint", entrypoint))
            lines.extend(_series(place, histogram))
        return ("\n".join(lines) + "\n").encode()


def _series(labels: _Labels, histogram: _Histogram) -> Iterable[str]:
    total = 0
    for bound, count in zip((*map(str, BOUNDS_US), "+Inf"), histogram.counts, strict=True):
        total += count
        yield f"{_LATENCY}_bucket{_shown((*labels, ('le', bound)))} {total}"
    yield f"{_LATENCY}_sum{_shown(labels)} {histogram.sum:.3f}"
    yield f"{_LATENCY}_count{_shown(labels)} {total}"


def _shown(labels: _Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
