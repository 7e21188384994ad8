"""A model that has no replica while nobody asks: a crowd finds none; one grows, and shrinks.

    python -m loadtests.cold_start

Real processes. Cold: an ONNX model with `--min-replicas 0` has been stopped; callers come
(Poisson, HTTP and gRPC, waiting for nobody) and are held until its replica answers. What that took
is split by the gateway's events and the replica's own log. Ramp: a model that sleeps, so that its
capacity is known, is asked for more and more and then less; its replicas follow, from none to none.
Nobody may be refused or fail.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.cold_start_picture import draw
from loadtests.crowd import Crowd, Phase, Request, ask_at
from loadtests.machine import ROOT, machine, write
from loadtests.models import write_adder
from loadtests.overload import over_time
from loadtests.sleeper import write_sleeper
from loadtests.summary import percentile
from tests.parts.gateway_process import GatewayProcess, gateway_process

COLD, RAMP = "cold", "ramp"

WINDOW_S = 10.0
"""Instead of a minute, so that a ramp up and down takes a minute; everything else in proportion."""

_LOOK_S = 0.2
_LOG_AT = re.compile(r"^(\S+T\S+) \S+ (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """What the scenario asks for."""

    rounds: int = 3
    cold_per_s: float = 60.0
    cold_s: float = 4.0
    deadline_s: float = 20.0
    run_s: float = 0.08
    threads: int = 4
    """Of each replica of the ramp: 50 requests a second, and 4 in flight at most."""
    target: float = 3.0
    """In flight for each: three quarters of what it works on at once."""
    most: int = 4
    step_s: float = 8.0
    steps_per_s: tuple[float, ...] = (10, 40, 80, 120, 80, 40, 10)

    @property
    def capacity_per_s(self) -> float:
        """Of one replica."""
        return self.threads / self.run_s


def cold(gateway: GatewayProcess, scratch: Path, load: Load, seed: int) -> list[dict[str, Any]]:
    """Rounds of a crowd that finds no replica."""
    folder = scratch / COLD
    write_adder(folder / "1", 1.0)
    gateway.cli(
        *("deploy", "model", COLD, "--source", str(folder), "--timeout", "120"),
        *("--min-replicas", "0", "--max-replicas", "2", "--idle-s", "1"),
    )
    rounds = []
    for number in range(load.rounds):
        until(
            lambda: _model(gateway, COLD)["state"] == "idle" and not gateway.get("replicas", COLD)
        )
        crowd = Crowd(
            gateway.http, gateway.grpc, COLD, load.deadline_s, 0.0, seed + number,
            connects_first=False,
        )  # fmt: skip
        began_at, requests = ask_at(crowd, [Phase(load.cold_s, load.cold_per_s)])
        first_at = min(r.ended_s for r in requests if r.is_in_time)
        found = {
            **figures(requests),
            "first_due_s": min(r.due_s for r in requests),
            "first_answer_s": first_at - min(r.due_s for r in requests),
            "split": split(gateway, began_at, requests),
            "each": [(round(r.due_s, 4), round(r.took_s, 4)) for r in requests],
        }
        rounds.append(found)
    return rounds


def figures(requests: Sequence[Request]) -> dict[str, Any]:
    """What became of a crowd."""
    took = [r.took_s for r in requests if r.is_in_time]
    return {
        "requests": len(requests),
        "in_time": len(took),
        "outcomes": {
            o: sum(r.outcome == o for r in requests) for o in {r.outcome for r in requests}
        },
        "p50_s": percentile(took, 0.5),
        "p99_s": percentile(took, 0.99),
        "max_s": max(took),
        "client_late_p99_s": percentile([r.began_s - r.due_s for r in requests], 0.99),
    }


def split(
    gateway: GatewayProcess, began_at: datetime, requests: Sequence[Request]
) -> dict[str, float]:
    """What the time from the first arrival to the first answer went to, in order."""
    events = gateway.get("events", COLD)
    starts = (e for e in events if e["type"] == "replica.started")
    started = next(e for e in starts if _at(e["at"]) > began_at)
    log = gateway.cli("logs", COLD, "--replica", started["replica"]).stdout
    lines = {name: _at(at) for at, name in _LOG_AT.findall(log)}
    zero = min(r.due_s for r in requests)
    answered = min(r.ended_s for r in requests if r.is_in_time)
    moments = [
        ("noticed and begun", _at(started["at"])),
        ("process and imports", lines["server.started"]),
        ("told", lines["version.fetching"]),
        ("fetched", lines["version.loading"]),
        ("loaded and warmed", lines["version.ready"]),
    ]
    parts, before = {}, zero
    for name, moment in moments:
        at = (moment - began_at).total_seconds()
        parts[name], before = round(at - before, 4), at
    parts["routed and answered"] = round(answered - before, 4)
    return parts


def bare_start_s() -> float:
    """What a Python process costs that does nothing: the part of `process and imports` that no
    server can save."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        times.append(time.perf_counter() - begun)
    return median(times)


