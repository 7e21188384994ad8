"""Alerts and the dashboard ask for metrics and labels that the gateway has, in valid PromQL."""

from __future__ import annotations

import json
from collections.abc import Iterator

import promql_parser as promql
import pytest
import yaml
from prometheus_client import Metric

from deploy.components.monitoring import dashboard
from gateway.telemetry import Metrics
from tests.parts.manifests import DEPLOY

MONITORING = DEPLOY / "components" / "monitoring"
ADDED = frozenset({"pod", "namespace", "instance", "job", "le"})
"""Labels that Prometheus adds to what a pod says, and that of a histogram's buckets."""


def alerts() -> list[dict[str, object]]:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def asked() -> Iterator[tuple[str, str]]:
    """Every query, and where it stands."""
    for rule in alerts():
        yield str(rule["alert"]), str(rule["expr"])
    for panel in json.loads(dashboard.FILE.read_text())["panels"]:
        for target in panel.get("targets", ()):
            # Grafana's own, which it replaces before Prometheus sees them.
            expr = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".+")
            yield panel["title"], expr


QUERIES = list(asked())


def known() -> dict[str, frozenset[str]]:
    """Each series' name that the gateway can show, and its labels."""
    found: dict[str, frozenset[str]] = {}
    for name, metric in vars(Metrics()).items():
        if name.startswith("_") or not hasattr(metric, "describe"):
            continue
        described: Metric
        (described,) = metric.describe()
        labels = frozenset(metric._labelnames)
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        for suffix in suffixes.get(described.type, ("",)):
            found[described.name + suffix] = labels
    return found


KNOWN = known()


def selectors(expr: object) -> Iterator[promql.VectorSelector]:
    """All series that a query asks for."""
    if isinstance(expr, promql.VectorSelector):
        yield expr
        return
    for part in ("expr", "lhs", "rhs", "vector_selector", "vs"):
        if (inner := getattr(expr, part, None)) is not None:
            yield from selectors(inner)
    for inner in getattr(expr, "args", ()) or ():
        yield from selectors(inner)


def test_the_gateways_own_metrics_are_found_by_this_test() -> None:
    assert KNOWN["gateway_requests_total"] >= {"model", "code"}
    assert "gateway_request_duration_seconds_bucket" in KNOWN
    assert len(KNOWN) > 15


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[w for w, _ in QUERIES])
def test_a_query_is_promql_over_metrics_and_labels_that_there_are(where: str, query: str) -> None:
    found = list(selectors(promql.parse(query)))
    assert found, f"{where} asks for nothing"
    for selector in found:
        assert selector.name in KNOWN, f"{where}: there is no metric {selector.name}"
        used = {m.name for m in selector.matchers.matchers}
        assert used <= KNOWN[selector.name] | ADDED, f"{where}: {selector.name} has no {used}"


def test_a_wrong_query_would_be_noticed() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        promql.parse("sum(rate(gateway_requests_total[5m])")
    (selector,) = selectors(promql.parse("max(gateway_replica{state='ready'})"))
    assert selector.name not in KNOWN


def test_alerts_group_by_labels_that_their_words_use() -> None:
    for rule in alerts():
        words = str(rule["annotations"])
        for label in ("model", "loop", "pod", "cause"):
            if f"$labels.{label}" in words:
                assert f"({label})" in str(rule["expr"]) or label == "pod", rule["alert"]


def test_the_dashboard_is_what_its_program_makes() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), f"run python {dashboard.__file__}"
