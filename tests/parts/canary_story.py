"""A model that is deployed with canary replicas, and what its owner sees and orders."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtests.models import write_adder
from tests.parts.fake_runtime import write
from tests.parts.flagged_server import command
from tests.parts.gateway_process import GatewayProcess

FLAGS = ("--poll-s", "0.5", "--settle-s", "0")
PATIENCE_S = 90.0
PASSES = ("--canary-samples", "40", "--canary-step-s", "1")
LASTS = ("--canary-samples", "10000000")
"""A step that does not end by itself, however slow the machine is."""


class Story:
    """One model, `m`, whose version N answers `x + N`."""

    def __init__(self, gateway: GatewayProcess, root: Path) -> None:
        self.gateway = gateway
        self.root = root

    def deploy(self, *more: str) -> None:
        self.publish(1)
        self.gateway.cli(
            *("deploy", "model", "m", "--source", str(self.root / "m"), "--replicas", "2"),
            *("--canary", "25,50", "--canary-replicas", "1"),
            *more,
        )

    def update(self, *flags: str) -> str:
        """Deploy it again; what the command says."""
        return self.gateway.cli("deploy", "model", "m", *flags).stdout

    def publish(self, version: int) -> None:
        staged = self.root / "staging" / str(version)
        write_adder(staged, float(version))
        self.gateway.cli("publish", str(staged), str(self.root / "m"), "--version", str(version))

    def ask(self, what: str) -> Any:
        """What `gateway get` shows, without a process for each look."""
        url = f"{self.gateway.url}/api/v1/models/m{what}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.loads(answer.read())

    def rollout(self) -> dict[str, Any]:
        found = self.ask("/rollouts")["items"]
        return found[-1] if found else {"version": 0, "phase": "", "reason": ""}

    def replicas(self, group: str) -> list[dict[str, Any]]:
        return [r for r in self.ask("/replicas")["items"] if r["group"] == group]

    def versions(self, group: str) -> list[list[int]]:
        return [r["versions"] for r in self.replicas(group)]

    def order(self, action: str) -> None:
        self.gateway.cli("rollout", action, "m")

    def until(self, said: Callable[[], object]) -> None:
        end = time.perf_counter() + PATIENCE_S
        while not said():
            assert time.perf_counter() < end, self.gateway.cli("describe", "model", "m").stdout
            time.sleep(0.2)

    def until_phase(self, version: int, phase: str) -> None:
        def is_there() -> bool:
            now = self.rollout()
            return (now["version"], now["phase"]) == (version, phase)

        self.until(is_there)

    def until_alone(self) -> None:
        """The canary's replicas are gone, and all is as asked."""
        self.until(lambda: not self.replicas("canary") and self.ask("")["state"] == "ready")


class FlaggedStory(Story):
    """The same, whose replicas are programs that answer 0 with the number that they were
    started with (flagged_server.py)."""

    def deploy(self, *more: str) -> None:
        super().deploy("--backend", "custom", "--command", command(1), *more)

    def publish(self, version: int) -> None:
        write(self.root / "m", version)

    def pids(self, group: str) -> set[int]:
        return {r["pid"] for r in self.replicas(group)}

    def until_template(self, phase: str) -> None:
        """The rollout of another template is there."""
        self.until(lambda: (r := self.rollout())["phase"] == phase and r["template"])