def ramp(gateway: GatewayProcess, scratch: Path, load: Load, seed: int) -> dict[str, Any]:
    """A crowd that grows and shrinks, and replicas that follow it down to none."""
    folder = write_sleeper(scratch / RAMP, load.run_s)
    command = [
        *(sys.executable, "-m", "loadtests.sleeper", "--model", f"{RAMP}={folder}"),
        *("--http", "127.0.0.1:{http_port}", "--grpc", "127.0.0.1:{grpc_port}"),
        *("--threads", str(load.threads), "--batch-size", "1", "--here-us", "0"),
    ]
    gateway.cli(
        *("deploy", "model", RAMP, "--source", str(folder), "--backend", "custom"),
        *("--command", shlex.join(command), "--timeout", "120"),
        *("--min-replicas", "0", "--max-replicas", str(load.most), "--idle-s", "5"),
        *("--target-in-flight", f"{load.target:g}"),
    )
    until(lambda: _model(gateway, RAMP)["state"] == "idle" and not gateway.get("replicas", RAMP))
    crowd = Crowd(
        gateway.http, gateway.grpc, RAMP, load.deadline_s, 0.0, seed, connects_first=False
    )
    with _watched(gateway) as seen:
        phases = [Phase(load.step_s, per_s) for per_s in load.steps_per_s]
        began_at, requests = ask_at(crowd, phases)
        until(lambda: _model(gateway, RAMP)["state"] == "idle")
    events = [e for e in gateway.get("events", RAMP) if e["type"] == "model.autoscaled"]
    return {
        **figures(requests),
        "over_time": over_time(requests),
        "replicas": [
            {"at_s": round((at - began_at).total_seconds(), 3), **what} for at, what in seen
        ],
        "most_ready": max(what["ready"] for _, what in seen),
        "changes": [
            {"at_s": round((_at(e["at"]) - began_at).total_seconds(), 3), "why": e["message"]}
            for e in events
            if _at(e["at"]) >= began_at
        ],
    }


@contextmanager
def _watched(gateway: GatewayProcess) -> Iterator[list[tuple[datetime, dict[str, Any]]]]:
    """How many replicas there are, several times a second, while the block lasts."""
    seen: list[tuple[datetime, dict[str, Any]]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            model = _model(gateway, RAMP)
            keys = {"wanted": "replicas", "ready": "ready_replicas", "in_flight": "in_flight"}
            seen.append((datetime.now(UTC), {k: model[v] for k, v in keys.items()}))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _model(gateway: GatewayProcess, name: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{gateway.url}/api/v1/models/{name}", timeout=10) as answer:
        model: dict[str, Any] = json.load(answer)
    return model


def until(is_so: Callable[[], bool], seconds: float = 120.0) -> None:
    """Look until it is so. Raises TimeoutError."""
    end = time.perf_counter() + seconds
    while not is_so():
        if time.perf_counter() > end:
            raise TimeoutError(f"it was not so within {seconds:g} s")
        time.sleep(0.1)


def _at(moment: str) -> datetime:
    return datetime.fromisoformat(moment.replace("Z", "+00:00"))


def verdict(rounds: Sequence[dict[str, Any]], ramped: dict[str, Any], load: Load) -> list[str]:
    """What the goals of the scenario are missed by; nothing when they are met."""
    changes = [int(c["why"].split()[0]) for c in ramped["changes"]]
    ups = [b > a for a, b in pairwise([0, *changes])]
    turns = sum(a != b for a, b in pairwise(ups))
    goals = [
        (all(r["in_time"] == r["requests"] for r in rounds), "nobody fails while one is started"),
        (ramped["in_time"] == ramped["requests"], "nobody fails while replicas come and go"),
        (ramped["most_ready"] >= load.most - 1, "replicas follow the demand"),
        (changes[-1] == 0, "none is left when nobody asks"),
        # With the crowd that has waited for the first one, down, and with the ramp once more.
        (turns <= 3, "it does not flap"),
    ]
    return [words for is_met, words in goals if not is_met]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON and picture; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="cold starts (3)")
    parser.add_argument("--step", type=float, default=8.0, help="seconds of each step (8)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="JSON; the picture goes beside it")
    args = parser.parse_args(argv)
    load = Load(rounds=args.rounds, step_s=args.step)
    facts = machine()
    env = {"PYTHONPATH": str(ROOT), "GATEWAY_SCALE_WINDOW_S": f"{WINDOW_S:g}"}
    with tempfile.TemporaryDirectory(prefix="gateway-cold-") as folder:
        scratch = Path(folder)
        with gateway_process(scratch / "state", "--settle-s", "0", env=env) as gateway:
            rounds = cold(gateway, scratch, load, args.seed)
            ramped = ramp(gateway, scratch, load, args.seed)
    missed = verdict(rounds, ramped, load)
    result = {
        **facts,
        "load": asdict(load),
        "window_s": WINDOW_S,
        "missed": missed,
        "bare_python_s": bare_start_s(),
        "cold": rounds,
        "ramp": ramped,
    }
    path = write("cold-start", result, args.out)
    draw(rounds, ramped, load.step_s, load.steps_per_s, path.with_suffix(".svg"))
    for one in rounds:
        print(json.dumps({k: v for k, v in one.items() if k != "each"}))
    print(json.dumps({k: ramped[k] for k in ("requests", "outcomes", "p50_s", "p99_s", "changes")}))
    print("\n".join(f"missed: {words}" for words in missed) or "all goals met")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
