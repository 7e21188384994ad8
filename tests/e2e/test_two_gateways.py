"""Two gateways on one PostgreSQL: both answer, one leads, and the other takes over."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from loadtests.models import write_adder
from tests.parts.fake_runtime import write
from tests.parts.flagged_server import command
from tests.parts.gateway_process import Failed, GatewayProcess
from tests.parts.postgres import Postgres

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

LEASE_S = 3.0


def _gateway(tmp_path: Path, name: str, url: str, *more: str) -> GatewayProcess:
    flags = ["--poll-s", "0.5", "--settle-s", "0", "--lease-s", str(LEASE_S), *more]
    # A slow machine takes its time to start the new leader's replicas; `_end` ends the old ones.
    flags += ["--orphan-grace-s", "120"]
    return GatewayProcess(tmp_path / name, flags, {"GATEWAY_DATABASE_URL": url})


@contextmanager
def _running(*gateways: GatewayProcess) -> Iterator[None]:
    try:
        for gateway in gateways:
            gateway.start()
        yield
    finally:
        # The leader last: it ends its replicas where no other gateway may use them on.
        for gateway in sorted(gateways, key=_leads):
            gateway.stop()


def _role(gateway: GatewayProcess) -> dict[str, Any]:
    with urllib.request.urlopen(f"{gateway.url}/api/v1/health", timeout=10) as answer:
        found = json.loads(answer.read())["leadership"]
        assert isinstance(found, dict)
        return found


def _leads(gateway: GatewayProcess) -> bool:
    try:
        return bool(_role(gateway)["role"] == "leader")
    except (OSError, KeyError):
        return False


def _until(what: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    end = time.perf_counter() + timeout_s
    while not (found := what()):
        if time.perf_counter() > end:
            raise Failed(f"not so within {timeout_s} s: {what}")
        time.sleep(0.05)
    return found


def _predict(gateway: GatewayProcess, model: str, key: str = "") -> float:
    request = urllib.request.Request(
        f"http://{gateway.http}/v1/models/{model}:predict",
        data=b'{"instances": [[0.0]]}',
        headers={"x-gateway-key": key} if key else {},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return float(json.loads(answer.read())["predictions"][0][0])


def _answers(gateway: GatewayProcess, model: str, key: str = "") -> float | None:
    """None while it has not heard of the model, or of who answers for it."""
    try:
        return _predict(gateway, model, key)
    except urllib.error.HTTPError as error:
        if error.code not in (404, 503):
            raise
        return None


class Callers:
    """Asks without a pause until told to stop; keeps what failed."""

    def __init__(self, gateway: GatewayProcess, model: str) -> None:
        self.answers: list[float] = []
        self.failures: list[str] = []
        self._gateway = gateway
        self._model = model
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            try:
                self.answers.append(_predict(self._gateway, self._model))
            except OSError as error:
                self.failures.append(repr(error))


def test_the_other_answers_on_and_leads_when_the_leader_is_killed(
    tmp_path: Path, postgres: Postgres
) -> None:
    write_adder(tmp_path / "m" / "7", 7.0)
    url = postgres.database()
    one, two = _gateway(tmp_path, "one", url), _gateway(tmp_path, "two", url)
    with _running(one, two):
        leader, follower = (one, two) if _role(one)["role"] == "leader" else (two, one)
        source = str(tmp_path / "m")
        # Asked for at the follower: only the leader can do it.
        follower.cli("deploy", "model", "m", "--source", source, "--replicas", "2")
        _until(lambda: _answers(leader, "m") == 7.0)
        _until(lambda: _answers(follower, "m") == 7.0)
        _until(lambda: leader.get("replicas", "m") == follower.get("replicas", "m"))
        replicas = follower.get("replicas", "m")
        assert [r["state"] for r in replicas] == ["ready", "ready"]
        before = _role(follower)
        assert (before["role"], before["leader"]) == ("follower", _role(leader)["gateway"])
        with Callers(follower, "m") as callers:
            killed_at = time.perf_counter()
            leader.kill()
            _until(lambda: _role(follower)["role"] == "leader")
            took_s = time.perf_counter() - killed_at
            # Replicas of its own take the places of those whose gateway is gone.
            _until(lambda: _ready_pids(follower).isdisjoint(r["pid"] for r in replicas))
            _until(lambda: len(_ready_pids(follower)) == 2)
            count = len(callers.answers)
            _until(lambda: len(callers.answers) > count + 50)
        print(f"led after {took_s:.2f} s; {len(callers.answers)} answers")
        assert callers.failures == []
        assert set(callers.answers) == {7.0}
        # What is new goes on under the new leader.
        write_adder(tmp_path / "m" / "8", 8.0)
        _until(lambda: _answers(follower, "m") == 8.0)
        events = [e["type"] for e in follower.get("events", "m")]
        assert events.count("model.deployed") == 1
        assert [e for e in events if e in ("model.unavailable", "version.failed")] == []
        _end(replicas)


def _ready_pids(gateway: GatewayProcess) -> set[int]:
    """Of the replicas of its own: of those that it has taken over it knows no pid."""
    found = gateway.get("replicas", "m")
    return {r["pid"] for r in found if r["state"] == "ready" and r["pid"] is not None}


def _end(replicas: list[dict[str, Any]]) -> None:
    """Their leash does it, too, in half a minute."""
    for replica in replicas:
        with suppress(ProcessLookupError):
            os.kill(replica["pid"], signal.SIGKILL)


def test_a_database_that_is_away_stops_no_answers(tmp_path: Path, postgres: Postgres) -> None:
    write_adder(tmp_path / "m" / "1", 1.0)
    gateway = _gateway(tmp_path, "one", postgres.database())
    with _running(gateway):
        gateway.cli("deploy", "model", "m", "--source", str(tmp_path / "m"))
        (before,) = gateway.get("replicas", "m")
        process = postgres.process
        assert process is not None
        postgres.stop()
        try:
            with Callers(gateway, "m") as callers:
                refused = gateway.cli("scale", "model", "m", "--replicas", "2", check=False)
                assert refused.returncode == 1
                assert "does not answer" in refused.stderr
                _until(lambda: _role(gateway)["role"] == "follower")
        finally:
            postgres.start()
        assert callers.failures == []
        _until(lambda: _role(gateway)["role"] == "leader")
        gateway.cli("scale", "model", "m", "--replicas", "2")
        _until(lambda: len([r for r in gateway.get("replicas", "m") if r["state"] == "ready"]) == 2)
        assert before["pid"] in [r["pid"] for r in gateway.get("replicas", "m")]
    assert "s3cret" not in gateway.log()


@pytest.mark.long
def test_a_leader_that_stops_hands_over_at_once(tmp_path: Path, postgres: Postgres) -> None:
    write_adder(tmp_path / "m" / "1", 1.0)
    url = postgres.database()
    one, two = _gateway(tmp_path, "one", url), _gateway(tmp_path, "two", url)
    with _running(one, two):
        leader, follower = (one, two) if _role(one)["role"] == "leader" else (two, one)
        leader.cli("deploy", "model", "m", "--source", str(tmp_path / "m"))
        _until(lambda: _answers(follower, "m") == 1.0)
        replicas = follower.get("replicas", "m")
        with Callers(follower, "m") as callers:
            assert leader.process is not None
            leader.process.send_signal(signal.SIGTERM)
            _until(lambda: _role(follower)["role"] == "leader")
            leader.stop()
            _until(lambda: len(_ready_pids(follower) - {r["pid"] for r in replicas}) == 1)
        assert callers.failures == []
        _end(replicas)


@pytest.mark.long
def test_both_have_the_same_sides_of_a_rollout_and_either_can_order_it(
    tmp_path: Path, postgres: Postgres
) -> None:
    write_adder(tmp_path / "m" / "1", 1.0)
    url = postgres.database()
    one, two = _gateway(tmp_path, "one", url), _gateway(tmp_path, "two", url)
    with _running(one, two):
        leader, follower = (one, two) if _role(one)["role"] == "leader" else (two, one)
        flags = ("--canary", "30,60", "--canary-step-s", "600")
        follower.cli("deploy", "model", "m", "--source", str(tmp_path / "m"), *flags)
        _until(lambda: _answers(follower, "m") == 1.0)
        write_adder(tmp_path / "m" / "2", 2.0)
        keys = [f"user-{i}" for i in range(60)]
        for gateway in (leader, follower):
            _until(lambda g=gateway: 2.0 in {_answers(g, "m", k) for k in keys})
        sides = {k: _answers(leader, "m", k) for k in keys}
        assert {k: _answers(follower, "m", k) for k in keys} == sides
        assert 5 <= sum(side == 2.0 for side in sides.values()) <= 35
        # The leader does what the follower is asked for, and both follow.
        follower.cli("rollout", "promote", "m")
        for gateway in (leader, follower):
            _until(lambda g=gateway: {_answers(g, "m", k) for k in keys} == {2.0})
        refused = follower.cli("rollout", "promote", "m", check=False)
        assert refused.returncode == 1
        assert "rollout" in refused.stderr
        follower.cli("rollout", "undo", "m")
        for gateway in (leader, follower):
            _until(lambda g=gateway: {_answers(g, "m", k) for k in keys} == {1.0})
        # The leader's events, as the follower shows them.
        kinds = [e["type"] for e in follower.get("events", "m")]
        assert "rollout.promoting" in kinds
        assert kinds.count("rollout.started") == 2


@pytest.mark.long
def test_both_tell_the_sides_of_another_command_apart(tmp_path: Path, postgres: Postgres) -> None:
    source = str(write(tmp_path / "m", 1))
    url = postgres.database()
    one, two = _gateway(tmp_path, "one", url), _gateway(tmp_path, "two", url)
    with _running(one, two):
        leader, follower = (one, two) if _role(one)["role"] == "leader" else (two, one)
        flags = ("--canary", "30,60", "--canary-step-s", "600", "--canary-replicas", "1")
        told = ("--source", source, "--backend", "custom", "--command", command(1))
        follower.cli("deploy", "model", "m", *told, *flags)
        _until(lambda: _answers(follower, "m") == 1.0)
        follower.cli("deploy", "model", "m", "--command", command(2))
        keys = [f"user-{i}" for i in range(60)]
        for gateway in (leader, follower):
            _until(lambda g=gateway: 2.0 in {_answers(g, "m", k) for k in keys})
        sides = {k: _answers(leader, "m", k) for k in keys}
        assert {k: _answers(follower, "m", k) for k in keys} == sides
        assert 5 <= sum(side == 2.0 for side in sides.values()) <= 35
        # What both have answered is counted for both sides.
        shown = follower.get("rollouts", "m")[-1]
        least = sum(side == 2.0 for side in sides.values())
        _until(lambda: follower.get("rollouts", "m")[-1]["canary"]["requests"] >= 2 * least)
        assert shown["template"]["changes"] == ["command changed"]
        follower.cli("rollout", "abort", "m")
        for gateway in (leader, follower):
            _until(lambda g=gateway: {_answers(g, "m", k) for k in keys} == {1.0})
