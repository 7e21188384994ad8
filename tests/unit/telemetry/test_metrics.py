from __future__ import annotations

import random

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from gateway.telemetry import Metrics
from gateway.telemetry.metrics import _LATENCY_BUCKETS
from gateway.telemetry.wire import PROTOCOLS
from gateway.wire.settings import CAUSES


def lines(metrics: Metrics, name: str) -> list[str]:
    """The samples of one metric."""
    return [line for line in metrics.render().decode().splitlines() if line.startswith(name)]


def test_answers_are_counted_by_their_labels():
    metrics = Metrics()
    for _ in range(3):
        metrics.answered("m", "2", "http", "200", 0.01)
    metrics.answered("m", "1", "http", "503", 0.01)
    assert sorted(lines(metrics, "gateway_requests_total{")) == [
        'gateway_requests_total{code="200",model="m",protocol="http",role="primary",version="2"}'
        " 3.0",
        'gateway_requests_total{code="503",model="m",protocol="http",role="primary",version="1"}'
        " 1.0",
    ]
    count = 'gateway_request_duration_seconds_count{model="m",protocol="http",version='
    counts = sorted(lines(metrics, "gateway_request_duration_seconds_count"))
    assert counts == [f'{count}"1"}} 1.0', f'{count}"2"}} 3.0']


def test_tallies_say_what_prometheus_client_would_have_counted_itself():
    rng = random.Random(7)
    durations = [*_LATENCY_BUCKETS, 0.0, 31.0, *(rng.lognormvariate(-4, 3) for _ in range(500))]
    registry = CollectorRegistry()
    wanted = Histogram(
        "gateway_upstream_duration_seconds",
        "One call to one replica",
        ("model", "protocol"),
        buckets=_LATENCY_BUCKETS,
        registry=registry,
    )
    metrics = Metrics()
    for number, duration_s in enumerate(durations):
        metrics.upstream_took("m", "grpc", duration_s)
        wanted.labels("m", "grpc").observe(duration_s)
        if number % 100 == 0:
            metrics.hand_over()

    def samples(text: str) -> dict[str, float]:
        named = [line for line in text.splitlines() if line.startswith("gateway_upstream_d")]
        return {
            k: float(v) for k, v in (line.rsplit(" ", 1) for line in named) if "created" not in k
        }

    ours, theirs = samples(metrics.render().decode()), samples(generate_latest(registry).decode())
    assert len(theirs) == len(_LATENCY_BUCKETS) + 3
    assert ours == pytest.approx(theirs)


def test_handing_over_in_parts_loses_and_doubles_nothing():
    metrics = Metrics()
    for model in "abcde":
        metrics.answered(model, "1", "http", "200", 0.01)
        metrics.upstream_took(model, "http", 0.01)
    assert not metrics.hand_over(3)
    for model in "abcde":
        metrics.answered(model, "1", "http", "200", 0.01)
    assert not metrics.hand_over(9)
    assert metrics.hand_over(3)
    assert metrics.hand_over(0)
    counts = lines(metrics, "gateway_requests_total{")
    assert [line.rpartition(" ")[2] for line in counts] == ["2.0"] * 5
    assert len(lines(metrics, "gateway_upstream_duration_seconds_count")) == 5


def test_gauges_of_a_deleted_model_are_gone():
    metrics = Metrics()
    metrics.replicas.labels("m", "ready").set(2)
    metrics.replicas.labels("other", "ready").set(1)
    metrics.replicas_wanted.labels("m").set(2)
    metrics.replicas_wanted.labels("other").set(2)
    in_flight = {"m": 1}
    metrics.sample_in_flight(lambda: in_flight)
    assert lines(metrics, "gateway_requests_in_flight{") != []
    in_flight.clear()
    metrics.forget_model("m")
    assert lines(metrics, "gateway_replicas_wanted{") == [
        'gateway_replicas_wanted{model="other"} 2.0'
    ]
    assert lines(metrics, "gateway_replicas{") == [
        'gateway_replicas{model="other",state="ready"} 1.0'
    ]
    assert lines(metrics, "gateway_requests_in_flight{") == []


def test_requests_in_flight_are_those_of_now():
    metrics = Metrics()
    in_flight = {"m": 2}
    metrics.sample_in_flight(lambda: in_flight)
    assert lines(metrics, "gateway_requests_in_flight{") == [
        'gateway_requests_in_flight{model="m"} 2.0'
    ]
    in_flight.clear()
    assert lines(metrics, "gateway_requests_in_flight{") == [
        'gateway_requests_in_flight{model="m"} 0.0'
    ]


def test_what_happens_on_the_wire_is_counted_and_every_series_is_there_from_the_beginning():
    metrics = Metrics()
    metrics.wire.opened("h2")
    metrics.wire.opened("h2")
    metrics.wire.closed("h2")
    metrics.wire.refused("reset_flood")
    assert lines(metrics, "gateway_connections{") == [
        'gateway_connections{protocol="h1"} 0.0',
        'gateway_connections{protocol="h2"} 1.0',
    ]
    refused = dict(line.rsplit(" ", 1) for line in lines(metrics, "gateway_wire_refused_total{"))
    assert refused == {
        f'gateway_wire_refused_total{{cause="{cause}"}}': str(float(cause == "reset_flood"))
        for cause in CAUSES
    }
    assert PROTOCOLS == ("h1", "h2")
