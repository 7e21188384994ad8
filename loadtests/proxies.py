"""What passing a request on costs: the gateway beside Envoy, before the same replicas, in one run.

Each round sends the same requests directly, through the gateway and through Envoy, over HTTP/1.1
and gRPC, from 30 bytes to 4 MB; rounds are interleaved, and a ratio is taken within its round. CPU
is the user and system time of the proxy's own processes. The replicas answer at once (echoes.py),
so what is seen is the proxy.

    python -m loadtests.proxies --rounds 5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests import h2load
from loadtests.echoes import SERVE_FLAGS, Way, deploy_echo, grpc_request, http_request, ways
from loadtests.h2load import Request, Run
from loadtests.processes import memory_of
from loadtests.scenario import Settings, run_alone
from loadtests.summary import Line, Outcome, Spread, ratios, table
from tests.parts.gateway_process import gateway_process

PICTURE = 3 * 112 * 112
"""float32[1,3,112,112], 150 KB: the usual crop of a face."""
MATRIX = 1024 * 1024
"""float32[1024,1024], 4 MB."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sent, and how."""

    name: str
    request: Request
    requests: int
    """In each round: some tenths of a second of a proxy's CPU at least, so that a pause in between
    is little of it."""
    goal: float
    """Times Envoy's CPU."""
    connections: int
    streams: int
    is_tensor: bool = False
    """Judged per byte, which is the same ratio, and by memory."""

    @property
    def wire_bytes(self) -> int:
        return self.request.body.stat().st_size + self.request.answer_bytes


