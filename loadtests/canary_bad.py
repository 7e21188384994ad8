"""Rollouts of bad versions and of a good one, under HTTP and gRPC load, with real processes.

Version N answers `x + N` and three scores, after 15 ms or so. A bad one fails 2 in 100 requests,
takes twice as long, or has other scores in one answer of ten, which copies of the stable version's
requests show (`--shadow`). Each must be rolled back by the gateway itself while it has the first
step's share, and be out of the traffic within a second of the decision; a good one must go all the
way.

    python -m loadtests.canary_bad --workers 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from loadtests.moody import write
from loadtests.swap import adder_shot, same_version
from loadtests.traffic import Sample, Shot, Traffic, summarize
from tests.parts.gateway_process import GatewayProcess, gateway_process


class Mood(TypedDict, total=False):
    """What is bad about a version, beside a good one."""

    delays: float
    """How many times as long it takes."""
    failing_ratio: float
    wrong_ratio: float


STEPS = (5.0, 25.0, 50.0)
DELAY_S = 0.015
"""Well above what the machine adds, or twice of it would not be twice; more on a busy one."""
MOODS: Mapping[str, Mood] = {
    "failing": {"failing_ratio": 0.02},
    "slow": {"delays": 2.0},
    "wrong": {"wrong_ratio": 0.1},
    "good": {},
}
REASONS = {"failing": "fails more often", "slow": "slower", "wrong": "output scores"}
"""What the gateway has to say of each bad one."""
SHADOW = ("--shadow", "20%", "--shadow-max-flips", "1%")
"""`y` differs between versions on purpose, so that it tells them apart; classes must not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one version."""

    mood: str
    phase: str
    reason: str
    last_weight: float
    """The largest share that it was given, as long as it was not live."""
    took_s: float
    """From its publication to the rollout's end."""
    requests: int
    """Of callers, in that time."""
    answered_by_canary: int
    failed: int
    errors: tuple[str, ...]
    """Of these, the first few different ones."""
    shadowed: int
    """Requests whose answers were compared in the last step."""
    last_routed_s: float | None
    """From the decision to roll back to the last request that the canary answered was sent; below
    0: it was sent before."""


async def run(
    gateway: GatewayProcess,
    root: Path,
    *,
    moods: list[str],
    rate_per_s: float,
    samples: int,
    step_s: float,
    say: Callable[[str], None],
    delay_s: float = DELAY_S,
) -> list[Outcome]:
    """One model, and a version for each mood in turn."""
    name, source = "moody", root / "models" / "moody"
    _write(source / "1", "good", delay_s)
    command = [
        *(sys.executable, "-m", "loadtests.moody", "--http", "127.0.0.1:{http_port}"),
        *("--grpc", "127.0.0.1:{grpc_port}", "--threads", "8"),
    ]
    await asyncio.to_thread(
        gateway.cli,
        *("deploy", "model", name, "--source", str(source), "--backend", "custom"),
        *("--command", shlex.join(command), "--replicas", "2"),
        *("--canary", ",".join(f"{s:g}" for s in STEPS)),
        *("--canary-samples", str(samples), "--canary-step-s", f"{step_s:g}"),
        *SHADOW,
    )
    traffic = Traffic(gateway.http, gateway.grpc, moody_shot(name), rate_per_s)
    outcomes = []
    async with asyncio.TaskGroup() as group:
        group.create_task(traffic.run())
        await asyncio.sleep(2.0)
        for version, mood in enumerate(moods, 2):
            say(f"version {version} is {mood}")
            outcomes.append(await _one(gateway, name, source, version, mood, delay_s, traffic))
            say(json.dumps(asdict(outcomes[-1])))
        traffic.stop.set()
    return outcomes


def moody_shot(model: str) -> Shot:
    """As adder_shot, of a model with two outputs."""

    def from_http(body: bytes, headers: Mapping[str, str]) -> int:
        value = json.loads(body)["predictions"][0]["y"][0]
        return same_version(round(value), headers["x-gateway-version"])

    return replace(adder_shot(model), http_version=from_http)


