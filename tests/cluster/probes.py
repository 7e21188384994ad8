"""A kubelet's probe, asked for real: an HTTP GET, a TCP connection, gRPC's health, a command."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.cluster.api import Json


@dataclass
class Probe:
    """One probe of one container. Counts as Kubernetes does: successes and failures in a row."""

    spec: Json
    address: str
    port_of: Callable[[object], int]
    """A port's number from its number or name."""
    run: Callable[[list[str]], bool]
    """Runs a command in the container; whether it exited with 0."""
    since: float
    """When the container started."""
    passed: bool | None = None
    """None until enough answers said the same."""
    _last: float = field(default=0.0, init=False)
    _row: int = field(default=0, init=False)
    _row_says: bool = field(default=False, init=False)

    def look(self, now: float) -> bool | None:
        """Ask, if it is time; return what holds."""
        begin = self.since + float(self.spec.get("initialDelaySeconds", 0))
        if now < begin or now - self._last < float(self.spec.get("periodSeconds", 10)):
            return self.passed
        self._last = now
        says = self._ask()
        self._row = self._row + 1 if says == self._row_says else 1
        self._row_says = says
        needed = (
            self.spec.get("successThreshold", 1) if says else self.spec.get("failureThreshold", 3)
        )
        if self._row >= int(needed):
            self.passed = says
        return self.passed

    def _ask(self) -> bool:
        timeout_s = float(self.spec.get("timeoutSeconds", 1))
        try:
            if get := self.spec.get("httpGet"):
                port = self.port_of(get["port"])
                return http_get(self.address, port, get, timeout_s) < 400
            if tcp := self.spec.get("tcpSocket"):
                where = (self.address, self.port_of(tcp["port"]))
                socket.create_connection(where, timeout_s).close()
                return True
            if grpc := self.spec.get("grpc"):
                return _grpc(f"{self.address}:{grpc['port']}", grpc.get("service", ""), timeout_s)
            return self.run(self.spec["exec"]["command"])
        except (OSError, http.client.HTTPException):
            return False


def http_get(address: str, port: int, get: Json, timeout_s: float) -> int:
    """The status of a probe's or hook's GET. Certificates are not checked, as in Kubernetes.

    Raises:
        OSError, http.client.HTTPException: no answer.
    """
    if get.get("scheme") == "HTTPS":
        tls = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address, port, timeout=timeout_s, context=tls
        )
    else:
        connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    headers = {h["name"]: h["value"] for h in get.get("httpHeaders", [])}
    try:
        connection.request("GET", get.get("path", "/"), headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _grpc(target: str, service: str, timeout_s: float) -> bool:
    # Only where a pod asks for it: the import takes a tenth of a second.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