@dataclass(slots=True)
class Measured:
    """All rounds of one payload on one way."""

    runs: list[Run] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Per request."""
    most_rss: list[int] = field(default_factory=list)
    rss_before: int = 0


def measure(settings: Settings) -> Outcome:
    """Run all rounds."""
    root = settings.scratch / "proxies"
    root.mkdir()
    found: list[tuple[Payload, dict[str, Measured]]] = []
    with gateway_process(root / "state", *SERVE_FLAGS) as gateway:
        for model, answer_floats in (("small", 10), ("picture", PICTURE), ("matrix", MATRIX)):
            deploy_echo(gateway, model, root, answer_floats)
            payloads = _payloads(model, answer_floats, root, settings)
            with ways(gateway, model, root, answer_floats) as all_ways:
                measured = [(p, {w.name: Measured() for w in all_ways}) for p in payloads]
                cases = [(p, by_way[w.name], w) for p, by_way in measured for w in all_ways]
                title = f"proxies ({model} answers)"
                for round_, case in settings.interleaved(title, cases, _label, warm_up=True):
                    payload, into, way = case
                    _shoot(way, payload, into, is_warm_up=round_ == 0)
            found += measured
            gateway.cli("delete", "model", model)
    lines = [line for payload, by_way in found for line in _lines(payload, by_way)]
    rows = [row for payload, by_way in found for row in _rows(payload, by_way)]
    facts = {
        "upstream": "2 replicas of loadtests/echo (Go), a constant answer",
        "load": "h2load, one thread; gRPC on 4 connections (4 MB: 2). What a request costs a proxy "
        "depends on how many come at once, as they share its wake-ups and writes: so two levels",
        "envoy": "--concurrency 1, routes by path and method, least request, timeout 30 s, "
        "statistics on, no access log, no request ids",
        "cpu": "user + system of the proxy's processes by the kernel's own clocks, per request",
    }
    return Outcome("proxies", lines, rows, facts)


def _label(case: tuple[Payload, Measured, Way]) -> str:
    payload, _, way = case
    return f"{payload.name} · {way.name}"


def _payloads(model: str, answer: int, root: Path, settings: Settings) -> Sequence[Payload]:
    n = settings.scaled
    if model == "picture":
        both = grpc_request(model, PICTURE, root, answer)
        return [Payload("gRPC 150 KB, both ways", both, n(1500), 1.0, 4, 4, is_tensor=True)]
    if model == "matrix":
        both = grpc_request(model, MATRIX, root, answer)
        return [Payload("gRPC 4 MB, both ways", both, n(80), 1.0, 2, 2, is_tensor=True)]
    rest, rest_row = (http_request(model, f, root) for f in (3, 784))
    small, row, picture, matrix = (grpc_request(model, f, root) for f in (9, 784, PICTURE, MATRIX))
    payloads = []
    for connections, streams in ((4, 1), (4, 4)):
        at_once = connections * streams
        for name, request, goal in (
            ("HTTP 30 B", rest, 0.5),
            ("HTTP 784 floats", rest_row, 0.5),
            ("gRPC 90 B", small, 0.8),
            ("gRPC 3 KB", row, 0.8),
        ):
            # HTTP/1.1 has one request on a connection.
            of = (connections, streams) if request.is_grpc else (at_once, 1)
            payloads.append(Payload(f"{name}, {at_once} at once", request, n(8000), goal, *of))
    return [
        *payloads,
        Payload("gRPC 150 KB", picture, n(2000), 1.0, 4, 4, is_tensor=True),
        Payload("gRPC 4 MB", matrix, n(120), 1.0, 2, 2, is_tensor=True),
    ]


def _shoot(way: Way, payload: Payload, into: Measured, *, is_warm_up: bool) -> None:
    address = way.grpc if payload.request.is_grpc else way.http
    count = max(payload.requests // 4, 16) if is_warm_up else payload.requests
    before = way.family.cpu_s()
    with memory_of(way.family) as memory:
        run = h2load.run(address, payload.request, count, payload.connections, payload.streams)
    used = way.family.cpu_s() - before
    if is_warm_up:
        into.rss_before = memory.before_bytes
        return
    into.runs.append(run)
    into.cpu_s.append(used / count)
    into.most_rss.append(memory.most_bytes)


def _lines(payload: Payload, by_way: dict[str, Measured]) -> list[Line]:
    ours, theirs = by_way["gateway"], by_way["envoy"]
    per = "CPU per byte" if payload.is_tensor else "CPU per request"
    lines = [
        Line(f"{payload.name}: {per}", "× Envoy", ratios(ours.cpu_s, theirs.cpu_s), payload.goal)
    ]
    if payload.is_tensor:
        growth = Spread.of(rss / ours.most_rss[0] for rss in ours.most_rss)
        before, most = ours.rss_before / 1e6, max(ours.most_rss) / 1e6
        note = f"{before:.0f} MB before the first, at most {most:.0f} MB"
        lines.append(
            Line(f"{payload.name}: memory, later rounds", "× the first", growth, 1.05, note=note)
        )
    return lines


def _rows(payload: Payload, by_way: dict[str, Measured]) -> list[dict[str, Any]]:
    rows = []
    for name, found in by_way.items():
        cpu = Spread.of(found.cpu_s)
        rows.append(
            {
                "payload": payload.name,
                "way": name,
                "requests": payload.requests,
                "wire_bytes": payload.wire_bytes,
                "requests_per_s": Spread.of(r.per_s for r in found.runs).median,
                "p50_s": Spread.of(r.p50_s for r in found.runs).median,
                "p99_s": Spread.of(r.p99_s for r in found.runs).median,
                "cpu_per_request_s": cpu.median,
                "cpu_spread_s": [cpu.least, cpu.most],
                "cpu_ns_per_byte": cpu.median / payload.wire_bytes * 1e9,
                "rss_before_bytes": found.rss_before,
                "rss_most_bytes": max(found.most_rss),
                "cpu_rounds_s": found.cpu_s,
            }
        )
    return rows


def show(outcome: Outcome) -> str:
    """The rows as text."""
    header = ("payload", "way", "req/s", "p50 ms", "p99 ms", "CPU µs", "ns/byte", "RSS MB")
    return table(
        header,
        (
            (
                row["payload"],
                row["way"],
                f"{row['requests_per_s']:.0f}",
                f"{row['p50_s'] * 1e3:.2f}",
                f"{row['p99_s'] * 1e3:.2f}",
                f"{row['cpu_per_request_s'] * 1e6:.0f}",
                f"{row['cpu_ns_per_byte']:.2f}",
                f"{row['rss_most_bytes'] / 1e6:.0f}",
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
