"""A real `gateway serve` on free ports, and the CLI beside it, as a user would run them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Failed(AssertionError):
    """A command that was to succeed did not."""


@dataclass
class GatewayProcess:
    """Owns one process and its state directory."""

    state: Path
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    addresses: dict[str, str] = field(default_factory=dict)
    started_in_s: float = 0.0

    def start(self, timeout_s: float = 60.0, ports: Mapping[str, str] | None = None) -> None:
        """Start and wait until its control API is healthy."""
        ports = ports or {}
        command = [sys.executable, "-m", "gateway", "serve", "--state", str(self.state)]
        for name in ("http", "grpc", "control"):
            command += [f"--{name}", ports.get(name, "127.0.0.1:0")]
        (self.state / "gateway.json").unlink(missing_ok=True)
        self.state.mkdir(parents=True, exist_ok=True)
        begun = time.perf_counter()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.args],
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", **self.env},
                stdout=log,
                stderr=log,
            )
        while time.perf_counter() - begun < timeout_s:
            if self.process.poll() is not None:
                raise Failed(f"gateway serve exited {self.process.returncode}:\n{self.log()}")
            if self._healthy():
                self.started_in_s = time.perf_counter() - begun
                return
            time.sleep(0.01)
        raise Failed(f"gateway serve was not healthy within {timeout_s} s:\n{self.log()}")

    def _healthy(self) -> bool:
        try:
            self.addresses = json.loads((self.state / "gateway.json").read_text())["addresses"]
            url = f"http://{self.addresses['control']}/api/v1/health"
            with urllib.request.urlopen(url, timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError, KeyError):
            return False

    def log(self) -> str:
        """The end of what the process printed."""
        path = self.log_file
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    @property
    def log_file(self) -> Path:
        """All that it printed, of all its starts."""
        return self.state.parent / f"{self.state.name}.serve.log"

    @property
    def http(self) -> str:
        return self.addresses["http"]

    @property
    def grpc(self) -> str:
        return self.addresses["grpc"]

    @property
    def url(self) -> str:
        return f"http://{self.addresses['control']}"

    def cli(
        self, *args: str, check: bool = True, input: str | None = None, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run `gateway ARGS` against this gateway."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *args],
            env={**os.environ, **self.env, "GATEWAY_URL": self.url, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            input=input,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise Failed(
                f"gateway {' '.join(args)} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
                f"\n--- gateway serve\n{self.log()}"
            )
        return done

    def get(self, *args: str) -> list[dict[str, Any]]:
        """`gateway get ARGS -o json`."""
        items = json.loads(self.cli("get", *args, "-o", "json").stdout)
        assert isinstance(items, list)
        return items

    def role(self) -> dict[str, Any]:
        """What it says of who leads, where several share a database."""
        with urllib.request.urlopen(f"{self.url}/api/v1/health", timeout=60) as answer:
            return dict(json.loads(answer.read())["leadership"])

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, as an operator; returns the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"gateway serve did not stop within {timeout_s} s") from None


@contextlib.contextmanager
def gateway_process(
    state: Path, *args: str, env: Mapping[str, str] | None = None
) -> Iterator[GatewayProcess]:
    """A gateway for the length of a `with` block; its replicas go with it."""
    gateway = GatewayProcess(state, args, env or {})
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()
