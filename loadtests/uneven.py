"""Eight replicas, two slowed five times, one that flaps, bursts: who keeps the tail low?

Real processes: the same replicas (uneven_replica/, in Go, whose service is a sleep, so that they
need no cores) behind the gateway, Envoy and HAProxy, one after the other in interleaved rounds.
Load is open loop with Poisson arrivals and bursts, and each latency counts from when its request
was due. `even` is the noise floor: the gateway before one replica that has room for everything, so
nothing is chosen and nothing waits. The simulator (`python -m loadtests.simulate uneven`) runs the
same setup with several gateways.

    python -m loadtests.uneven --rounds 3
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure

from loadtests.envoy import envoy
from loadtests.golang import program
from loadtests.haproxy import haproxy
from loadtests.machine import machine, need, write
from loadtests.scenario import Settings, add_options
from loadtests.simulator.setups import SETUPS, ReplicaSetup
from loadtests.summary import Line, Outcome, Spread, as_json, ratios, table, verdicts

SECONDS = 45.0
"""Of each way in each round: some 4,000 requests, four of them beyond p99.9. So p99.9 is that of
all rounds together, as far as rounds are few."""
SETUP = replace(SETUPS["uneven"], gateways=1)
_PATH = "/v1/models/m:predict"
_QUANTILES = ("p50", "p99", "p999", "max")

Way = Callable[[Sequence[str], Path], AbstractContextManager[str]]


def measure(settings: Settings) -> Outcome:
    """All rounds."""
    root = settings.scratch / "uneven"
    root.mkdir()
    seconds = max(5.0, SECONDS * settings.scale)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*WAYS, "noise floor")}
    with ExitStack() as stack:
        addresses = [
            stack.enter_context(_replica(one, seed)) for seed, one in enumerate(SETUP.replicas)
        ]
        idle = stack.enter_context(_replica(ReplicaSetup(workers=1000), 99))
        for round_ in range(settings.rounds):
            for name, way in WAYS.items():
                with way(addresses, root) as address:
                    found[name].append(_shoot(address, seconds, round_, root))
            with _gateway("work")([idle], root) as address:
                found["noise floor"].append(_shoot(address, seconds, round_, root))
    facts = {
        "setup": "8 replicas of 2 workers, lognormal service of 50 ms; two slowed 5 times, one "
        f"dead 2 s of every 5; {SETUP.rate_per_s():.0f} requests/s, 2.5 times that in bursts of "
        "0.5 s every 5 s; open loop",
        "retries": "at most 2, on another replica, for all; gateway: ejection; Envoy: outlier "
        "detection by its defaults; HAProxy: health checks every second",
    }
    return Outcome("uneven", _lines(found), _rows(found), facts)


# ---- ways --------------------


def _gateway(rule: str) -> Way:
    @contextmanager
    def way(replicas: Sequence[str], root: Path) -> Iterator[str]:
        command = [sys.executable, "-m", "loadtests.static_plane", "--rule", rule]
        for address in replicas:
            command += ["--replica", address]
        with (root / "gateway.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(30)

    return way


def _envoy(policy: str) -> Way:
    @contextmanager
    def way(replicas: Sequence[str], root: Path) -> Iterator[str]:
        with envoy("m", replicas, replicas, root, policy=policy, is_rescuing=True) as running:
            yield running.http

    return way


WAYS: dict[str, Way] = {
    "gateway": _gateway("work"),
    "gateway, plain P2C": _gateway("in_flight"),
    "gateway, hot/cold": _gateway("hot_cold"),
    "envoy, least request": _envoy("LEAST_REQUEST"),
    "envoy, round robin": _envoy("ROUND_ROBIN"),
    "haproxy, leastconn": haproxy,
}


@contextmanager
def _replica(setup: ReplicaSetup, seed: int) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        *(str(program("uneven_replica")), "--at", address, "--workers", str(setup.workers)),
        *("--mean", str(SETUP.service_s), "--sigma", str(SETUP.sigma)),
        *("--slowness", str(setup.slowness), "--seed", str(seed)),
        *("--up", str(setup.up_s), "--down", str(setup.down_s)),
    ]
    process = subprocess.Popen(command)
    try:
        _wait(address)
        yield address
    finally:
        process.kill()
        process.wait(10)


def _wait(address: str) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(100):
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"the replica at {address} did not come up")


def _shoot(address: str, seconds: float, seed: int, root: Path) -> dict[str, Any]:
    body = root / "body.json"
    body.write_text('{"instances": [1.0]}')
    command = [
        *(str(program("openloop")), "--address", address, "--path", _PATH, "--body", str(body)),
        *("--rate", f"{SETUP.rate_per_s():.1f}", "--seconds", f"{seconds:g}", "--warmup", "5"),
        *("--connections", "512", "--seed", str(seed + 1)),
        *("--burst-every", str(SETUP.burst_every_s), "--burst", str(SETUP.burst_s)),
        *("--burst-factor", str(SETUP.burst_factor)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if not done.stdout:
        raise SystemExit(f"openloop: {done.stderr[-500:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


# ---- what it came to --------------------


def _lines(found: dict[str, list[dict[str, Any]]]) -> list[Line]:
    def p999(name: str) -> list[float]:
        return [one["latency_s"]["p999"] for one in found[name]]

    goals = (
        ("plain P2C", "gateway, plain P2C", 0.5),
        ("Envoy's least request", "envoy, least request", 0.5),
        ("HAProxy's leastconn", "haproxy, leastconn", 0.5),
        ("Envoy's round robin", "envoy, round robin", 0.2),
    )
    return [
        Line("p99.9 of uneven replicas", f"× {what}", ratios(p999("gateway"), p999(name)), goal)
        for what, name, goal in goals
    ]


def _rows(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for name, rounds in found.items():
        row: dict[str, Any] = {"way": name, "answered": sum(r["answered"] for r in rounds)}
        row["failed"] = sum(r["failed"] for r in rounds)
        for quantile in _QUANTILES:
            values = [r["latency_s"][quantile] for r in rounds]
            row[f"{quantile}_s"] = Spread.of(values).median
            row[f"{quantile}_rounds_s"] = values
        row["sender_late_p99_s"] = Spread.of(r["late_s"]["p99"] for r in rounds).median
        rows.append(row)
    return rows


def show(outcome: Outcome) -> str:
    """The rows as text."""
    header = ("way", "answered", "failed", "p50 ms", "p99 ms", "p99.9 ms", "max ms")
    return table(
        header,
        (
            (
                row["way"],
                str(row["answered"]),
                str(row["failed"]),
                *(f"{row[f'{quantile}_s'] * 1e3:.0f}" for quantile in _QUANTILES),
            )
            for row in outcome.rows
        ),
    )


def draw(outcome: Outcome, caption: str, path: Path) -> None:
    """p50, p99 and p99.9 of every way; whiskers are all rounds."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.set_title(caption, fontsize=8, loc="left")
    colours = {"p50": "#c9d1da", "p99": "#7a8799", "p999": "#2a7f62"}
    for i, row in enumerate(outcome.rows):
        for n, (quantile, colour) in enumerate(colours.items()):
            values = [1e3 * v for v in row[f"{quantile}_rounds_s"]]
            y = i + (n - 1) * 0.26
            axis.barh(y, 1e3 * row[f"{quantile}_s"], height=0.24, color=colour)
            axis.plot([min(values), max(values)], [y, y], color="black", linewidth=0.7)
    axis.set_yticks(range(len(outcome.rows)), [str(row["way"]) for row in outcome.rows])
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("latency, ms (log): p50 light, p99 grey, p99.9 green; lines: all rounds")
    figure.savefig(path, metadata={"Date": None})


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON and picture; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_options(parser)
    parser.set_defaults(rounds=3)
    args = parser.parse_args(argv)
    need("go", "envoy", "haproxy", "matplotlib")
    facts = machine()
    with TemporaryDirectory(prefix="gateway-uneven-") as scratch:
        outcome = measure(Settings(Path(scratch), args.rounds, args.scale))
    print(show(outcome))
    print()
    print(verdicts([outcome]))
    path = write(outcome.name, {**facts, **as_json(outcome)}, args.out)
    caption = f"uneven: {facts['commit']}, {facts['cores']} cores, {args.rounds} rounds"
    draw(outcome, caption, path.with_suffix(".svg"))
    return int(not all(line.is_met for line in outcome.lines))


if __name__ == "__main__":
    sys.exit(main())
