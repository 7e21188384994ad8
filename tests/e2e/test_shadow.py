"""Shadow traffic on real ONNX models and processes: an export that predicts the same goes live, one
that does not is rolled back, and callers of all four protocols notice nothing of either."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.client import Client
from gateway.domain.errors import GatewayError
from gateway.domain.models import PROTOCOLS
from tests.parts import tiny_onnx
from tests.parts.gateway_process import GatewayProcess, gateway_process

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

NAME = "classifier"


def ask(gateway: GatewayProcess, protocol: str, stop: threading.Event, trouble: list[str]) -> int:
    """Ask one thing after the other until `stop`; how many were answered."""
    rng, answered = np.random.default_rng(PROTOCOLS.index(protocol)), 0
    address = gateway.grpc if "grpc" in protocol else gateway.http
    with Client(address, protocol=protocol) as client:
        while not stop.is_set():
            x = rng.standard_normal((2, 6)).astype(np.float32)
            try:
                answer = client.predict(NAME, {"x": x})
                assert answer["probabilities"].shape == (2, 5)
                answered += 1
            except (GatewayError, AssertionError) as error:
                trouble.append(f"{protocol}: {error!r}")
    return answered


@contextmanager
def callers(gateway: GatewayProcess) -> Iterator[None]:
    """Callers of all four protocols, none of whom may have any trouble."""
    stop, trouble = threading.Event(), []
    with ThreadPoolExecutor(len(PROTOCOLS)) as pool:
        asking = [pool.submit(ask, gateway, p, stop, trouble) for p in PROTOCOLS]
        try:
            yield
        finally:
            stop.set()
    assert not trouble
    assert all(a.result() for a in asking)


def ended(gateway: GatewayProcess, version: int) -> dict[str, Any]:
    """The rollout of `version` when it has ended."""
    end_at = time.perf_counter() + 240
    while time.perf_counter() < end_at:
        found = gateway.get("rollouts", NAME)
        newest = found[-1] if found else {"version": None}
        if newest["version"] == version and newest["phase"] in ("succeeded", "failed"):
            return newest
        time.sleep(0.3)
    raise AssertionError(f"the rollout of version {version} did not end: {found}")


def events(gateway: GatewayProcess, version: int) -> list[dict[str, Any]]:
    return [
        e
        for e in gateway.get("events", NAME, "--limit", "1000")
        if e["type"].startswith("rollout.") and e["version"] == version
    ]


def test_only_a_version_that_predicts_the_same_goes_live(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((6, 5))
    source = tmp_path / "models" / NAME
    tiny_onnx.classifier(source / "1", weights)
    again = tiny_onnx.classifier(tmp_path / "again", weights * (1 + 1e-6))
    # Two columns taken for each other: what a changed order of classes does.
    wrong = tiny_onnx.classifier(tmp_path / "wrong", weights[:, [1, 0, 2, 3, 4]])
    flags = ("--poll-s", "0.5", "--settle-s", "0", "--workers", "2")
    with gateway_process(tmp_path / "state", *flags) as gateway:
        gateway.cli(
            *("deploy", "model", NAME, "--source", str(source), "--canary", "10,50"),
            *("--canary-samples", "40", "--canary-step-s", "1", "--shadow", "50%"),
            *("--shadow-max-differing", "1%", "--shadow-max-flips", "1%"),
        )
        with callers(gateway):
            gateway.cli("publish", str(again), str(source), "--version", "2")
            good = ended(gateway, 2)
            gateway.cli("publish", str(wrong), str(source), "--version", "3")
            bad = ended(gateway, 3)
        assert (good["phase"], bad["phase"]) == ("succeeded", "failed"), (good, bad)
        assert "its predictions differ: output " in bad["reason"]
        assert max(e["fields"]["weight"] for e in events(gateway, 3)) == 0.1
        shown = {o["name"]: o for o in bad["agreement"]["outputs"]}
        assert shown["probabilities"]["flips"] > 0.05
        assert shown["label"]["differing"] == pytest.approx(shown["probabilities"]["flips"])
        assert (shown["label"]["mismatched"], shown["probabilities"]["mismatched"]) == (0, 0)
        passed = next(e for e in events(gateway, 2) if e["type"] == "rollout.promoting")
        agreed = passed["fields"]["agreement"]
        assert agreed["compared"] >= agreed["needed"] == 20
        assert (agreed["failed"], agreed["flips"], agreed["differing"]) == (0, 0.0, 0.0)
        described = gateway.cli("describe", "model", NAME).stdout
        assert "probabilities" in described
        assert "shadow_max_flips=1.0" in described
        again_shown = json.loads(gateway.cli("rollout", "status", NAME, "-o", "json").stdout)
        assert again_shown["agreement"]["compared"] == bad["agreement"]["compared"]
        with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        assert f'gateway_shadows_total{{model="{NAME}",outcome="compared"}}' in metrics
