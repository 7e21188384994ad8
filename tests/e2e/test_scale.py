"""Replicas by demand, from none to some to none, with a real gateway: nobody is refused."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.client import Client
from loadtests import cold_start
from loadtests.cold_start import COLD, RAMP, Load, until
from tests.parts.gateway_process import GatewayProcess, gateway_process

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

LOAD = Load(rounds=1, cold_per_s=20.0, cold_s=1.0, deadline_s=120.0)


def _gateway(tmp_path: Path, *flags: str):
    env = {"GATEWAY_SCALE_WINDOW_S": "6", "PYTHONPATH": str(cold_start.ROOT)}
    flags = ("--poll-s", "0.5", "--settle-s", "0", *flags)
    return gateway_process(tmp_path / "state", *flags, env=env)


def _wait_until_idle(gateway: GatewayProcess, model: str) -> None:
    until(
        lambda: (
            gateway.get("models", model)[0]["state"] == "idle"
            and not gateway.get("replicas", model)
        )
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crowd_finds_no_replica_and_everybody_is_answered(tmp_path: Path, workers: int) -> None:
    with _gateway(tmp_path, "--workers", str(workers)) as gateway:
        (found,) = cold_start.cold(gateway, tmp_path, LOAD, seed=1)
        assert found["outcomes"] == {"in_time": found["requests"]}
        assert sum(found["split"].values()) == pytest.approx(found["first_answer_s"], abs=0.05)
        # A crash while there is none: the next gateway leaves it so, and is woken as this one.
        _wait_until_idle(gateway, COLD)
        gateway.kill()
        gateway.start()
        assert gateway.get("replicas", COLD) == []
        until(lambda: gateway.get("models", COLD)[0]["state"] == "idle")
        clients = [Client(address) for address in (gateway.http, gateway.grpc)]
        with ThreadPoolExecutor(len(clients)) as pool:
            asked = [pool.submit(c.predict, COLD, {"x": [[1.0]]}, timeout_s=60.0) for c in clients]
            assert [float(a.result()["y"][0][0]) for a in asked] == [2.0, 2.0]
        types = [e["type"] for e in gateway.get("events", COLD)]
        assert "model.unavailable" not in types
        refused = gateway.cli("scale", "model", COLD, "--replicas", "2", check=False)
        assert refused.returncode == 1
        assert "follows from its requests" in refused.stderr


def test_replicas_come_and_go_with_the_load_and_nobody_notices(tmp_path: Path) -> None:
    load = replace(LOAD, step_s=5.0, steps_per_s=(5, 90, 5), most=2)
    with _gateway(tmp_path, "--workers", "2") as gateway:
        found = cold_start.ramp(gateway, tmp_path, load, seed=1)
        assert found["outcomes"] == {"in_time": found["requests"]}
        whys = [change["why"] for change in found["changes"]]
        assert whys[0] == "1 replica instead of 0: a request came"
        assert any("in flight per replica over" in why for why in whys)
        assert any(why.startswith("2 replicas instead of 1") for why in whys)
        assert re.fullmatch("0 replicas instead of [12]: no request for 5 s", whys[-1])
        described = gateway.cli("describe", "model", RAMP).stdout
        assert "0 to 2 replicas, 3 in flight each" in described
