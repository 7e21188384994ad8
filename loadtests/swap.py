"""Version swaps under constant HTTP and gRPC load, with replicas killed by SIGKILL on the way.

Version N of the model answers `x + N`, so every answer says which version gave it. Load is open
loop with Poisson arrivals from a process of its own; latencies while a version is swapped are
compared with those just before, and with what that comparison says where nothing is swapped (the
noise floor, from the same run).

    python -m loadtests.swap                 200,000 requests, 20 swaps, 5 kills: five minutes
    python -m loadtests.swap --full          1,000,000 requests, 100 swaps, 25 kills
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.client.control import ControlClient
from gateway.codecs.pb import tfs_pb2
from gateway.sources.publish import publish as publish_version
from loadtests.ending import nothing_left
from loadtests.machine import machine, need, write
from loadtests.models import write_adder
from loadtests.scenario import Settings, add_options, disturbed, measured
from loadtests.shooting import Window, compare, shooting
from loadtests.summary import Line, Outcome, Spread, as_json, table, verdicts
from loadtests.traffic import Sample, Shot, Summary, Traffic, summarize, wrong_versions
from loadtests.watching import Watching, watching
from tests.parts.gateway_process import GatewayProcess, gateway_process

MODEL = "swapper"
P99_GOAL = 1.2
"""Times the p99 just before."""
RATE_PER_S = 800.0
_APART_S = 1.0
"""Between the end of a swap and the first window that the next one is compared with."""

Step = Callable[[str], None]
Publish = Callable[[Path, int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Swap:
    """One, on the monotonic clock."""

    version: int
    began_s: float
    """When its upload began."""
    published_s: float
    live_s: float
    """From here on it answers for the model, on both replicas."""
    settled_s: float
    """The version before is gone from both."""
    killed: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What the scenario showed. Times are seconds."""

    swaps: list[Swap]
    before: Summary
    during: Summary
    after: Summary
    wrong: list[str]


def adder_shot(model: str) -> Shot:
    """Send x = 0; the answer is the version."""
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["x"]
    tensor.dtype = tfs_pb2.DT_FLOAT
    tensor.tensor_shape.dim.add().size = 1
    tensor.tensor_shape.dim.add().size = 1
    tensor.float_val.append(0.0)

    def from_http(body: bytes, headers: Mapping[str, str]) -> int:
        return same_version(
            round(json.loads(body)["predictions"][0][0]), headers["x-gateway-version"]
        )

    def from_grpc(body: bytes) -> int:
        answer = tfs_pb2.PredictResponse.FromString(body)
        y = answer.outputs["y"]
        value = tfs_value(y)
        return same_version(round(value), str(answer.model_spec.version.value))

    return Shot(model, b'{"instances": [[0.0]]}', request.SerializeToString(), from_http, from_grpc)


def tfs_value(tensor: tfs_pb2.TensorProto) -> float:
    """The only element of a float tensor, whichever way it was sent."""
    if tensor.tensor_content:
        return float(struct.unpack("<f", tensor.tensor_content)[0])
    return float(tensor.float_val[0])


def same_version(by_value: int, by_name: str) -> int:
    """The version that an answer tells; ValueError where its number and its name do not agree."""
    if str(by_value) != by_name:
        raise ValueError(f"version {by_value} answered under the name of {by_name}")
    return by_value


# ---- swapping --------------------


async def swap(
    control: ControlClient,
    news: Watching,
    staging: Path,
    version: int,
    publish: Publish,
    *,
    kill: bool,
) -> Swap:
    """Publish a version, kill a replica where that is wanted, and wait until two replicas hold it
    and nothing else, so that each swap starts whole."""
    loop = asyncio.get_running_loop()
    folder = staging / str(version)
    write_adder(folder, float(version))
    began = loop.time()
    await publish(folder, version)
    published = loop.time()
    if kill:
        await _kill_one(control)
    live = await news.until("version.live", version, began)
    gone = await news.until("version.unloaded", version - 1, began)
    whole = await news.until("model.ready", version, began)
    return Swap(version, began, published, live, max(gone, whole), kill)


async def _kill_one(control: ControlClient) -> None:
    ready = [r for r in await control.replicas(MODEL) if r["state"] == "ready" and r["pid"]]
    if len(ready) < 2:
        raise SystemExit(f"a kill would leave nothing to answer: {ready}")
    os.kill(ready[0]["pid"], signal.SIGKILL)


