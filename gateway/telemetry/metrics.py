"""Every metric of the gateway, declared once.

Base units, `_total` on counters, labels bounded by the configuration: models that are in the
routing table, their versions, status codes. Replica ids are on gauges only. What is counted for
every request is tallied first (`tallies.py`) and handed over when somebody reads. With several
worker processes the values live in files of one directory and are summed when they are read
(prometheus_client's multiprocess mode); every process hands over twice a second.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.telemetry.tallies import TalliedHistogram, Tally, empty
from gateway.telemetry.tfs_names import tfs_page
from gateway.telemetry.traffic import ModelTraffic, traffic
from gateway.telemetry.wire import WireCounts

UNKNOWN_MODEL = ""
"""The `model` label of requests for models that nobody deployed. Callers choose those names, so
they would make labels without bound."""

_LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""From what the gateway itself costs to TensorFlow Serving's REST timeout, in steps of 2 to 2.5."""

_HAND_OVER_S = 0.5
"""How often a process hands over: what it has counted since is lost if it is killed, and not yet
seen by the other processes. Half of what the shortest scrape intervals are."""

_AT_ONCE = 20
"""Tallies handed over before the event loop gets its turn. A new one costs about 0.2 ms where the
values are in files (17 of them), so 4 ms at most."""


class Metrics:
    """One set of metrics. One for each process; tests make as many as they like."""

    def __init__(self, multiprocess_dir: Path | None = None, process: str = "parent") -> None:
        """`multiprocess_dir`, shared by parent and workers, makes `render` sum over all of them. It
        must be empty when the parent starts.

        `process` (letters and digits) names this one among those that share it at a time. One that
        takes the name of a process that has ended counts on from where that one was, so that there
        are no more files than processes, however often they are replaced.
        """
        self.directory = self._dir = multiprocess_dir
        if multiprocess_dir is not None:
            _share_values(multiprocess_dir, process)
        self._registry = CollectorRegistry()
        self._answered: dict[tuple[str, str, str, str], Tally] = {}
        self._upstream_took: dict[tuple[str, str], Tally] = {}
        self._due: deque[Callable[[], None]] = deque()
        """Tallies that nobody counts into any more, to be handed over."""
        self._in_flight: Callable[[], Mapping[str, int]] = dict
        self._shown_in_flight: set[str] = set()
        self._turns: Callable[[], Mapping[str, tuple[int, int]]] = dict
        self._shown_turns: set[str] = set()
        self._declare_requests(self._registry)
        self._declare_load(self._registry)
        self._declare_loops(self._registry)
        self._declare_wire(self._registry)

    def _declare_requests(self, registry: CollectorRegistry) -> None:
        """What the request path counts."""
        self.requests_total = Counter(
            "gateway_requests_total",
            "Predictions and metadata requests answered, by the status code that the caller saw",
            ("model", "version", "role", "protocol", "code"),
            registry=registry,
        )
        self.request_duration_seconds = TalliedHistogram(
            "gateway_request_duration_seconds",
            "From a request's head to its answer, in the gateway",
            ("model", "version", "protocol"),
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.upstream_duration_seconds = TalliedHistogram(
            "gateway_upstream_duration_seconds",
            "One call to one replica",
            ("model", "protocol"),
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.retries_total = Counter(
            "gateway_retries_total",
            "Calls made again on another replica, by the reason of the failure before",
            ("model", "reason"),
            registry=registry,
        )
        self.hedges_total = Counter(
            "gateway_hedges_total",
            "Second calls of requests whose first one took long: won, lost, failed",
            ("model", "outcome"),
            registry=registry,
        )
        self.shadows_total = Counter(
            "gateway_shadows_total",
            "Requests drawn to be copied to a canary: compared, failed, skipped, dropped",
            ("model", "outcome"),
            registry=registry,
        )
        self.ejections_total = Counter(
            "gateway_ejections_total",
            "Replicas ejected: left out for a while because they failed or were far slower",
            ("model", "cause"),
            registry=registry,
        )

    def _declare_load(self, registry: CollectorRegistry) -> None:
        """How much is under way, and how much is too much."""
        self.requests_in_flight = Gauge(
            "gateway_requests_in_flight",
            "Requests admitted and not answered yet",
            ("model",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.requests_queued = Gauge(
            "gateway_requests_queued",
            "Requests in flight that wait for their turn at a replica",
            ("model",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.concurrency_limit = Gauge(
            "gateway_concurrency_limit",
            "Requests that may be with replicas at once; learnt by each process, and summed",
            ("model",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.shed_total = Counter(
            "gateway_shed_total",
            "Requests refused without having been sent: at the door, or in the queue",
            ("model", "reason"),
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
        self.replicas_wanted = Gauge(
            "gateway_replicas_wanted",
            "Replicas that a model is to have now: by its spec, or by its requests in flight",
            ("model",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.leader = Gauge(
            "gateway_leader",
            "1 where this gateway runs the reconcile loops for all that share its store",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.canary_weight_ratio = Gauge(
            "gateway_canary_weight_ratio",
            "Share of a model's requests that its rollout gives to the new version; 0 without one",
            ("model",),
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

    def _declare_wire(self, registry: CollectorRegistry) -> None:
        """What callers do with their connections."""
        self.connections = Gauge(
            "gateway_connections",
            "Connections of callers to the prediction ports, by what they speak (h1, h2)",
            ("protocol",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.wire_refused_total = Counter(
            "gateway_wire_refused_total",
            "Connections and requests ended because they broke the protocol or reached a bound",
            ("cause",),
            registry=registry,
        )
        self.wire = WireCounts(self.connections, self.wire_refused_total)

    # ---- the request path --------------------

    def answered(
        self, model: str, version: str, protocol: str, code: str, duration_s: float
    ) -> None:
        """One request has been answered. One tally by all labels holds what the counter will get
        and what the histogram, which has fewer of them."""
        key = (model, version, protocol, code)
        tally = self._answered.get(key)
        if tally is None:
            tally = self._answered[key] = empty(_LATENCY_BUCKETS)
        tally[bisect_left(_LATENCY_BUCKETS, duration_s)] += 1
        tally[-1] += duration_s

    def upstream_took(self, model: str, protocol: str, duration_s: float) -> None:
        """One call to a replica has ended."""
        key = (model, protocol)
        tally = self._upstream_took.get(key)
        if tally is None:
            tally = self._upstream_took[key] = empty(_LATENCY_BUCKETS)
        tally[bisect_left(_LATENCY_BUCKETS, duration_s)] += 1
        tally[-1] += duration_s

    # ---- handing over --------------------

    def sample_in_flight(self, by_model: Callable[[], Mapping[str, int]]) -> None:
        """Have `gateway_requests_in_flight` show these counts of this process."""
        self._in_flight = by_model

    def sample_turns(self, by_model: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        """Have `gateway_requests_queued` and `gateway_concurrency_limit` show these of this
        process."""
        self._turns = by_model

    def hand_over(self, at_most: int | None = None) -> bool:
        """Give prometheus_client what has been tallied, or `at_most` so many of the tallies;
        returns whether that was all."""
        due = self._due
        answered, self._answered = self._answered, {}
        due.extend(partial(self._give_answered, key, tally) for key, tally in answered.items())
        took, self._upstream_took = self._upstream_took, {}
        due.extend(partial(self._give_took, key, tally) for key, tally in took.items())
        for _ in range(len(due) if at_most is None else min(at_most, len(due))):
            due.popleft()()
        self._show_in_flight()
        return not due

    async def hand_over_regularly(self) -> None:
        """For as long as it is not cancelled. Needed where processes share a directory."""
        while True:
            await asyncio.sleep(_HAND_OVER_S)
            is_all = False
            while not is_all:
                is_all = self.hand_over(_AT_ONCE)
                await asyncio.sleep(0)

    def _give_answered(self, key: tuple[str, str, str, str], tally: Tally) -> None:
        model, version, protocol, code = key
        counter = self.requests_total.labels(model, version, "primary", protocol, code)
        counter.inc(sum(tally[:-1]))
        self.request_duration_seconds.labels(model, version, protocol).take(tally)

    def _give_took(self, key: tuple[str, str], tally: Tally) -> None:
        self.upstream_duration_seconds.labels(*key).take(tally)

    def _show_in_flight(self) -> None:
        now = self._in_flight()
        for model in self._shown_in_flight - now.keys():
            self.requests_in_flight.labels(model).set(0)
        for model, count in now.items():
            self.requests_in_flight.labels(model).set(count)
        self._shown_in_flight = set(now)
        turns = self._turns()
        for model in self._shown_turns - turns.keys():
            self.requests_queued.labels(model).set(0)
            self.concurrency_limit.labels(model).set(0)
        self._shown_turns = set(turns)
        for model, (queued, limit) in turns.items():
            self.requests_queued.labels(model).set(queued)
            self.concurrency_limit.labels(model).set(limit)

    def forget_model(self, model: str) -> None:
        """Drop the gauges of a model that was deleted, so that they do not show stale values for
        ever. Counters stay: they have happened."""
        self._shown_in_flight.discard(model)
        if self._dir is None:
            self.requests_in_flight.remove_by_labels({"model": model})
            self.requests_queued.remove_by_labels({"model": model})
            self.concurrency_limit.remove_by_labels({"model": model})
            self.replicas.remove_by_labels({"model": model})
            self.replicas_wanted.remove_by_labels({"model": model})
            self.canary_weight_ratio.remove_by_labels({"model": model})
            self.source_last_success_timestamp_seconds.remove_by_labels({"model": model})

    def forget_process(self, process: str) -> None:
        """A worker has ended: its gauges no longer count, its counters still do."""
        if self._dir is not None:
            from prometheus_client import multiprocess

            multiprocess.mark_process_dead(process, str(self._dir))  # type: ignore[no-untyped-call]

    def render(self) -> bytes:
        """The text that Prometheus scrapes, summed over all processes."""
        return generate_latest(self._summed())

    def render_for_tfs(self) -> bytes:
        """The same, and what TensorFlow Serving's dashboards look for (tfs_names.py)."""
        summed = self._summed()
        return generate_latest(summed) + tfs_page(summed.collect())

    def traffic(self) -> tuple[Sequence[float], list[ModelTraffic]]:
        """Bounds of the latencies' buckets in seconds, and what there was of each model."""
        return _LATENCY_BUCKETS, traffic(self._summed().collect(), _LATENCY_BUCKETS)

    def _summed(self) -> CollectorRegistry:
        """Over all processes."""
        self.hand_over()
        if self._dir is None:
            return self._registry
        from prometheus_client import multiprocess

        summed = CollectorRegistry()
        multiprocess.MultiProcessCollector(summed, path=str(self._dir))  # type: ignore[no-untyped-call]
        return summed


def _share_values(directory: Path, process: str) -> None:
    """Make metrics that are declared from now on keep their values in files of `directory`.

    prometheus_client decides this once, by an environment variable at its import, and reads the
    directory from the same variable whenever a metric is made. Both are set here, so that it does
    not matter who imported it first.
    """
    import os

    from prometheus_client import values

    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]
