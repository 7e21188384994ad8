"""The gateway beside a direct call and beside Envoy: CPU per request and added latency, in one run.

One ONNX replica answers everything. Each round sends the same requests to it directly, through the
gateway and through Envoy as a plain proxy, over HTTP/1.1 and gRPC; rounds are interleaved, so a
noisy minute hits all alike, and the figures are medians over rounds. CPU is what the proxy's own
processes used (user + system), divided by the requests. h2load drives it; it costs little itself.

    python -m loadtests.bench --requests 4000 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from gateway.codecs.pb import tfs_pb2
from loadtests.envoy import envoy
from loadtests.models import write_mlp
from loadtests.traffic import PREDICT, percentile
from tests.parts.gateway_process import GatewayProcess, gateway_process

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
MODELS = {"small": (4, 8, 2), "mlp784": (784, 128, 10)}


@dataclass(frozen=True, slots=True)
class Target:
    """One way to the replica."""

    name: str
    http: str
    grpc: str
    cpu_s: Callable[[], float]
    """CPU seconds that the proxy has used so far; 0 for a direct call."""


@dataclass(frozen=True, slots=True)
class Round:
    """One h2load run."""

    target: str
    protocol: str
    payload: str
    requests: int
    requests_per_s: float
    p50_s: float
    p99_s: float
    cpu_per_request_s: float
    answer_bytes: float


def main(argv: list[str] | None = None) -> int:
    """Run, print a table, write JSON; 1 when a tool is missing or an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=4000, help="in each round (default 4000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument(
        "--out", type=Path, default=None, help="default: loadtests/results/bench-COMMIT.json"
    )
    args = parser.parse_args(argv)
    if shutil.which("h2load") is None:
        print("h2load is missing: apt-get install nghttp2-client", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as scratch, ExitStack() as stack:
        rounds, start = _measure(Path(scratch), args, stack)
    result = {**machine(), "start": start, "summary": _summary(rounds)}
    result["rounds"] = [asdict(r) for r in rounds]
    out = args.out or RESULTS / f"bench-{result['commit']}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    _print(result["summary"], start)
    print(f"written to {out.relative_to(ROOT) if out.is_relative_to(ROOT) else out}")
    return 0


def _measure(
    scratch: Path, args: argparse.Namespace, stack: ExitStack
) -> tuple[list[Round], dict[str, float]]:
    gateway = stack.enter_context(gateway_process(scratch / "state"))
    assert gateway.process is not None
    main_process = psutil.Process(gateway.process.pid)
    start = {
        "first_health_answer_s": gateway.started_in_s,
        "idle_rss_bytes": float(main_process.memory_info().rss),
    }
    bodies = {}
    for name, sizes in MODELS.items():
        write_mlp(scratch / name / "1", sizes)
        gateway.cli("deploy", "model", name, "--source", str(scratch / name), "--batch-size", "1")
        bodies[name] = _bodies(name, sizes[0], scratch)
    rounds = []
    for name in MODELS:
        with _targets(gateway, name, main_process, scratch) as targets:
            cases = [(t, p) for t in targets for p in ("http", "grpc")]
            for target, protocol in cases:
                _shoot(target, protocol, name, bodies[name], max(200, args.requests // 4), args)
            for _ in range(args.rounds):
                for target, protocol in cases:
                    rounds.append(_shoot(target, protocol, name, bodies[name], args.requests, args))
    start["rss_after_load_bytes"] = float(main_process.memory_info().rss)
    return rounds, start


@contextmanager
def _targets(
    gateway: GatewayProcess, model: str, process: psutil.Process, scratch: Path
) -> Iterator[list[Target]]:
    replica = gateway.get("replicas", model)[0]
    with envoy(replica["endpoint"], replica["grpc_endpoint"], scratch) as proxy:
        yield [
            Target("direct", replica["endpoint"], replica["grpc_endpoint"], lambda: 0.0),
            Target("gateway", gateway.http, gateway.grpc, lambda: _cpu(process)),
            Target("envoy", proxy.http, proxy.grpc, lambda: _cpu(psutil.Process(proxy.pid))),
        ]


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _bodies(model: str, width: int, scratch: Path) -> dict[str, Path]:
    row = [round(i / width, 4) for i in range(width)]
    http = scratch / f"{model}.json"
    http.write_text(json.dumps({"instances": [row]}))
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["x"]
    tensor.dtype = tfs_pb2.DT_FLOAT
    for size in (1, width):
        tensor.tensor_shape.dim.add().size = size
    tensor.float_val.extend(row)
    message = request.SerializeToString()
    grpc = scratch / f"{model}.grpc"
    grpc.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    return {"http": http, "grpc": grpc}


def _shoot(
    target: Target,
    protocol: str,
    model: str,
    bodies: dict[str, Path],
    requests: int,
    args: argparse.Namespace,
) -> Round:
    log = bodies[protocol].with_suffix(".log")
    log.unlink(missing_ok=True)
    command = ["h2load", "-n", str(requests), "-c", str(args.connections), "-t", "1"]
    command += ["-d", str(bodies[protocol]), "--log-file", str(log)]
    if protocol == "http":
        command += ["--h1", "-H", "content-type: application/json"]
        command.append(f"http://{target.http}/v1/models/{model}:predict")
    else:
        command += ["-m", "4", "-H", "content-type: application/grpc", "-H", "te: trailers"]
        command.append(f"http://{target.grpc}{PREDICT}")
    before, begun = target.cpu_s(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - begun, target.cpu_s()
    latencies = []
    for line in log.read_text().splitlines():
        _, status, micros = line.split("\t")[:3]
        if status != "200":
            raise SystemExit(f"{target.name} {protocol} {model} answered {status}:\n{done.stdout}")
        latencies.append(int(micros) / 1e6)
    size = _data_bytes(done.stdout) / requests
    return Round(
        target.name,
        protocol,
        model,
        requests,
        requests / wall,
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
        (after - before) / requests,
        size,
    )


def _data_bytes(output: str) -> float:
    """Bytes of DATA (or bodies), from h2load's `traffic:` line."""
    line = next(li for li in output.splitlines() if li.startswith("traffic:"))
    return float(line.rsplit("(", 1)[1].split(")")[0])


def _summary(rounds: list[Round]) -> list[dict[str, Any]]:
    rows = []
    for payload in MODELS:
        for protocol in ("http", "grpc"):
            by: dict[str, list[Round]] = {}
            for r in rounds:
                if (r.payload, r.protocol) == (payload, protocol):
                    by.setdefault(r.target, []).append(r)
            sizes = {t: statistics.median(r.answer_bytes for r in rs) for t, rs in by.items()}
            if protocol == "grpc" and max(sizes.values()) > 2 * min(sizes.values()):
                raise SystemExit(f"gRPC answers differ in size, some are errors: {sizes}")
            mid = {
                t: {
                    k: statistics.median(getattr(r, k) for r in rs)
                    for k in ("requests_per_s", "p50_s", "p99_s", "cpu_per_request_s")
                }
                for t, rs in by.items()
            }
            rows.append(
                {
                    "payload": payload,
                    "protocol": protocol,
                    "targets": mid,
                    "added_p50_s": mid["gateway"]["p50_s"] - mid["direct"]["p50_s"],
                    "added_p99_s": mid["gateway"]["p99_s"] - mid["direct"]["p99_s"],
                    "gateway_cpu_over_envoy_ratio": mid["gateway"]["cpu_per_request_s"]
                    / max(1e-9, mid["envoy"]["cpu_per_request_s"]),
                    "gateway_cpu_spread_s": [
                        min(r.cpu_per_request_s for r in by["gateway"]),
                        max(r.cpu_per_request_s for r in by["gateway"]),
                    ],
                }
            )
    return rows


def machine() -> dict[str, Any]:
    """The commit and the machine, for results."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {
        "commit": git("rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": bool(git("status", "--porcelain")),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def _print(summary: list[dict[str, Any]], start: dict[str, float]) -> None:
    print(
        f"first health answer {start['first_health_answer_s']:.2f} s, "
        f"idle {start['idle_rss_bytes'] / 1e6:.0f} MB, "
        f"after load {start['rss_after_load_bytes'] / 1e6:.0f} MB"
    )
    columns = ("payload", "proto", "target", "req/s", "p50 ms", "p99 ms", "CPU µs")
    print("{:8} {:5} {:8} {:>7} {:>7} {:>7} {:>7}".format(*columns))
    for row in summary:
        for name, t in row["targets"].items():
            print(
                f"{row['payload']:8} {row['protocol']:5} {name:8} {t['requests_per_s']:7.0f} "
                f"{t['p50_s'] * 1e3:7.2f} {t['p99_s'] * 1e3:7.2f} "
                f"{t['cpu_per_request_s'] * 1e6:7.0f}"
            )
        print(
            f"{'':14} added p50 {row['added_p50_s'] * 1e3:.2f} ms, "
            f"p99 {row['added_p99_s'] * 1e3:.2f} ms, "
            f"CPU gateway/Envoy {row['gateway_cpu_over_envoy_ratio']:.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
