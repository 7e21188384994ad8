"""What the gateway adds to a request's latency while it is half busy, over a direct call.

Open loop: requests are sent at the times of a schedule (a Poisson process, as independent callers
make it), whether earlier ones were answered or not, and each latency counts from the time at which
its request was due (openloop/, in Go). The rate is half of what the gateway is measured to do at
most in the same run, with 16 requests always under way, on this machine that it shares with the
load tool and the replicas; the direct way and Envoy get the same rate. What a request costs a proxy
at that rate is told beside it: there a slower proxy has no more requests at once than a fast one.

    python -m loadtests.latency --rounds 5
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from loadtests import h2load
from loadtests.echoes import SERVE_FLAGS, Way, deploy_echo, grpc_request, http_request, ways
from loadtests.golang import program
from loadtests.h2load import Request
from loadtests.progress import steps
from loadtests.scenario import Settings, run_alone
from loadtests.summary import Line, Outcome, Spread, ratios, table
from tests.parts.gateway_process import gateway_process

LOAD_RATIO = 0.5
ADDED_P50_MS = 0.3
ADDED_P99_MS = 1.0
CPU_GOALS = {"HTTP 30 B": 0.5, "gRPC 90 B": 0.8}
"""Times Envoy's, as where requests come back to back."""
SECONDS = 6.0
"""Of each round; some 10,000 requests, of which 100 are beyond the 99th percentile."""
CONNECTIONS = 16


@dataclass(slots=True)
class Measured:
    """All rounds of one protocol on one way, seconds."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    p999: list[float] = field(default_factory=list)
    late_p99: list[float] = field(default_factory=list)
    """How late the sender itself was; part of the latencies of all ways alike."""
    cpu_s: list[float] = field(default_factory=list)
    """Of the proxy, per request, at this rate."""
    answered: int = 0


def measure(settings: Settings) -> Outcome:
    """Find the rate, then run all rounds."""
    root = settings.scratch / "latency"
    root.mkdir()
    rates: dict[str, float] = {}
    with gateway_process(root / "state", *SERVE_FLAGS) as gateway:
        deploy_echo(gateway, "small", root)
        requests = {"HTTP 30 B": http_request("small", 3, root)}
        requests["gRPC 90 B"] = grpc_request("small", 9, root)
        with ways(gateway, "small", root) as all_ways:
            by_name = {way.name: way for way in all_ways}
            with steps("latency", len(requests)) as progress:
                for name, request in requests.items():
                    progress.next("finding half of the gateway's most", name)
                    rates[name] = LOAD_RATIO * _most(by_name["gateway"], request, settings)
            found = {(name, way.name): Measured() for name in requests for way in all_ways}
            seconds = max(1.0, SECONDS * settings.scale)
            cases = list(found)
            for round_, case in settings.interleaved("latency", cases, " · ".join, warm_up=False):
                name, way = case
                _shoot(by_name[way], requests[name], rates[name], seconds, round_, found[case])
    facts = {
        "load": "open loop, Poisson arrivals, latency from when a request was due",
        "rates_per_s": rates,
        "rate_is": f"{LOAD_RATIO:g} of the gateway's own most, measured in the same run",
    }
    return Outcome("latency", _lines(found, rates), _rows(found, rates), facts)


def _most(way: Way, request: Request, settings: Settings) -> float:
    """Requests per second with 16 always under way: the median of three."""
    address = way.grpc if request.is_grpc else way.http
    at_once = (4, 4) if request.is_grpc else (16, 1)
    h2load.run(address, request, settings.scaled(2000), *at_once)
    runs = [h2load.run(address, request, settings.scaled(8000), *at_once) for _ in range(3)]
    return Spread.of(run.per_s for run in runs).median


def _shoot(
    way: Way, request: Request, rate: float, seconds: float, seed: int, into: Measured
) -> None:
    command = [
        *(str(program("openloop")), "--protocol", "grpc" if request.is_grpc else "http"),
        *("--address", way.grpc if request.is_grpc else way.http, "--path", request.path),
        *("--body", str(request.body), "--connections", str(CONNECTIONS)),
        *("--rate", f"{rate:.1f}", "--seconds", f"{seconds:g}", "--seed", str(seed)),
    ]
    before = way.family.cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    used = way.family.cpu_s() - before
    if done.returncode:
        raise h2load.WrongAnswers(f"openloop {way.name}: {done.stdout[-500:]}{done.stderr[-500:]}")
    told = json.loads(done.stdout)
    into.p50.append(told["latency_s"]["p50"])
    into.p99.append(told["latency_s"]["p99"])
    into.p999.append(told["latency_s"]["p999"])
    into.late_p99.append(told["late_s"]["p99"])
    into.cpu_s.append(used / (told["answered"] + told["warmed_up"]))
    into.answered += told["answered"]


def _lines(found: dict[tuple[str, str], Measured], rates: dict[str, float]) -> list[Line]:
    lines = []
    for name, rate in rates.items():
        ours, direct = found[name, "gateway"], found[name, "direct"]
        note = f"{rate:.0f} requests/s, {ours.answered} in all"
        for what, goal in (("p50", ADDED_P50_MS), ("p99", ADDED_P99_MS)):
            pairs = zip(getattr(ours, what), getattr(direct, what), strict=True)
            added = Spread.of((a - b) * 1e3 for a, b in pairs)
            lines.append(
                Line(f"{name}: added {what} at 50 % load", "ms over direct", added, goal, note=note)
            )
        ratio = ratios(ours.cpu_s, found[name, "envoy"].cpu_s)
        lines.append(
            Line(f"{name}: CPU per request at 50 % load", "× Envoy", ratio, CPU_GOALS[name])
        )
    return lines


def _rows(found: dict[tuple[str, str], Measured], rates: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "payload": name,
            "way": way,
            "rate_per_s": rates[name],
            "answered": one.answered,
            "p50_s": Spread.of(one.p50).median,
            "p99_s": Spread.of(one.p99).median,
            "p999_s": Spread.of(one.p999).median,
            "cpu_per_request_s": Spread.of(one.cpu_s).median,
            "sender_late_p99_s": Spread.of(one.late_p99).median,
            "p50_rounds_s": one.p50,
            "p99_rounds_s": one.p99,
            "cpu_rounds_s": one.cpu_s,
        }
        for (name, way), one in found.items()
    ]


def show(outcome: Outcome) -> str:
    """The rows as text."""
    header = (
        *("payload", "way", "requests/s", "p50 ms", "p99 ms", "p99.9 ms"),
        *("sender late p99", "CPU µs"),
    )
    return table(
        header,
        (
            (
                row["payload"],
                row["way"],
                f"{row['rate_per_s']:.0f}",
                *(f"{row[k] * 1e3:.2f}" for k in ("p50_s", "p99_s", "p999_s")),
                f"{row['sender_late_p99_s'] * 1e3:.2f}",
                f"{row['cpu_per_request_s'] * 1e6:.0f}",
            )
            for row in outcome.rows
        ),
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    return run_alone(parser, argv, measure, show, ("h2load", "go", "envoy"))


if __name__ == "__main__":
    sys.exit(main())
