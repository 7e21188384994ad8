"""A canary of another command, through the CLI and under real load: callers notice its own answers
and nothing else."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.traffic import Traffic
from tests.parts.canary_story import FLAGS, LASTS, PASSES, FlaggedStory
from tests.parts.flagged_server import REFUSAL, command, flagged_shot
from tests.parts.gateway_process import GatewayProcess, gateway_process
from tests.parts.local_replicas import is_running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def answered(story: FlaggedStory, path: str = "", **headers: str) -> int:
    """With which number replicas were started that answer this way of asking."""
    request = urllib.request.Request(
        f"http://{story.gateway.http}/v1/models/m{path}:predict",
        flagged_shot("m").http_body,
        {name.replace("_", "-"): value for name, value in headers.items()},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return round(json.loads(answer.read())["predictions"][0][0])


def promoted(story: FlaggedStory, moments: dict[str, float], now: Callable[[], float]) -> None:
    """The second command: seen beside the first, then everywhere."""
    own = story.pids("stable")
    said = story.update("--command", command(2))
    assert "being rolled out" in said
    story.until_template("progressing")
    assert (story.pids("stable"), story.versions("canary")) == (own, [[1]])
    shown = story.gateway.cli("rollout", "status", "m").stdout
    assert "m: version 1 with template " in shown
    assert "(command changed) instead of template " in shown
    assert "on 1 replica of its own" in shown

    # Labels and the override lead to a side; who names a version gets what is proven.
    sides = {answered(story, "/labels/canary") for _ in range(5)}
    assert sides == {answered(story, x_gateway_version_label="canary")} == {2}
    plain = ("/labels/stable", "/versions/1")
    assert {answered(story, path) for path in plain for _ in range(5)} == {1}
    kept = [{answered(story, x_gateway_key=f"user{i}") for _ in range(3)} for i in range(30)]
    assert {len(one) for one in kept} == {1}
    assert {1, 2} == {n for one in kept for n in one}

    story.update(*PASSES)
    story.until(lambda: story.rollout()["phase"] == "succeeded")
    story.until_alone()
    moments["live"] = now()
    assert not story.pids("stable") & own
    assert not any(map(is_running, own))


def taken_back(story: FlaggedStory, moments: dict[str, float], now: Callable[[], float]) -> None:
    """The third refuses half of its requests, and is found out by that."""
    own = story.pids("stable")
    moments["third"] = now()
    story.update("--command", command(3, fails_every=2), "--no-wait")
    story.until(lambda: story.rollout()["phase"] == "failed")
    moments["taken back"] = now()
    story.until_alone()
    found = story.rollout()
    assert (found["step"], found["verdict"], story.pids("stable")) == (0, "fail", own)
    assert found["canary"]["failed"] > 0 == found["stable"]["failed"]
    assert "was rolled back" in story.gateway.cli("describe", "model", "m").stdout
    told = [e for e in story.gateway.get("events", "m") if e["type"] == "rollout.rolling_back"]
    assert told[-1]["fields"]["template_changes"] == ["command changed"]
    assert told[-1]["fields"]["canary"]["failed"] > 0

    # Nothing but somebody's wish starts it again: more replicas are as those that there are.
    story.gateway.cli("scale", "model", "m", "--replicas", "3")
    story.until(lambda: story.ask("")["ready_replicas"] == 3)
    assert story.rollout()["phase"] == "failed"
    assert {answered(story) for _ in range(10)} == {2}


@pytest.mark.long
def test_another_command_is_promoted_and_one_that_fails_is_taken_back(tmp_path: Path) -> None:
    moments: dict[str, float] = {}

    async def played(story: FlaggedStory) -> Traffic:
        now = asyncio.get_running_loop().time
        traffic = Traffic(story.gateway.http, story.gateway.grpc, flagged_shot("m"), 30.0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(traffic.run())
            try:
                await asyncio.to_thread(promoted, story, moments, now)
                await asyncio.to_thread(taken_back, story, moments, now)
            finally:
                traffic.stop.set()
        return traffic

    with gateway_process(tmp_path / "state", *FLAGS) as gateway:
        story = FlaggedStory(gateway, tmp_path)
        story.deploy(*LASTS)
        samples = asyncio.run(played(story)).samples
    live, third, back = moments["live"], moments["third"], moments["taken back"]
    failed = [s for s in samples if s.error]
    # All that failed was refused by the canary, while it was one.
    assert [s.error for s in failed if REFUSAL not in s.error] == []
    assert all(third < s.ended_s and s.started_s < back for s in failed)
    assert 0 < len(failed) <= 60
    assert {s.version for s in samples if not s.error} == {1, 2, 3}
    assert {s.version for s in samples if live < s.started_s and not s.error} == {2, 3}
    assert {s.version for s in samples if back < s.started_s} == {2}
    print(len(samples), len(failed), [sum(s.version == n for s in samples) for n in (1, 2, 3)])


def test_the_next_gateway_goes_on_and_an_abort_and_an_undo_bring_the_former_back(
    tmp_path: Path,
) -> None:
    gateway = GatewayProcess(tmp_path / "state", FLAGS)
    gateway.start()
    try:
        story = FlaggedStory(gateway, tmp_path)
        story.deploy(*LASTS)
        story.update("--command", command(2))
        story.until_template("progressing")
        before = {r["pid"]: (r["id"], r["group"]) for r in gateway.get("replicas", "m")}
        gateway.kill()
        gateway.start()
        story.until(lambda: [*story.versions("stable"), *story.versions("canary")] == [[1]] * 3)
        after = {r["pid"]: (r["id"], r["group"]) for r in gateway.get("replicas", "m")}
        assert after == before
        assert (story.rollout()["phase"], story.rollout()["weight"]) == ("progressing", 0.25)
        assert (answered(story, "/labels/canary"), answered(story, "/labels/stable")) == (2, 1)

        story.order("abort")
        story.until_template("failed")
        story.until_alone()
        assert story.ask("")["template"]["rejected"]
        assert "gateway rollout start m" in gateway.cli("rollout", "status", "m").stdout
        assert {answered(story) for _ in range(10)} == {1}

        # Deployed again, it is tried again.
        story.update("--command", command(2))
        story.until_template("progressing")
        story.order("promote")
        story.until_template("succeeded")
        story.until_alone()
        assert {answered(story) for _ in range(10)} == {2}
        story.order("undo")
        story.until(lambda: not story.rollout()["steps"])
        story.until_template("succeeded")
        story.until_alone()
        assert {answered(story) for _ in range(10)} == {1}
        assert story.ask("")["template"]["rejected"]
    finally:
        gateway.stop()
