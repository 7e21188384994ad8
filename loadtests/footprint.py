"""What the gateway takes before it does anything: time to start, memory, and a large table.

Start: from the process' beginning to its first healthy answer. Memory: resident, of the one process
and of each of two workers, idle and after load. A table of 20,000 models: each lookup (route and
choice of two) timed by itself, and the same table in a process that serves, its models asked in
turn, beside one that has a single model.

    python -m loadtests.footprint --rounds 5
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from gateway.domain.replicas import Endpoint
from loadtests import h2load
from loadtests.echoes import SERVE_FLAGS, deploy_echo, grpc_request, http_request
from loadtests.h2load import Request
from loadtests.many_models import lookups_s, model_name, routing_table
from loadtests.processes import Family, gateway_alone, with_children, workers
from loadtests.scenario import Settings, run_alone
from loadtests.summary import Line, Outcome, Spread, percentile, table
from tests.parts.gateway_process import GatewayProcess, gateway_process

MODELS = 20_000
START_GOAL_S = 1.0
MEMORY_GOAL_MB = 100.0
LOOKUP_GOAL_US = 50.0
LOOKUPS = 50_000
REQUESTS = 10_000


@dataclass(slots=True)
class Found:
    """All rounds."""

    start_s: list[float] = field(default_factory=list)
    idle_mb: list[float] = field(default_factory=list)
    loaded_mb: list[float] = field(default_factory=list)
    """One process."""
    worker_idle_mb: list[float] = field(default_factory=list)
    worker_loaded_mb: list[float] = field(default_factory=list)
    """Of two workers, the larger."""
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    serving: dict[str, Any] = field(default_factory=dict)


def measure(settings: Settings) -> Outcome:
    """Start, load and look up, in each round."""
    root = settings.scratch / "footprint"
    found = Found()
    cases = [1, 2, 0]
    for round_, count in settings.interleaved("footprint", cases, _label, warm_up=False):
        if count:
            _start_and_load(root / f"{count}-{round_}", count, settings, found)
        else:
            _look_up(round_, settings, found)
    found.serving = _serving(root / "serving", settings)
    facts = {
        "start": "from the process' beginning to its first healthy answer on the control port",
        "memory": "resident, pages shared with others counted; load is 784 floats by HTTP and gRPC",
        "serving_20000": found.serving,
    }
    return Outcome("footprint", _lines(found), _rows(found), facts)


def _label(count: int) -> str:
    return f"{count} workers" if count else f"lookups among {MODELS} models"


def _look_up(round_: int, settings: Settings, found: Found) -> None:
    table = routing_table(MODELS, [Endpoint("h:1", "h:2", "h:2")])
    took = lookups_s(table, settings.scaled(LOOKUPS), Random(round_))
    found.p50_us.append(percentile(took, 0.5) * 1e6)
    found.p99_us.append(percentile(took, 0.99) * 1e6)


def _start_and_load(root: Path, count: int, settings: Settings, found: Found) -> None:
    root.mkdir(parents=True)
    flags = (*SERVE_FLAGS, "--workers", str(count))
    with gateway_process(root / "state", *flags) as gateway:
        idle = _largest_mb(gateway)
        deploy_echo(gateway, "small", root)
        for request in (http_request("small", 784, root), grpc_request("small", 784, root)):
            address = gateway.grpc if request.is_grpc else gateway.http
            h2load.run(address, request, settings.scaled(REQUESTS), 16, 1)
        loaded = _largest_mb(gateway)
        started = gateway.started_in_s
    if count == 1:
        found.start_s.append(started)
    (found.idle_mb if count == 1 else found.worker_idle_mb).append(idle)
    (found.loaded_mb if count == 1 else found.worker_loaded_mb).append(loaded)


def _largest_mb(gateway: GatewayProcess) -> float:
    answering: Sequence[psutil.Process] = workers(gateway) or gateway_alone(gateway).members()
    return float(max(p.memory_info().rss for p in answering)) / 1e6


@dataclass(frozen=True, slots=True)
class Plane:
    """A data plane with so many models, and what it told of itself."""

    told: dict[str, Any]
    family: Family


@contextmanager
def _plane(models: int, replicas: Sequence[dict[str, Any]]) -> Iterator[Plane]:
    command = [sys.executable, "-m", "loadtests.many_models", "--models", str(models)]
    for replica in replicas:
        command += ["--http", replica["endpoint"], "--grpc", replica["grpc_endpoint"]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("loadtests.many_models did not start")
        try:
            yield Plane(json.loads(line), with_children(process.pid))
        finally:
            process.stdin.close()  # at which it ends


def _serving(root: Path, settings: Settings) -> dict[str, Any]:
    """CPU and memory of a serving process with 20,000 models, each asked, beside one with one."""
    root.mkdir(parents=True)
    with ExitStack() as stack:
        gateway = stack.enter_context(gateway_process(root / "state", *SERVE_FLAGS))
        deploy_echo(gateway, "small", root)
        replicas = gateway.get("replicas", "small")
        request = http_request("small", 3, root)
        out: dict[str, Any] = {}
        cpu: dict[int, list[float]] = {1: [], MODELS: []}
        planes = {n: stack.enter_context(_plane(n, replicas)) for n in cpu}
        title, cases = "footprint, serving", list(planes)
        for round_, models in settings.interleaved(title, cases, "{} models".format, warm_up=True):
            used = _ask_all(planes[models], models, request, root)
            if round_:
                cpu[models].append(used)
        for models, plane in planes.items():
            out[f"{models}_cpu_per_request_s"] = Spread.of(cpu[models]).median
            out[f"{models}_rss_bytes"] = plane.family.rss_bytes()
        return out | {k: planes[MODELS].told[k] for k in ("publish_s", "table_bytes")}


def _ask_all(plane: Plane, models: int, request: Request, root: Path) -> float:
    """CPU seconds of a request, when every model is asked in turn; as many for a single one."""
    address = plane.told["http"]
    paths = root / f"paths-{models}"
    paths.write_text(
        "".join(f"http://{address}/v1/models/{model_name(i)}:predict\n" for i in range(models))
    )
    before = plane.family.cpu_s()
    done = subprocess.run(
        ["h2load", "--h1", "-n", str(MODELS), "-c", "4", "-i", str(paths), "-d", str(request.body)],
        capture_output=True,
        text=True,
        check=False,
        timeout=h2load.TIMEOUT_S,
    )
    if f"{MODELS} 2xx" not in done.stdout:
        raise h2load.WrongAnswers(done.stdout[-800:] + done.stderr[-500:])
    return (plane.family.cpu_s() - before) / MODELS


def _lines(found: Found) -> list[Line]:
    serving = found.serving
    memory = serving[f"{MODELS}_rss_bytes"] / 1e6
    more = serving[f"{MODELS}_cpu_per_request_s"] - serving["1_cpu_per_request_s"]
    note = (
        f"p50 {Spread.of(found.p50_us).median:.1f} µs; serving: {more * 1e6:+.0f} µs a request, "
        f"all asked, the process has {memory:.0f} MB"
    )
    worker = "of two workers the larger"
    return [
        Line("start to the first health answer", "s", Spread.of(found.start_s), START_GOAL_S),
        Line("memory of one process, idle", "MB", Spread.of(found.idle_mb), MEMORY_GOAL_MB),
        Line("memory of one process, after load", "MB", Spread.of(found.loaded_mb), MEMORY_GOAL_MB),
        Line(
            "memory of a worker, after load", "MB", Spread.of(found.worker_loaded_mb),
            MEMORY_GOAL_MB, note=worker,
        ),
        Line("20,000 models: lookup p99", "µs", Spread.of(found.p99_us), LOOKUP_GOAL_US, note=note),
    ]  # fmt: skip


def _rows(found: Found) -> list[dict[str, Any]]:
    return [
        {"figure": name, "median": Spread.of(values).median, "rounds": values}
        for name, values in (
            ("start_s", found.start_s),
            ("idle_mb", found.idle_mb),
            ("loaded_mb", found.loaded_mb),
            ("worker_idle_mb", found.worker_idle_mb),
            ("worker_loaded_mb", found.worker_loaded_mb),
            ("lookup_p50_us", found.p50_us),
            ("lookup_p99_us", found.p99_us),
        )
    ]


def show(outcome: Outcome) -> str:
    """The rows as text."""
    rows = [(str(r["figure"]), f"{r['median']:.2f}") for r in outcome.rows]
    served = outcome.facts["serving_20000"]
    rows += [(f"serving: {name}", f"{value:.6g}") for name, value in served.items()]
    return table(("figure", "median"), rows)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    return run_alone(parser, argv, measure, show, ("h2load", "go"))


if __name__ == "__main__":
    sys.exit(main())
