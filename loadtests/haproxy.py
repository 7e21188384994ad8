"""HAProxy before a model's replicas, over HTTP: leastconn, health checks, retries elsewhere."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loadtests.machine import need, which

_CONFIG = """
global
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 30s
  retries 2
  option redispatch 1
  retry-on conn-failure empty-response
  option http-buffer-request
listen model
  bind {bind}
  balance {balance}
{servers}
"""


@contextmanager
def haproxy(replicas: Sequence[str], scratch: Path, *, balance: str = "leastconn") -> Iterator[str]:
    """Run it until the block ends; `host:port` of its listener."""
    need("haproxy")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{free.getsockname()[1]}"
    servers = "\n".join(
        f"  server r{n} {address} check inter 1s fall 2 rise 1"
        for n, address in enumerate(replicas)
    )
    path = scratch / "haproxy.cfg"
    path.write_text(_CONFIG.format(bind=bind, balance=balance, servers=servers))
    with (scratch / "haproxy.log").open("ab") as log:
        process = subprocess.Popen(
            [str(which("haproxy")), "-f", str(path), "-db"], stdout=log, stderr=log
        )
    try:
        _wait(bind, process, scratch / "haproxy.log")
        yield bind
    finally:
        process.terminate()
        process.wait(30)


def _wait(bind: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, _, port = bind.rpartition(":")
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"HAProxy exited {process.returncode}: {log.read_text()[-2000:]}")
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("HAProxy was not ready within 10 s")
