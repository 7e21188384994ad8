from __future__ import annotations

from gateway.telemetry import Metrics


def test_answers_are_counted_by_their_labels():
    metrics = Metrics()
    for _ in range(3):
        metrics.answered("m", "2", "http", "200", 0.01)
    text = metrics.render().decode()
    labels = 'code="200",model="m",protocol="http",role="primary",version="2"'
    assert f"gateway_requests_total{{{labels}}} 3.0" in text
    assert 'gateway_request_duration_seconds_count{model="m",protocol="http"} 3.0' in text


def test_gauges_of_a_deleted_model_are_gone():
    metrics = Metrics()
    metrics.replicas.labels("m", "ready").set(2)
    metrics.replicas.labels("other", "ready").set(1)
    metrics.forget_model("m")
    text = metrics.render().decode()
    assert 'gateway_replicas{model="m"' not in text
    assert 'gateway_replicas{model="other",state="ready"} 1.0' in text
