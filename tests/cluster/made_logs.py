"""The kubelet's log page, for pods on made nodes: `kubectl logs` asks the node, not the API."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep
from urllib.parse import parse_qs, urlsplit

from tests.cluster.control_plane import ControlPlane
from tests.cluster.made_containers import MadeContainer

KUBELET_PORT = 10250
FOLLOW_S = 0.05

Find = Callable[[str, str, str], MadeContainer | None]
"""By namespace, pod and container."""


class MadeLogs:
    """Serves `/containerLogs/NAMESPACE/POD/CONTAINER[?follow=true]`. A context manager."""

    def __init__(self, cluster: ControlPlane, find: Find) -> None:
        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _answer(self, find)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: it would stand between the tests' own words."""

        self._server = ThreadingHTTPServer((cluster.slot.address, KUBELET_PORT), Page)
        self._server.daemon_threads = True
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cluster.identities.cert, cluster.identities.cert.with_suffix(".key"))
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="made nodes' logs")

    def __enter__(self) -> MadeLogs:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answer(request: BaseHTTPRequestHandler, find: Find) -> None:
    asked = urlsplit(request.path)
    parts = asked.path.strip("/").split("/")
    found = find(*parts[1:4]) if parts[0] == "containerLogs" and len(parts) == 4 else None
    if found is None:
        request.send_error(404)
        return
    follow = "follow" in parse_qs(asked.query)
    request.send_response(200)
    request.send_header("content-type", "text/plain")
    request.end_headers()
    try:
        _copy(found.log, request, lambda: follow and found.is_running)
    except OSError:
        return  # who asked has gone, or the log has, with its pod


def _copy(log: Path, request: BaseHTTPRequestHandler, goes_on: Callable[[], bool]) -> None:
    with log.open("rb") as written:
        while True:
            was_running = goes_on()
            while chunk := written.read(65_536):
                request.wfile.write(chunk)
            if not was_running:
                return
            sleep(FOLLOW_S)