def _is_killing(index: int, total: int, picked: int) -> bool:
    """Whether item `index` of `total` is one of `picked` spread evenly."""
    return (index * picked) // total != ((index + 1) * picked) // total


async def run(
    gateway: GatewayProcess,
    source: Path,
    *,
    swaps: int,
    kills: int,
    rate_per_s: float,
    say: Step,
    overlap_s: float = 0.0,
) -> Result:
    """What people type, with stock clients as callers: deploy with two replicas, swap `swaps`
    times, kill a replica in `kills` of them."""

    async def publish(folder: Path, version: int) -> None:
        await asyncio.to_thread(
            gateway.cli, "publish", str(folder), str(source), "--version", str(version)
        )

    staging = source.parent / "staging"
    write_adder(staging / "1", 1.0)
    await publish(staging / "1", 1)
    await asyncio.to_thread(
        gateway.cli, "deploy", "model", MODEL, "--source", str(source), "--replicas", "2"
    )
    traffic = Traffic(gateway.http, gateway.grpc, adder_shot(MODEL), rate_per_s)
    done: list[Swap] = []
    async with (
        ControlClient(gateway.url) as control,
        watching(control, MODEL) as news,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(traffic.run())
        await asyncio.sleep(3.0)
        for version in range(2, swaps + 2):
            kill = _is_killing(version - 2, swaps, kills)
            done.append(await swap(control, news, staging, version, publish, kill=kill))
            say(_told(done[-1]))
        await asyncio.sleep(3.0)
        traffic.stop.set()
    samples, begin, end = traffic.samples, done[0].began_s, done[-1].settled_s
    return Result(
        done,
        summarize([s for s in samples if s.due_s < begin]),
        summarize([s for s in samples if begin <= s.due_s < end]),
        summarize([s for s in samples if s.due_s >= end]),
        _wrong(samples, done, overlap_s),
    )


def _told(one: Swap) -> str:
    note = " (one replica killed)" if one.killed else ""
    return (
        f"version {one.version} live {one.live_s - one.published_s:.1f} s after it was published, "
        f"alone after {one.settled_s - one.published_s:.1f} s{note}"
    )


def _wrong(samples: Sequence[Sample], swaps: Sequence[Swap], overlap_s: float = 0.0) -> list[str]:
    published = [(swaps[0].version - 1, 0.0), *((s.version, s.began_s) for s in swaps)]
    return wrong_versions(samples, published, overlap_s)


# ---- measuring --------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """How much."""

    requests: int = 200_000
    swaps: int = 20
    kills: int = 5
    rate_per_s: float = RATE_PER_S

    @property
    def cycle_s(self) -> float:
        """From one swap to the next."""
        return self.requests / self.rate_per_s / self.swaps


@dataclass(slots=True)
class Shown:
    """What the picture is drawn from."""

    samples: Sequence[Sample] = ()
    swaps: Sequence[Swap] = ()


def measure(settings: Settings, plan: Plan, shown: Shown) -> Outcome:
    """One run."""
    root = settings.scratch
    with gateway_process(root / "state") as gateway:
        samples, swaps = asyncio.run(_measured(gateway, root, plan))
    shown.samples, shown.swaps = samples, swaps
    failed = [s for s in samples if s.error]
    wrong = _wrong([s for s in samples if not s.error], swaps)
    rows = []
    for what, killed in (("swap", False), ("swap and SIGKILL", True)):
        windows = [Window(s.began_s, s.settled_s) for s in swaps if s.killed is killed]
        if windows:
            longest = max(window.length_s for window in windows)
            quiet = max(2, min(12, int((plan.cycle_s - _APART_S) / longest) - 1))
            rows.append({"what": what, **asdict(compare(samples, windows, quiet))})
    facts = {
        "load": f"open loop, Poisson, {plan.rate_per_s:g} requests/s, half HTTP, half gRPC",
        "requests": len(samples),
        "failed": len(failed),
        "errors": sorted({s.error for s in failed})[:5],
        "wrong_version": len(wrong),
        "wrong": wrong[:5],
        "swaps": [asdict(s) for s in swaps],
        "load_average_at_end": [round(v, 2) for v in os.getloadavg()],
    }
    return Outcome("swap", _lines(len(failed), len(wrong), rows), rows, facts)


async def _measured(
    gateway: GatewayProcess, root: Path, plan: Plan
) -> tuple[list[Sample], list[Swap]]:
    loop = asyncio.get_running_loop()
    source, staging = root / "models" / MODEL, root / "staging"
    write_adder(staging / "1", 1.0)
    await publish_version(staging / "1", source.as_uri(), 1)
    await asyncio.to_thread(
        gateway.cli, "deploy", "model", MODEL, "--source", str(source), "--replicas", "2"
    )
    done: list[Swap] = []
    async with ControlClient(gateway.url) as control:

        async def publish(folder: Path, version: int) -> None:
            # From here and not by the command, whose start would be load on the same machine.
            await publish_version(folder, source.as_uri(), version)
            await control.refresh(MODEL)

        addresses = gateway.http, gateway.grpc
        async with watching(control, MODEL) as news:
            with shooting(*addresses, adder_shot(MODEL), plan.rate_per_s, root) as shots:
                next_at = loop.time() + 2.0
                for index in range(plan.swaps):
                    next_at += plan.cycle_s
                    await asyncio.sleep(next_at - loop.time())
                    kill = _is_killing(index, plan.swaps, plan.kills)
                    done.append(await swap(control, news, staging, index + 2, publish, kill=kill))
                    print(_told(done[-1]), file=sys.stderr, flush=True)
                    # One that took long leaves the next one as much time as the others had.
                    next_at = max(next_at, loop.time() - plan.cycle_s / 2)
                await asyncio.sleep(3.0)
    return shots.samples, done


def _lines(failed: int, wrong: int, rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    lines = [
        Line("failed requests", "", Spread(failed, failed, failed, 1), 0),
        Line("answers of a wrong version", "", Spread(wrong, wrong, wrong, 1), 0),
    ]
    for row in rows:
        lines += compared_lines(row)
    return lines


def compared_lines(row: Mapping[str, Any]) -> list[Line]:
    """Of a `Compared`: all windows together, and each by itself."""
    ratio, what = row["p99_ratio"], row["what"]
    figure, floor = Spread(ratio, ratio, ratio, 1), Spread.of(row["floor_ratios"])
    own, own_floor = Spread.of(row["own_ratios"]), Spread.of(row["own_floor_ratios"])
    quiet = "where nothing happens:"
    return [
        Line(f"p99 during {what}", "× before", figure, P99_GOAL, note=f"{quiet} {floor.shown()}"),
        Line(f"the median {what}", "× before", own, P99_GOAL, note=f"{quiet} {own_floor.shown()}"),
    ]


def show(outcome: Outcome) -> str:
    """The rows as text."""
    header = ("during", "windows", "requests", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "before")
    return table(
        header,
        (
            (
                str(row["what"]),
                str(row["windows"]),
                str(row["requests"]),
                *(f"{1e3 * row[key]:.2f}" for key in ("p50_s", "p99_s", "p999_s", "max_s")),
                f"p50 {1e3 * row['before_p50_s']:.2f}, p99 {1e3 * row['before_p99_s']:.2f}",
            )
            for row in outcome.rows
        ),
    )


def main(argv: list[str] | None = None) -> int:
    """Run it, print the figures, write JSON and picture; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help="requests/s, both protocols")
    parser.add_argument("--full", action="store_true", help="1,000,000 requests, 100 swaps")
    add_options(parser)
    parser.set_defaults(rounds=1)
    args = parser.parse_args(argv)
    need("go", "matplotlib")
    from loadtests.swap_picture import draw  # the tests, which run this too, draw nothing

    plan = Plan(args.requests, args.swaps, args.kills, args.rate)
    if args.full:
        plan = Plan(1_000_000, 100, 25, args.rate)
    facts, shown = machine(), Shown()
    with nothing_left():
        outcome = measured(lambda settings: measure(settings, plan, shown), args)
    print(f"{show(outcome)}\n\n{verdicts([outcome])}\n{disturbed(outcome)}")
    path = write(outcome.name, {**facts, **as_json(outcome)}, args.out)
    caption = f"{facts['commit']}, {facts['cores']} cores: {outcome.facts['load']}"
    draw(shown.samples, shown.swaps, caption, path.with_suffix(".svg"))
    return int(not all(line.is_met for line in outcome.lines))


if __name__ == "__main__":
    sys.exit(main())
