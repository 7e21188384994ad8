"""Half of what a model can do, three times as much, half again: what is accepted comes in time.

    python -m loadtests.overload         through the gateway, and straight to the replica

Real processes: the gateway, and one replica whose model sleeps (loadtests.sleeper), so that its
capacity is known and CPU is not what runs out. Arrivals are Poisson and do not wait for answers;
half of them come over HTTP, half over gRPC; every one has a deadline, and some callers leave early.
Latency counts from when a request was due. Work is wasted when the model ran for a caller who had
gone: runs less answers, as the replica's own V2 statistics count them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests.crowd import Crowd, Phase, Request, ask
from loadtests.machine import ROOT, machine, write
from loadtests.overload_picture import draw
from loadtests.sleeper import write_sleeper
from loadtests.summary import percentile
from tests.parts.gateway_process import GatewayProcess, gateway_process

MODEL = "sleeper"
_BIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """What the scenario asks for."""

    run_s: float = 0.08
    threads: int = 8
    """Together 100 requests a second, so that the callers at three times that need a quarter of a
    core; what waits for CPU, here or there, would be no overload of the model."""
    deadline_s: float = 1.0
    leave_ratio: float = 0.03
    """Share of callers who leave at a random time before their deadline."""
    phase_s: tuple[float, float, float] = (10.0, 20.0, 10.0)
    times: tuple[float, float, float] = (0.5, 3.0, 0.5)

    @property
    def capacity_per_s(self) -> float:
        return self.threads / self.run_s

    def phases(self) -> list[Phase]:
        return [
            Phase(length_s, times * self.capacity_per_s)
            for length_s, times in zip(self.phase_s, self.times, strict=True)
        ]


def figures(requests: Sequence[Request], load: Load, runs: int, answers: int) -> dict[str, Any]:
    """What one way amounts to."""
    over_at, calm_at = load.phase_s[0], load.phase_s[0] + load.phase_s[1]
    over = [r for r in requests if over_at <= r.due_s < calm_at]
    after = [r for r in requests if r.due_s >= calm_at]
    accepted = [r for r in requests if r.is_accepted]
    in_time = [r for r in accepted if r.is_in_time]
    bad_after = [
        r.due_s - calm_at for r in after if r.is_refused or not (r.is_in_time or r.has_left)
    ]
    answered = [r.took_s for r in over if r.is_in_time]
    return {
        "requests": len(requests),
        "refused": sum(r.is_refused for r in requests),
        "left": sum(r.has_left for r in requests),
        "accepted": len(accepted),
        "accepted_in_time_ratio": len(in_time) / max(1, len(accepted)),
        "useful_ratio_at_overload": len(answered) / (load.capacity_per_s * load.phase_s[1]),
        "p50_at_overload_s": _percentile(answered, 0.5),
        "p99_at_overload_s": _percentile(answered, 0.99),
        "refusal_p99_s": _percentile([r.took_s for r in over if r.is_refused], 0.99),
        "wasted_work_ratio": (runs - answers) / max(1, runs),
        "recovered_after_s": max(bad_after, default=0.0),
        "refused_at_half_load": sum(r.is_refused for r in requests if r.due_s < over_at),
        "outcomes": _counted(requests),
        "client_late_p99_s": _percentile([r.began_s - r.due_s for r in requests], 0.99),
    }


def _percentile(values: Sequence[float], share: float) -> float | None:
    """None of nothing, which JSON can say."""
    return percentile(values, share) if values else None


def _counted(requests: Sequence[Request]) -> dict[str, int]:
    found: dict[str, int] = {}
    for request in requests:
        found[request.outcome] = found.get(request.outcome, 0) + 1
    return dict(sorted(found.items()))


def over_time(requests: Sequence[Request]) -> list[Mapping[str, float | None]]:
    """By half seconds of when they were due: how many became of each kind, and their latency."""
    end = max((r.due_s for r in requests), default=0.0)
    bins = []
    for number in range(int(end / _BIN_S) + 1):
        mine = [r for r in requests if int(r.due_s / _BIN_S) == number]
        took = [r.took_s for r in mine if r.is_in_time]
        bins.append(
            {
                "at_s": number * _BIN_S,
                "in_time_per_s": len(took) / _BIN_S,
                "late_per_s": sum(r.is_accepted and not r.is_in_time for r in mine) / _BIN_S,
                "refused_per_s": sum(r.is_refused for r in mine) / _BIN_S,
                "p50_s": _percentile(took, 0.5),
                "p99_s": _percentile(took, 0.99),
            }
        )
    return bins


def _work(endpoint: str) -> tuple[int, int]:
    """Runs and answers since the replica started."""
    url = f"http://{endpoint}/v2/models/{MODEL}/stats"
    with urllib.request.urlopen(url, timeout=5) as answer:
        (stats,) = json.load(answer)["model_stats"]
    return int(stats["execution_count"]), int(stats["inference_count"])


def _deploy(gateway: GatewayProcess, load: Load, scratch: Path) -> dict[str, Any]:
    folder = write_sleeper(scratch / MODEL, load.run_s)
    command = [
        *(sys.executable, "-m", "loadtests.sleeper", "--model", f"{MODEL}={folder}"),
        *("--http", "127.0.0.1:{http_port}", "--grpc", "127.0.0.1:{grpc_port}"),
        *("--threads", str(load.threads), "--batch-size", "1", "--here-us", "0"),
    ]
    gateway.cli(
        *("deploy", "model", MODEL, "--source", str(folder), "--backend", "custom"),
        *("--command", shlex.join(command), "--timeout", "60"),
    )
    (replica,) = gateway.get("replicas", MODEL)
    return replica


def measure(load: Load, scratch: Path, seed: int) -> dict[str, Any]:
    """Both ways, one after the other."""
    ways: dict[str, Any] = {}
    with gateway_process(scratch / "state", env={"PYTHONPATH": str(ROOT)}) as gateway:
        replica = _deploy(gateway, load, scratch)
        endpoint, grpc_endpoint = replica["endpoint"], replica["grpc_endpoint"]
        addresses = {
            "gateway": (gateway.http, gateway.grpc),
            "direct": (endpoint, grpc_endpoint),
        }
        for name, (http, grpc) in addresses.items():
            runs, answers = _work(endpoint)
            crowd = Crowd(http, grpc, MODEL, load.deadline_s, load.leave_ratio, seed)
            requests = ask(crowd, load.phases())
            runs_after, answers_after = _work(endpoint)
            found = figures(requests, load, runs_after - runs, answers_after - answers)
            ways[name] = {**found, "over_time": over_time(requests)}
            print(name, json.dumps(found, indent=1))
        ways["gateway"]["metrics_after"] = _left(gateway)
    return ways


def _left(gateway: GatewayProcess) -> dict[str, float]:
    """What is still counted when all is over."""
    url = f"http://{gateway.http}/monitoring/prometheus/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    names = ("gateway_requests_in_flight{", "gateway_requests_queued{")
    return {n: float(v) for n, v in (x.rsplit(" ", 1) for x in lines if x.startswith(names))}


_LATE_CLIENT_RATIO = 0.1
"""Of the deadline. Callers that are late by more show a machine that is busy, and nothing else."""


def doubt(ways: Mapping[str, Any], load: Load) -> str:
    """Why a result is not to be believed; empty where it is."""
    late_s = ways["gateway"]["client_late_p99_s"] or 0.0
    if late_s <= _LATE_CLIENT_RATIO * load.deadline_s:
        return ""
    return f"the callers were late themselves (p99 {late_s:.2f} s): this machine is too busy"


def verdict(ways: Mapping[str, Any]) -> list[str]:
    """What the goals of the scenario are missed by; nothing when they are met."""
    ours = ways["gateway"]
    goals = [
        (ours["accepted_in_time_ratio"] >= 0.95, "95 % of what is accepted is answered in time"),
        (ours["wasted_work_ratio"] < 0.02, "less than 2 % of the work is for callers who are gone"),
        (ours["recovered_after_s"] <= 2.0, "recovered within 2 s"),
        (not any(ours["metrics_after"].values()), "nothing stays counted"),
    ]
    return [words for is_met, words in goals if not is_met]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON and picture; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual seconds (1.0)")
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="JSON; the picture goes beside it")
    args = parser.parse_args(argv)
    first, second, third = (seconds * args.scale for seconds in Load().phase_s)
    load = Load(deadline_s=args.deadline, phase_s=(first, second, third))
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="gateway-overload-") as scratch:
        ways = measure(load, Path(scratch), args.seed)
    missed, why = verdict(ways), doubt(ways, load)
    result = {**facts, "load": asdict(load), "missed": missed, "doubt": why, **ways}
    path = write("overload", result, args.out)
    draw(ways, load.phase_s, load.deadline_s, load.capacity_per_s, path.with_suffix(".svg"))
    print("\n".join(f"missed: {words}" for words in missed) or "all goals met")
    if why:
        print(f"doubtful: {why}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