def _write(directory: Path, mood: str, delay_s: float) -> None:
    told = MOODS[mood]
    write(
        directory,
        delay_s=delay_s * told.get("delays", 1.0),
        failing_ratio=told.get("failing_ratio", 0.0),
        wrong_ratio=told.get("wrong_ratio", 0.0),
    )


async def _one(
    gateway: GatewayProcess,
    name: str,
    source: Path,
    version: int,
    mood: str,
    delay_s: float,
    traffic: Traffic,
) -> Outcome:
    loop = asyncio.get_running_loop()
    staged = source.parent / "staging" / str(version)
    _write(staged, mood, delay_s)
    begun = loop.time()
    await asyncio.to_thread(
        gateway.cli, "publish", str(staged), str(source), "--version", str(version)
    )
    async with asyncio.timeout(600):
        while True:
            found = await asyncio.to_thread(gateway.get, "rollouts", name)
            if found and found[-1]["version"] == version:
                rollout = found[-1]
                if rollout["phase"] in ("succeeded", "failed"):
                    break
            await asyncio.sleep(0.5)
    ended = loop.time()
    await asyncio.sleep(1.0)  # what was sent in the meantime is answered
    events = await asyncio.to_thread(gateway.get, "events", name, "--limit", "1000")
    mine = [e for e in events if e["type"].startswith("rollout.") and e["version"] == version]
    said = [s for s in traffic.samples if begun <= s.started_s]
    return Outcome(
        mood,
        rollout["phase"],
        rollout["reason"],
        max(e["fields"]["weight"] for e in mine),
        ended - begun,
        sum(s.started_s <= ended for s in said),
        sum(s.version == version and s.started_s <= ended for s in said),
        sum(bool(s.error) for s in said),
        summarize(said).errors,
        max((e["fields"].get("agreement", {}).get("compared", 0) for e in mine), default=0),
        _last_routed_s(mine, said, version, loop.time()),
    )


def _last_routed_s(
    events: list[dict[str, Any]], said: list[Sample], version: int, now: float
) -> float | None:
    rolled = (e for e in events if e["type"] == "rollout.rolling_back")
    decided = next((e["fields"]["phase_at"] for e in rolled), None)
    if decided is None:
        return None
    ago_s = (datetime.now(UTC) - datetime.fromisoformat(decided)).total_seconds()
    last = max((s.started_s for s in said if s.version == version), default=0.0)
    return last - (now - ago_s)


def is_as_promised(outcome: Outcome) -> bool:
    """Whether the gateway did what it should."""
    if outcome.mood == "good":
        return outcome.phase == "succeeded"
    return (
        outcome.phase == "failed"
        and REASONS[outcome.mood] in outcome.reason
        and outcome.last_weight <= STEPS[0] / 100
        and outcome.last_routed_s is not None
        and outcome.last_routed_s < 1.0
    )


def main(argv: list[str] | None = None) -> int:
    """Run it and print what became of each version; 1 when that was not as promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--moods", default="failing,slow,wrong,good")
    parser.add_argument("--rate", type=float, default=150.0, help="requests/s on each protocol")
    parser.add_argument("--samples", type=int, default=500, help="that a step needs")
    parser.add_argument("--step-s", type=float, default=2.0, help="seconds that a step takes")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--delay-s", type=float, default=DELAY_S, help="what a good one takes")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="gateway-canary-") as scratch:
        root = Path(scratch)
        workers = ("--workers", str(args.workers), "--settle-s", "0")
        with gateway_process(root / "state", *workers) as gateway:
            outcomes = asyncio.run(
                run(
                    gateway,
                    root,
                    moods=args.moods.split(","),
                    rate_per_s=args.rate,
                    samples=args.samples,
                    step_s=args.step_s,
                    say=lambda words: print(words, flush=True),
                    delay_s=args.delay_s,
                )
            )
    print(json.dumps([asdict(o) for o in outcomes], indent=1))
    return 0 if all(map(is_as_promised, outcomes)) else 1


if __name__ == "__main__":
    sys.exit(main())
