"""Envoy as people run it before a model server: an HTTP/1.1 and a gRPC listener, one thread.

Routes by path and method, least request over the replicas (which is a choice of two, as ours), a
timeout for each request, its statistics on. No access log and no request ids, which the gateway
does not write either.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.machine import need, which


@dataclass(frozen=True, slots=True)
class Envoy:
    """A running Envoy: `host:port` of its listeners."""

    http: str
    grpc: str
    pid: int


TIMEOUT_S = 30
_BREAKERS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
_UNLIMITED = 1_000_000
"""Instead of 1024, which an open loop runs into when a busy machine lets Envoy wait for seconds."""
_SERVICES = ("/tensorflow.serving.PredictionService/", "/inference.GRPCInferenceService/")
_TYPES = "type.googleapis.com/envoy.extensions"
_MANAGER = f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_TYPES}.filters.http.router.v3.Router"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


_RETRIES = {
    "retry_on": "connect-failure,refused-stream,reset",
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": f"{_TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": 5,
}
"""As many attempts as ours, none of them on a host that has failed this request."""


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _address(host_port: str) -> dict[str, Any]:
    host, port = host_port.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _route(prefix: str, cluster: str, *, grpc: bool) -> dict[str, Any]:
    match: dict[str, Any] = {"prefix": prefix}
    if grpc:
        match["grpc"] = {}
    else:
        match["headers"] = [{"name": ":method", "string_match": {"exact": "POST"}}]
    return {"match": match, "route": {"cluster": cluster, "timeout": f"{TIMEOUT_S}s"}}


def _listener(name: str, port: int, routes: list[dict[str, Any]]) -> dict[str, Any]:
    manager = {
        "@type": _MANAGER,
        "stat_prefix": name,
        "codec_type": "AUTO",
        "generate_request_id": False,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _ROUTER},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": name,
        "address": _address(f"127.0.0.1:{port}"),
        "filter_chains": [{"filters": filters}],
    }


def _cluster(
    name: str, endpoints: Sequence[str], *, http2: bool, policy: str = "LEAST_REQUEST"
) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "lb_policy": policy,
        "circuit_breakers": {"thresholds": [dict.fromkeys(_BREAKERS, _UNLIMITED)]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _address(e)}} for e in endpoints]}
            ],
        },
    }
    if http2:
        cluster["typed_extension_protocol_options"] = {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return cluster


@contextmanager
def envoy(
    model: str,
    http: Sequence[str],
    grpc: Sequence[str],
    scratch: Path,
    *,
    policy: str = "LEAST_REQUEST",
    is_rescuing: bool = False,
) -> Iterator[Envoy]:
    """Run it before a model's replicas (HTTP and gRPC addresses) until the block ends. With
    `is_rescuing` it tries again elsewhere, twice, and ejects outliers by its defaults."""
    need("envoy")
    ports = {name: _free_port() for name in ("http", "grpc", "admin")}
    paths = [f"/v1/models/{model}", f"/v2/models/{model}"]
    routes = [_route(p, "http", grpc=False) for p in paths]
    clusters = [
        _cluster("http", http, http2=False, policy=policy),
        _cluster("grpc", grpc, http2=True, policy=policy),
    ]
    if is_rescuing:
        for route in routes:
            route["route"]["retry_policy"] = _RETRIES
        for cluster in clusters:
            cluster["outlier_detection"] = {}
    config = {
        "admin": {"address": _address(f"127.0.0.1:{ports['admin']}")},
        "static_resources": {
            "listeners": [
                _listener("http", ports["http"], routes),
                _listener("grpc", ports["grpc"], [_route(s, "grpc", grpc=True) for s in _SERVICES]),
            ],
            "clusters": clusters,
        },
    }
    path = scratch / "envoy.json"
    path.write_text(json.dumps(config))
    with (scratch / "envoy.log").open("ab") as log:
        process = subprocess.Popen(
            [
                str(which("envoy")),
                "-c",
                str(path),
                "--concurrency",
                "1",
                "--use-dynamic-base-id",
                "-l",
                "warn",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _wait_ready(ports["admin"], process, scratch / "envoy.log")
        yield Envoy(f"127.0.0.1:{ports['http']}", f"127.0.0.1:{ports['grpc']}", process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"Envoy exited {process.returncode}: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit("Envoy was not ready within 30 s")
