"""Write dashboard.json, Grafana's dashboard of the gateway: `python dashboard.py`.

Panels are declared below; how Grafana wants them is at the end. A test compares the file with what
this makes, and the metrics with those that the gateway has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("dashboard.json")

ERRORS = "5..|UNKNOWN|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|DATA_LOSS"
"""HTTP's 5xx, and the gRPC codes of what went wrong on this side (gateway/telemetry/traffic.py)."""

OF = 'model=~"$model"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph."""

    title: str
    unit: str
    """Grafana's name of it."""
    lines: tuple[tuple[str, str], ...]
    """PromQL and its legend."""


def rate(metric: str, by: str, labels: str = OF) -> str:
    """Per second, over Grafana's interval."""
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(q: float, metric: str) -> str:
    """Of a histogram, by model."""
    return f"histogram_quantile({q}, {rate(metric + '_bucket', 'model, le')})"


def added(metric: str, by: str, labels: str = OF) -> str:
    """In Grafana's interval."""
    return f"sum by ({by}) (increase({metric}{{{labels}}}[$__rate_interval]))"


def most(metric: str, by: str, labels: str = OF) -> str:
    """The largest that any gateway says: they speak of the same thing."""
    return f"max by ({by}) ({metric}{{{labels}}})"


def together(metric: str, by: str, labels: str = OF) -> str:
    """Over all gateways."""
    return f"sum by ({by}) ({metric}{{{labels}}})"


TRAFFIC = (
    Panel("Requests", "reqps", ((rate("gateway_requests_total", "model"), "{{model}}"),)),
    Panel(
        "Failed",
        "percentunit",
        (
            (
                rate("gateway_requests_total", "model", f'{OF}, code=~"{ERRORS}"')
                + " / "
                + rate("gateway_requests_total", "model"),
                "{{model}}",
            ),
        ),
    ),
    Panel(
        "Latency",
        "s",
        (
            (quantile(0.5, "gateway_request_duration_seconds"), "{{model}} p50"),
            (quantile(0.99, "gateway_request_duration_seconds"), "{{model}} p99"),
        ),
    ),
    Panel(
        "By version",
        "reqps",
        ((rate("gateway_requests_total", "model, version"), "{{model}} {{version}}"),),
    ),
)

LOAD = (
    Panel(
        "In flight, queued, and the limit",
        "short",
        (
            (together("gateway_requests_in_flight", "model"), "{{model}} in flight"),
            (together("gateway_requests_queued", "model"), "{{model}} queued"),
            (together("gateway_concurrency_limit", "model"), "{{model}} limit"),
        ),
    ),
    Panel(
        "Refused as too many",
        "reqps",
        ((rate("gateway_shed_total", "model, reason"), "{{model}} {{reason}}"),),
    ),
    Panel(
        "Calls to replicas, p99",
        "s",
        ((quantile(0.99, "gateway_upstream_duration_seconds"), "{{model}}"),),
    ),
    Panel(
        "Asked again, or twice",
        "reqps",
        (
            (rate("gateway_retries_total", "model, reason"), "{{model}} {{reason}}"),
            (rate("gateway_hedges_total", "model, outcome"), "{{model}} hedge {{outcome}}"),
        ),
    ),
)

REPLICAS = (
    Panel(
        "Replicas",
        "short",
        (
            (most("gateway_replicas", "model, state") + " > 0", "{{model}} {{state}}"),
            (most("gateway_replicas_wanted", "model"), "{{model}} wanted"),
        ),
    ),
    Panel(
        "Left out",
        "short",
        ((added("gateway_ejections_total", "model, cause"), "{{model}} {{cause}}"),),
    ),
    Panel(
        "Share of the new version",
        "percentunit",
        ((most("gateway_canary_weight_ratio", "model"), "{{model}}"),),
    ),
    Panel(
        "Copied to the new version",
        "reqps",
        ((rate("gateway_shadows_total", "model, outcome"), "{{model}} {{outcome}}"),),
    ),
    Panel(
        "Loading a version, p90",
        "s",
        ((quantile(0.9, "gateway_version_load_seconds"), "{{model}}"),),
    ),
    Panel(
        "Since the source was read",
        "s",
        (
            (
                "time() - " + most("gateway_source_last_success_timestamp_seconds", "model"),
                "{{model}}",
            ),
        ),
    ),
)

GATEWAYS = (
    Panel(
        "Connections",
        "short",
        ((together("gateway_connections", "pod, protocol", ""), "{{pod}} {{protocol}}"),),
    ),
    Panel(
        "Event loop late", "s", ((most("gateway_event_loop_lag_seconds", "pod", ""), "{{pod}}"),)
    ),
    Panel(
        "Connections ended",
        "short",
        ((rate("gateway_wire_refused_total", "cause", ""), "{{cause}}"),),
    ),
    Panel(
        "Trouble inside",
        "short",
        (
            (added("gateway_reconcile_errors_total", "loop", ""), "{{loop}}"),
            (added("gateway_worker_restarts_total", "pod", ""), "{{pod}} worker"),
        ),
    ),
    Panel("Who leads", "short", ((most("gateway_leader", "pod", ""), "{{pod}}"),)),
)

ROWS = {
    "Traffic": TRAFFIC,
    "Load": LOAD,
    "Replicas and versions": REPLICAS,
    "The gateways": GATEWAYS,
}


def dashboard() -> dict[str, Any]:
    """In Grafana's form."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place})
        y += 1
        for i, panel in enumerate(row):
            at = {"x": i % 2 * 12, "y": y + i // 2 * 8, "w": 12, "h": 8}
            panels.append(_graph(panel, len(panels) + 1, at))
        y += (len(row) + 1) // 2 * 8
    source = {"type": "prometheus", "uid": "${datasource}"}
    model = {
        "name": "model", "type": "query", "datasource": source, "refresh": 2, "includeAll": True,
        "multi": True, "query": "label_values(gateway_requests_total, model)",
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip
    which = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    return {
        "title": "Gateway", "uid": "model-gateway", "tags": ["gateway"], "schemaVersion": 39,
        "refresh": "30s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
        "templating": {"list": [which, model]}, "panels": panels,
    }  # fmt: skip


def _graph(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {"refId": chr(65 + i), "datasource": source, "expr": expr, "legendFormat": legend}
        for i, (expr, legend) in enumerate(panel.lines)
    ]
    return {
        "id": number, "type": "timeseries", "title": panel.title, "datasource": source,
        "gridPos": place, "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        },
    }  # fmt: skip


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
