from __future__ import annotations

from gateway.telemetry import Metrics


def test_traffic_is_what_was_counted():
    metrics = Metrics()
    for code, took_s in [("200", 0.002), ("200", 0.003), ("503", 0.2), ("400", 0.0001)]:
        metrics.answered("m", "3", "http", code, took_s)
    metrics.answered("m", "3", "grpc", "UNAVAILABLE", 60.0)
    metrics.answered("m", "3", "grpc", "RESOURCE_EXHAUSTED", 0.001)
    metrics.answered("m", "", "http", "429", 0.0001)
    metrics.answered("", "", "http", "404", 0.0001)
    metrics.shed_total.labels("m", "too_late").inc(2)
    metrics.sample_in_flight(lambda: {"m": 7})
    metrics.sample_turns(lambda: {"m": (3, 16)})
    bounds_s, (model,) = metrics.traffic()
    assert (model.model, model.in_flight, model.queued, model.limit, model.shed) == (
        "m",
        7,
        3,
        16,
        2,
    )
    by_version = model.versions
    assert set(by_version) == {"3", ""}
    three = by_version["3"]
    assert (three.requests, three.errors) == (6, 2)
    assert len(three.latency_counts) == len(bounds_s) + 1
    assert sum(three.latency_counts) == 6
    assert three.latency_counts[-1] == 1
    assert three.latency_counts[bounds_s.index(0.005)] == 1  # 3 ms; 2 ms is in the one below
    assert by_version[""].requests == 1
