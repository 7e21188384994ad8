"""Every metric of the gateway, declared once.

Base units, `_total` on counters, labels bounded by the configuration: models that are in the
routing table, their versions, status codes. Replica ids are on gauges only. With several worker
processes the values live in files of one directory and are summed when they are read
(prometheus_client's multiprocess mode).
"""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

UNKNOWN_MODEL = ""
"""The `model` label of requests for models that nobody deployed. Callers choose those names, so
they would make labels without bound."""

_LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""From what the gateway itself costs to TensorFlow Serving's REST timeout, in steps of 2 to 2.5."""


class Metrics:
    """One set of metrics. One for each process; tests make as many as they like."""

    def __init__(self, multiprocess_dir: Path | None = None) -> None:
        """`multiprocess_dir`, shared by parent and workers, makes `render` sum over all of them. It
        must be empty when the parent starts."""
        self.directory = self._dir = multiprocess_dir
        if multiprocess_dir is not None:
            _share_values(multiprocess_dir)
        self._registry = CollectorRegistry()
        self._answered: dict[tuple[str, str, str, str], Counter] = {}
        self._took: dict[tuple[str, str], Histogram] = {}
        self._declare_requests(self._registry)
        self._declare_loops(self._registry)

    def _declare_requests(self, registry: CollectorRegistry) -> None:
        """What the request path counts."""
        self.requests_total = Counter(
            "gateway_requests_total",
            "Predictions and metadata requests answered, by the status code that the caller saw",
            ("model", "version", "role", "protocol", "code"),
            registry=registry,
        )
        self.request_duration_seconds = Histogram(
            "gateway_request_duration_seconds",
            "From a request's head to its answer, in the gateway",
            ("model", "protocol"),
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.upstream_duration_seconds = Histogram(
            "gateway_upstream_duration_seconds",
            "One call to one replica",
            ("model", "protocol"),
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            "gateway_requests_in_flight",
            "Requests admitted and not answered yet",
            ("model",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.shed_total = Counter(
            "gateway_shed_total",
            "Requests refused at the door",
            ("model", "reason"),
            registry=registry,
        )
        self.retries_total = Counter(
            "gateway_retries_total",
            "Calls made again on another replica, by the reason of the failure before",
            ("model", "reason"),
            registry=registry,
        )
        self.ejections_total = Counter(
            "gateway_ejections_total",
            "Replicas newly shunned because a call to them failed",
            ("model", "cause"),
            registry=registry,
        )

    def _declare_loops(self, registry: CollectorRegistry) -> None:
        """What the reconcile loops and the process count."""
        self.replicas = Gauge(
            "gateway_replicas",
            "Replicas by state",
            ("model", "state"),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.version_load_seconds = Histogram(
            "gateway_version_load_seconds",
            "From telling a replica to hold a version until it reports it AVAILABLE",
            ("model",),
            buckets=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
            registry=registry,
        )
        self.source_last_success_timestamp_seconds = Gauge(
            "gateway_source_last_success_timestamp_seconds",
            "When a model's source was last read, seconds since 1970",
            ("model",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.reconcile_errors_total = Counter(
            "gateway_reconcile_errors_total",
            "Ticks of a reconcile loop that ended in an error",
            ("loop",),
            registry=registry,
        )
        self.event_loop_lag_seconds = Gauge(
            "gateway_event_loop_lag_seconds",
            "How late the event loop woke up, worst of the last five seconds",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.worker_restarts_total = Counter(
            "gateway_worker_restarts_total",
            "Worker processes started again after their death",
            registry=registry,
        )
        self._upstream_took: dict[tuple[str, str], Histogram] = {}

    def answered(
        self, model: str, version: str, protocol: str, code: str, duration_s: float
    ) -> None:
        """One request has been answered. Remembers the labelled children, whose look-up would cost
        several times what counting does."""
        key = (model, version, protocol, code)
        counter = self._answered.get(key)
        if counter is None:
            counter = self.requests_total.labels(model, version, "primary", protocol, code)
            self._answered[key] = counter
        counter.inc()
        took = self._took.get((model, protocol))
        if took is None:
            took = self.request_duration_seconds.labels(model, protocol)
            self._took[model, protocol] = took
        took.observe(duration_s)

    def upstream_took(self, model: str, protocol: str, duration_s: float) -> None:
        """One call to a replica has ended."""
        took = self._upstream_took.get((model, protocol))
        if took is None:
            took = self.upstream_duration_seconds.labels(model, protocol)
            self._upstream_took[model, protocol] = took
        took.observe(duration_s)

    def forget_model(self, model: str) -> None:
        """Drop the gauges of a model that was deleted, so that they do not show stale values for
        ever. Counters stay: they have happened."""
        if self._dir is None:
            self.requests_in_flight.remove_by_labels({"model": model})
            self.replicas.remove_by_labels({"model": model})
            self.source_last_success_timestamp_seconds.remove_by_labels({"model": model})

    def forget_process(self, pid: int) -> None:
        """A worker has died: its gauges no longer count, its counters still do."""
        if self._dir is not None:
            from prometheus_client import multiprocess

            multiprocess.mark_process_dead(pid, str(self._dir))  # type: ignore[no-untyped-call]

    def render(self) -> bytes:
        """The text that Prometheus scrapes, summed over all processes."""
        if self._dir is None:
            return generate_latest(self._registry)
        from prometheus_client import multiprocess

        summed = CollectorRegistry()
        multiprocess.MultiProcessCollector(summed, path=str(self._dir))  # type: ignore[no-untyped-call]
        return generate_latest(summed)


def _share_values(directory: Path) -> None:
    """Make metrics that are declared from now on keep their values in files of `directory`.

    prometheus_client decides this once, by an environment variable at its import, and reads the
    directory from the same variable whenever a metric is made. Both are set here, so that it does
    not matter who imported it first.
    """
    import os

    from prometheus_client import values

    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
