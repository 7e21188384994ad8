"""SIGKILL of the gateway: the same models and the same replicas, with nobody's help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from loadtests.models import write_adder
from tests.parts.gateway_process import GatewayProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def _predict(gateway: GatewayProcess, model: str) -> float:
    request = urllib.request.Request(
        f"http://{gateway.http}/v1/models/{model}:predict",
        data=b'{"instances": [[0.0]]}',
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return float(json.loads(answer.read())["predictions"][0][0])


def _until_gone(pids: list[int], timeout_s: float) -> list[int]:
    end = time.perf_counter() + timeout_s
    while time.perf_counter() < end and any(psutil.pid_exists(p) for p in pids):
        time.sleep(0.2)
    return [p for p in pids if psutil.pid_exists(p)]


def test_replicas_are_adopted_after_the_gateway_was_killed(tmp_path: Path) -> None:
    write_adder(tmp_path / "m" / "7", 7.0)
    gateway = GatewayProcess(tmp_path / "state", ["--poll-s", "0.5", "--settle-s", "0"])
    gateway.start()
    try:
        gateway.cli("deploy", "model", "m", "--source", str(tmp_path / "m"), "--replicas", "2")
        before = {r["pid"]: (r["id"], r["endpoint"]) for r in gateway.get("replicas", "m")}
        gateway.kill()
        gateway.start()
        end = time.perf_counter() + 60
        while time.perf_counter() < end:
            ready = [r for r in gateway.get("replicas", "m") if r["state"] == "ready"]
            if len(ready) == 2:
                break
            time.sleep(0.1)
        after = {r["pid"]: (r["id"], r["endpoint"]) for r in gateway.get("replicas", "m")}
        assert after == before
        assert _predict(gateway, "m") == 7.0
        assert [m["live_version"] for m in gateway.get("models", "m")] == [7]
    finally:
        gateway.stop()
    assert _until_gone(list(before), 30) == []


def test_replicas_leave_by_themselves_when_nobody_takes_over(tmp_path: Path) -> None:
    write_adder(tmp_path / "m" / "1", 1.0)
    gateway = GatewayProcess(tmp_path / "state", ["--settle-s", "0", "--orphan-grace-s", "2"])
    gateway.start()
    gateway.cli("deploy", "model", "m", "--source", str(tmp_path / "m"))
    pids = [r["pid"] for r in gateway.get("replicas", "m")]
    gateway.kill()
    assert _until_gone(pids, 30) == []


def test_a_clean_stop_leaves_nothing_running(tmp_path: Path) -> None:
    write_adder(tmp_path / "m" / "1", 1.0)
    gateway = GatewayProcess(tmp_path / "state", ["--settle-s", "0"])
    gateway.start()
    gateway.cli("deploy", "model", "m", "--source", str(tmp_path / "m"), "--replicas", "2")
    pids = [r["pid"] for r in gateway.get("replicas", "m")]
    assert gateway.stop() == 0
    # Well within the 30 s after which they would leave by themselves.
    assert _until_gone(pids, 20) == []


def test_a_state_directory_serves_one_gateway(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path / "state")
    gateway.start()
    try:
        command = [sys.executable, "-m", "gateway", "serve", "--state", str(gateway.state)]
        command += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--control", "127.0.0.1:0"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert second.returncode == 1
        assert "another gateway" in second.stderr
        assert str(gateway.process.pid if gateway.process else "?") in second.stderr
    finally:
        gateway.stop()


@pytest.mark.parametrize("flag", ["--http", "--grpc", "--control"])
def test_a_port_in_use_is_named_with_its_flag(tmp_path: Path, flag: str) -> None:
    gateway = GatewayProcess(tmp_path / "state")
    gateway.start()
    try:
        taken = gateway.addresses[flag.removeprefix("--")]
        command = [sys.executable, "-m", "gateway", "serve", "--state", str(tmp_path / "other")]
        for other in ("--http", "--grpc", "--control"):
            command += [other, taken if other == flag else "127.0.0.1:0"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert second.returncode == 1
        assert taken in second.stderr
        assert flag in second.stderr
    finally:
        gateway.stop()


def test_binding_to_the_world_needs_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway", "serve", "--state", str(tmp_path / "s")]
    command += ["--http", "0.0.0.0:0", "--grpc", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1
    assert "--insecure" in done.stderr


def test_an_idle_gateway_holds_less_than_100_mb(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path / "state")
    gateway.start()
    try:
        assert gateway.process is not None
        resident = psutil.Process(gateway.process.pid).memory_info().rss
        assert resident < 100e6
    finally:
        gateway.stop()
