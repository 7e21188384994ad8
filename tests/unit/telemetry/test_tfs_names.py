"""The page on the prediction port is Prometheus' text, with TensorFlow Serving's names in it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry import Metrics


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page = metrics.render_for_tfs().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith(":tensorflow:serving:")
    }


def _count(model: str, status: str):
    # The parser adds the `_total` that the page must not have.
    return ":tensorflow:serving:request_count_total", (("model_name", model), ("status", status))


def test_answers_are_counted_by_the_status_that_the_original_says():
    metrics = Metrics()
    for protocol, code, times in (("http", "200", 3), ("grpc", "OK", 2), ("http", "503", 1)):
        for version in ("1", "2"):
            counter = metrics.requests_total.labels("m", version, "stable", protocol, code)
            counter.inc(times)
    metrics.requests_total.labels("m", "", "", "http", "418").inc()
    found = _samples(metrics)
    assert found[_count("m", "OK")] == 10
    assert found[_count("m", "UNAVAILABLE")] == 2
    assert found[_count("m", "UNKNOWN")] == 1
    line = b'\n:tensorflow:serving:request_count{model_name="m",status="OK"} 10\n'
    assert line in metrics.render_for_tfs()


def test_latencies_are_in_microseconds_and_summed_over_versions():
    metrics = Metrics()
    for version, seconds in (("1", 0.0004), ("2", 0.003), ("2", 60.0)):
        metrics.request_duration_seconds.labels("m", version, "http").observe(seconds)
    metrics.request_duration_seconds.labels("m", "1", "grpc").observe(0.1)
    found = _samples(metrics)
    name, place = ":tensorflow:serving:request_latency", (("entrypoint", "REST"),)
    of_model = (("model_name", "m"),)
    at = {le: found[f"{name}_bucket", (*place, ("le", le), *of_model)] for le in ("500", "5000")}
    assert at == {"500": 1, "5000": 2}
    assert found[f"{name}_bucket", (*place, ("le", "+Inf"), *of_model)] == 3
    assert found[f"{name}_count", (*place, *of_model)] == 3
    assert found[f"{name}_sum", (*place, *of_model)] == 60_003_400
    assert found[f"{name}_count", (("entrypoint", "GRPC"), *of_model)] == 1
