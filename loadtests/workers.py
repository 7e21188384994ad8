"""What a second worker brings: `--workers 1` beside `--workers 2`, in one run.

Two cores that the load tool and the replicas share cannot show two busy workers, so it is separated
in two ways. First, CPU per request: two workers on two cores of their own do twice what one does if
a request costs as much with two as with one (locks, copies, waiting on each other would show here).
Second, where control groups may be used (root), each worker gets only a quarter of a core, so that
the rest of the machine is never what holds them up; then requests per second are compared.

    python -m loadtests.workers --rounds 5
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from loadtests import h2load
from loadtests.echoes import SERVE_FLAGS, deploy_echo, grpc_request, http_request
from loadtests.h2load import Request, Run
from loadtests.processes import Family, cpu_of, gateway_alone, workers
from loadtests.scenario import Settings, run_alone
from loadtests.shares import NotPossible, share_of_core
from loadtests.summary import Line, Outcome, Spread, table
from tests.parts.gateway_process import GatewayProcess, gateway_process

GOAL = 1.8
SHARE = 0.25
"""Of a core, for each worker where it is held back."""
COUNTS = (1, 2)
REQUESTS = 10_000
CONNECTIONS = 64
"""One request each. Many, because the kernel spreads connections over the workers by chance."""
SECONDS = 3.0
"""Of each round in which the workers are held back."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A gateway with so many workers."""

    count: int
    gateway: GatewayProcess
    family: Family

    @property
    def answering(self) -> list[int]:
        """The processes that answer: the workers, or the one process that is all."""
        assert self.gateway.process is not None
        return [p.pid for p in workers(self.gateway)] or [self.gateway.process.pid]

    def address(self, request: Request) -> str:
        return self.gateway.grpc if request.is_grpc else self.gateway.http


@dataclass(slots=True)
class Measured:
    """All rounds of one protocol and count."""

    cpu_s: list[float] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    """Requests/s with each worker held to its share."""
    used: list[float] = field(default_factory=list)
    """How much of their shares the workers used then; if little, something else held them."""


def measure(settings: Settings) -> Outcome:
    """Run all rounds, both counts in turn."""
    root = settings.scratch / "workers"
    why_not = ""
    with ExitStack() as stack:
        servings = []
        for count in COUNTS:
            folder = root / str(count)
            folder.mkdir(parents=True)
            flags = (*SERVE_FLAGS, "--workers", str(count))
            gateway = stack.enter_context(gateway_process(folder / "state", *flags))
            deploy_echo(gateway, "small", folder)
            servings.append(Serving(count, gateway, gateway_alone(gateway)))
        requests = {"HTTP 30 B": http_request("small", 3, root)}
        requests["gRPC 90 B"] = grpc_request("small", 9, root)
        found = {(name, one.count): Measured() for name in requests for one in servings}
        by_count = {serving.count: serving for serving in servings}
        cases = list(found)
        for round_, case in settings.interleaved("workers", cases, _label, warm_up=True):
            name, count = case
            is_warm_up = round_ == 0
            _shoot(by_count[count], requests[name], settings, found[case], is_warm_up=is_warm_up)
        title = f"workers, each on {SHARE:g} of a core"
        try:
            for _, case in settings.interleaved(title, cases, _label, warm_up=False):
                name, count = case
                _shoot_held(by_count[count], requests[name], settings, found[case])
        except NotPossible as error:
            why_not = str(error)
    facts = {
        "separated": "CPU per request; and requests/s with each worker held to "
        f"{SHARE:g} of a core by a control group",
        "held_not_possible": why_not,
        "load": "h2load, 64 requests under way",
    }
    return Outcome("workers", _lines(found), _rows(found), facts)


def _label(case: tuple[str, int]) -> str:
    name, count = case
    return f"{name} · {count} {'worker' if count == 1 else 'workers'}"


def _shoot(
    serving: Serving, request: Request, settings: Settings, into: Measured, *, is_warm_up: bool
) -> None:
    count = settings.scaled(REQUESTS // 4 if is_warm_up else REQUESTS)
    before = serving.family.cpu_s()
    run = h2load.run(serving.address(request), request, count, CONNECTIONS, 1)
    if not is_warm_up:
        into.cpu_s.append((serving.family.cpu_s() - before) / count)
        into.runs.append(run)


def _shoot_held(serving: Serving, request: Request, settings: Settings, into: Measured) -> None:
    seconds = max(1.0, SECONDS * settings.scale)
    pids = serving.answering
    with share_of_core(pids, SHARE):
        before = sum(map(cpu_of, pids))
        per_s = h2load.rate_for(serving.address(request), request, seconds, CONNECTIONS, 1)
        used = sum(map(cpu_of, pids)) - before
    into.held.append(per_s)
    into.used.append(used / (seconds * SHARE * len(pids)))


def _lines(found: dict[tuple[str, int], Measured]) -> list[Line]:
    lines = []
    for name in dict.fromkeys(name for name, _ in found):
        one, two = found[name, 1], found[name, 2]
        pairs = zip(one.cpu_s, two.cpu_s, strict=True)
        speed = Spread.of(2 * a / b for a, b in pairs)
        what = f"{name}: 2 workers by CPU per request"
        lines.append(Line(what, "× one", speed, GOAL, at_most=False))
        if one.held and len(one.held) == len(two.held):
            held = Spread.of(b / a for a, b in zip(one.held, two.held, strict=True))
            what = f"{name}: 2 workers by requests/s, each on {SHARE:g} of a core"
            shares = " and ".join(f"{Spread.of(m.used).median:.0%}" for m in (one, two))
            note = f"used {shares} of their shares"
            lines.append(Line(what, "× one", held, GOAL, at_most=False, note=note))
    return lines


def _rows(found: dict[tuple[str, int], Measured]) -> list[dict[str, Any]]:
    return [
        {
            "payload": name,
            "workers": count,
            "cpu_per_request_s": Spread.of(one.cpu_s).median,
            "requests_per_s": Spread.of(run.per_s for run in one.runs).median,
            "held_requests_per_s": Spread.of(one.held).median if one.held else None,
            "cpu_rounds_s": one.cpu_s,
            "held_rounds_per_s": one.held,
            "held_used_rounds_ratio": one.used,
        }
        for (name, count), one in found.items()
    ]


def show(outcome: Outcome) -> str:
    """The rows as text."""
    header = ("payload", "workers", "CPU µs", "req/s, sharing 2 cores", "req/s, each held")
    return table(
        header,
        (
            (
                row["payload"],
                str(row["workers"]),
                f"{row['cpu_per_request_s'] * 1e6:.0f}",
                f"{row['requests_per_s']:.0f}",
                f"{row['held_requests_per_s']:.0f}" if row["held_requests_per_s"] else "–",
            )
            for row in outcome.rows
        ),
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    return run_alone(parser, argv, measure, show, ("h2load", "go"))


if __name__ == "__main__":
    sys.exit(main())
