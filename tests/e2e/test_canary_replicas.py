"""A canary with replicas of its own, through the CLI and under real load: nobody notices."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.swap import adder_shot
from loadtests.traffic import Traffic
from tests.parts.canary_story import FLAGS, LASTS, PASSES, Story
from tests.parts.gateway_process import GatewayProcess, gateway_process
from tests.parts.local_replicas import is_running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def promoted(story: Story, moments: dict[str, float], now: Callable[[], float]) -> None:
    """Version 2: its only replica is killed on the way, and then it passes all steps."""
    story.publish(2)
    story.until_phase(2, "progressing")
    (own,) = story.gateway.get("replicas", "m")[2:]
    assert (own["group"], own["versions"]) == ("canary", [2])
    assert story.versions("stable") == [[1], [1]]
    os.kill(own["pid"], signal.SIGKILL)
    story.until(lambda: own["id"] not in {r["id"] for r in story.replicas("canary")})
    story.until(lambda: story.versions("canary") == [[2]])
    assert story.rollout()["phase"] == "progressing"
    story.gateway.cli("deploy", "model", "m", *PASSES)
    story.until_phase(2, "succeeded")
    moments["live"] = now()
    story.until_alone()
    assert story.versions("stable") == [[2], [2]]


def rolled_back(story: Story, moments: dict[str, float], now: Callable[[], float]) -> None:
    """Version 3: somebody changes their mind."""
    story.gateway.cli("deploy", "model", "m", *LASTS)
    story.publish(3)
    story.until_phase(3, "progressing")
    story.until(lambda: story.rollout()["canary"]["requests"] > 10)
    story.order("abort")
    story.until_phase(3, "failed")
    moments["taken back"] = now()
    story.until_alone()
    assert story.versions("stable") == [[2], [2]]


@pytest.mark.long
def test_promotion_a_kill_and_a_rollback_cost_no_request(tmp_path: Path) -> None:
    moments: dict[str, float] = {}

    async def played(story: Story) -> Traffic:
        now = asyncio.get_running_loop().time
        traffic = Traffic(story.gateway.http, story.gateway.grpc, adder_shot("m"), 30.0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(traffic.run())
            try:
                await asyncio.to_thread(promoted, story, moments, now)
                await asyncio.to_thread(rolled_back, story, moments, now)
            finally:
                traffic.stop.set()
        return traffic

    with gateway_process(tmp_path / "state", *FLAGS) as gateway:
        story = Story(gateway, tmp_path)
        story.deploy(*LASTS)
        samples = asyncio.run(played(story)).samples
    assert [s.error for s in samples if s.error] == []
    assert {s.version for s in samples} == {1, 2, 3}
    # Whoever began after it was live, or after it was taken back, got the right one.
    live, back = moments["live"], moments["taken back"]
    assert {s.version for s in samples if s.ended_s < live} <= {1, 2}
    assert {s.version for s in samples if live < s.started_s} <= {2, 3}
    assert {s.version for s in samples if back < s.started_s} == {2}
    print(len(samples), [sum(s.version == v for s in samples) for v in (1, 2, 3)])


def test_the_next_gateway_goes_on_with_a_canary_and_its_replicas(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path / "state", FLAGS)
    gateway.start()
    try:
        story = Story(gateway, tmp_path)
        story.deploy()
        story.publish(2)
        story.until_phase(2, "progressing")
        before = {r["pid"]: (r["id"], r["group"]) for r in gateway.get("replicas", "m")}
        gateway.kill()
        gateway.start()
        story.until(
            lambda: [*story.versions("stable"), *story.versions("canary")] == [[1], [1], [2]]
        )
        after = {r["pid"]: (r["id"], r["group"]) for r in gateway.get("replicas", "m")}
        assert after == before
        assert sorted(group for _, group in after.values()) == ["canary", "stable", "stable"]
        assert (story.rollout()["phase"], story.rollout()["weight"]) == ("progressing", 0.25)
        story.order("promote")
        story.until_phase(2, "succeeded")
        story.until_alone()
        gone = [pid for pid, (_, group) in before.items() if group == "canary"]
        assert not any(map(is_running, gone))
    finally:
        gateway.stop()


def test_canary_replicas_that_crash_hold_the_rollout_and_say_why(tmp_path: Path) -> None:
    # The third replica that starts is the canary's: it finds its place taken.
    seats = tmp_path / "seats"
    seats.mkdir()
    before = (
        f"for n in 1 2; do mkdir {seats}/$n 2>/dev/null && exit 0; done; "
        "echo no seat is left; exit 3"
    )
    with gateway_process(tmp_path / "state", *FLAGS) as gateway:
        story = Story(gateway, tmp_path)
        story.deploy("--before", before)
        story.publish(2)
        story.until(lambda: "no seat is left" in story.rollout()["reason"])
        now = story.rollout()
        assert (now["phase"], now["canary_replicas"]) == ("pending", 1)
        shown = gateway.cli("rollout", "status", "m").stdout
        assert "on 1 replica of its own" in shown
        assert "canary replica m-" in shown
        assert "no seat is left" in gateway.cli("get", "replicas", "m", "-o", "json").stdout
        assert json.loads(
            gateway.cli("predict", "m", "--data", '{"instances": [[0.0]]}').stdout
        ) == {"predictions": [[1.0]]}
        story.order("abort")
        story.until_phase(2, "failed")
        story.until_alone()
