"""SIGHUP to `gateway serve`: reloads, unless the terminal is gone."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.parts.certificates import self_signed, shown_name, trusting
from tests.parts.gateway_process import GatewayProcess, gateway_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

WORKER_BYTES = 100_000_000


def _until(is_so: Callable[[], object], timeout_s: float = 60.0) -> None:
    end = time.perf_counter() + timeout_s
    while not is_so():
        assert time.perf_counter() < end, "it did not happen in time"
        time.sleep(0.05)


def _workers(gateway: GatewayProcess) -> set[int]:
    assert gateway.process is not None
    children = psutil.Process(gateway.process.pid).children()
    return {child.pid for child in children if "--fd" in child.cmdline()}


def _is_live(gateway: GatewayProcess) -> bool:
    with urllib.request.urlopen(f"http://{gateway.http}/v2/health/live", timeout=5) as answer:
        return bool(answer.status == 200)


def test_workers_are_small_and_replaced(tmp_path: Path) -> None:
    with gateway_process(tmp_path / "state", "--workers", "2") as gateway:
        assert gateway.process is not None
        before = _workers(gateway)
        assert len(before) == 2
        assert _is_live(gateway)
        for pid in before:
            loaded = Path(f"/proc/{pid}/maps").read_text()
            assert psutil.Process(pid).memory_info().rss < WORKER_BYTES
            assert "aiohttp" not in loaded
            assert "/grpc/" not in loaded
        # To the workers it means nothing, as a signal to all processes of this name would reach
        # them too.
        for pid in (*before, gateway.process.pid):
            os.kill(pid, signal.SIGHUP)
        _until(lambda: "workers.replaced" in gateway.log())
        after = _workers(gateway)
        assert len(after) == 2
        assert not after & before
        assert _is_live(gateway)


def test_one_process_reads_its_certificate_again(tmp_path: Path) -> None:
    files = self_signed(tmp_path, "first")
    flags = ("--tls-cert", str(files[0]), "--tls-key", str(files[1]))
    with gateway_process(tmp_path / "state", *flags) as gateway:
        assert gateway.process is not None
        host, port = gateway.http.split(":")

        def shown() -> str:
            # Trusts what it was told to: fails, rather than names another.
            with (
                socket.create_connection((host, int(port))) as sock,
                trust.wrap_socket(sock, server_hostname=host) as secured,
            ):
                return shown_name(secured)

        trust = trusting(files[0])
        assert shown() == "first"
        for new, path in zip(self_signed(tmp_path, "second"), files, strict=True):
            new.replace(path)
        trust = trusting(files[0])
        gateway.process.send_signal(signal.SIGHUP)
        _until(lambda: "tls.reloaded" in gateway.log())
        assert shown() == "second"
        files[1].write_text("")
        gateway.process.send_signal(signal.SIGHUP)
        _until(lambda: "gateway.reload_failed" in gateway.log())
        assert shown() == "second"


def test_a_closed_terminal_ends_the_gateway_that_was_started_in_it(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    # `setsid --ctty` makes the terminal its own, as a shell does for what it starts.
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "gateway", "serve",
         "--state", str(tmp_path / "state"),
         "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--control", "127.0.0.1:0"],
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    announced = tmp_path / "state" / "gateway.json"
    try:
        _until(announced.exists)
        os.close(ours)
        assert process.wait(30) == 0
        assert not announced.exists()
    finally:
        process.kill()
        process.wait()
