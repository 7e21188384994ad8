"""SIGKILL of the gateway in the middle of a rollout: the step goes on, and nobody is sent back."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from loadtests.models import write_adder
from loadtests.swap import adder_shot
from loadtests.traffic import PREDICT
from tests.parts.gateway_process import GatewayProcess

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

MODEL = "stepping"
SAMPLES, AT_ONCE, ASKED = 60, 60, 100
"""Answers that the canary needs in a step; requests between two looks at the rollout; users who are
asked at a quarter. A quarter of the last two together is less than the first, so the step holds."""
KEY = "x-gateway-key"


class Users:
    """Callers with a sticky key each, half of them over HTTP, half over gRPC."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        """What each was answered by last."""
        self.went_back: list[str] = []
        self._shot = adder_shot(MODEL)
        self._numbers = count()

    def ask(self, gateway: GatewayProcess, users: list[str]) -> None:
        """One request of each. `adder_shot` fails for an answer under another version's name."""
        host, _, port = gateway.http.rpartition(":")
        web = http.client.HTTPConnection(host, int(port), timeout=60)
        with grpc.insecure_channel(gateway.grpc) as channel:
            call = channel.unary_unary(PREDICT)
            for user in users:
                if next(self._numbers) % 2:
                    self._keep(user, self._over_grpc(call, user))
                else:
                    self._keep(user, self._over_http(web, user))
        web.close()

    def _over_http(self, web: http.client.HTTPConnection, user: str) -> int:
        path = f"/v1/models/{MODEL}:predict"
        web.request("POST", path, self._shot.http_body, {KEY: user})
        answer = web.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return self._shot.http_version(body, headers)

    def _over_grpc(self, call: grpc.UnaryUnaryMultiCallable[bytes, bytes], user: str) -> int:
        answer = call(self._shot.grpc_body, timeout=60, metadata=((KEY, user),))
        return self._shot.grpc_version(answer)

    def _keep(self, user: str, version: int) -> None:
        if version < self.versions.get(user, 0):
            self.went_back.append(user)
        self.versions[user] = version


@contextmanager
def _gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(tmp_path / "state", ["--poll-s", "0.5"])
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


def _publish(gateway: GatewayProcess, tmp_path: Path, version: int) -> str:
    folder, source = tmp_path / "staging" / str(version), tmp_path / "models"
    write_adder(folder, float(version))
    gateway.cli("publish", str(folder), str(source), "--version", str(version))
    return str(source)


def _rollout(gateway: GatewayProcess) -> dict[str, Any]:
    found = gateway.get("rollouts", MODEL)
    return found[-1] if found else {"phase": "", "weight": 0.0}


def _until(
    gateway: GatewayProcess, is_so: Callable[[dict[str, Any]], bool], meanwhile: Callable[[], None]
) -> dict[str, Any]:
    end = time.perf_counter() + 250
    while time.perf_counter() < end:
        rollout = _rollout(gateway)
        if is_so(rollout):
            return rollout
        meanwhile()
    raise AssertionError(f"it did not happen in time: {rollout}\n{gateway.log()}")


def test_a_gateway_killed_at_a_quarter_goes_on_there_and_sends_nobody_back(tmp_path: Path) -> None:
    users, everybody = Users(), [f"user-{n}" for n in range(300)]
    turns = count()

    def some() -> None:
        first = AT_ONCE * next(turns) % len(everybody)
        users.ask(gateway, everybody[first : first + AT_ONCE])

    with _gateway(tmp_path) as gateway:
        source = _publish(gateway, tmp_path, 1)
        gateway.cli(
            *("deploy", "model", MODEL, "--source", source, "--replicas", "2"),
            *("--canary", "5,25,50", "--canary-samples", str(SAMPLES), "--canary-step-s", "0"),
        )
        _publish(gateway, tmp_path, 2)
        _until(gateway, lambda r: r["weight"] >= 0.25, some)
        asked = everybody[:ASKED]
        users.ask(gateway, asked)
        before = _rollout(gateway)
        assert (before["phase"], before["weight"], before["step"]) == ("progressing", 0.25, 1)
        pids = {r["pid"] for r in gateway.get("replicas", MODEL)}

        gateway.kill()
        gateway.start()
        # The first answers after the restart, whatever the reconcile loop has seen by then.
        known = {user: users.versions[user] for user in asked}
        users.ask(gateway, asked)
        assert {user: users.versions[user] for user in asked} == known
        assert set(known.values()) == {1, 2}

        _until(gateway, lambda r: r["phase"] == "progressing", lambda: None)
        after = _rollout(gateway)
        for key in ("phase", "weight", "step", "version", "stable_version", "started_at"):
            assert after[key] == before[key], key
        assert {r["pid"] for r in gateway.get("replicas", MODEL)} == pids
        assert gateway.get("models", MODEL)[0]["live_version"] == 1

        done = _until(gateway, lambda r: r["phase"] in ("succeeded", "failed"), some)
        assert done["phase"] == "succeeded", done
        users.ask(gateway, everybody)
        assert set(users.versions.values()) == {2}
        assert users.went_back == []
        weights = [
            e["fields"]["weight"]
            for e in gateway.get("events", MODEL, "--limit", "1000")
            if e["type"].startswith("rollout.") and e["fields"]["phase"] == "progressing"
        ]
        assert weights == [0.05, 0.25, 0.5]
