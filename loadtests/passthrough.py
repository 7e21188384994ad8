"""Does the gateway's cost grow with the picture? CPU per request of V2 binary bodies, in one run.

A 150 KB picture (float32[1,3,112,112]) and a request of 12 bytes go through the gateway as V2's
binary form over HTTP to one ONNX replica; rounds are interleaved and the medians count. The goal is
that the large one costs at most 1.2 times the small one, as nothing of it is decoded.

    python -m loadtests.passthrough --rounds 5
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from loadtests.bench import RESULTS, machine
from loadtests.models import write_mlp
from tests.parts.gateway_process import gateway_process

WIDTHS = {"12 B": 3, "150 KB": 3 * 112 * 112}
GOAL_RATIO = 1.2


def main(argv: list[str] | None = None) -> int:
    """Run, print, write JSON; 1 when a tool is missing or the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    if shutil.which("h2load") is None:
        print("h2load is missing: apt-get install nghttp2-client", file=sys.stderr)
        return 1
    took: dict[str, list[float]] = {label: [] for label in WIDTHS}
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as scratch:
        root = Path(scratch)
        with gateway_process(root / "state") as gateway:
            assert gateway.process is not None
            process = psutil.Process(gateway.process.pid)
            shots = {}
            for label, width in WIDTHS.items():
                name = f"w{width}"
                write_mlp(root / name / "1", (width, 1))
                gateway.cli("deploy", "model", name, "--source", str(root / name))
                shots[label] = _shot(root, gateway.http, name, width, args.requests)
            for round_ in range(args.rounds + 1):
                for label, command in shots.items():
                    before = process.cpu_times()
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    after = process.cpu_times()
                    if f"{args.requests} 2xx" not in done.stdout:
                        raise SystemExit(done.stdout)
                    used = after.user + after.system - before.user - before.system
                    if round_:  # the first warms up
                        took[label].append(used / args.requests)
    small, large = (statistics.median(v) for v in took.values())
    ratio = large / small
    result = {**machine(), "cpu_per_request_s": took, "ratio": ratio, "goal_ratio": GOAL_RATIO}
    out = RESULTS / f"passthrough-{result['commit']}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"12 B: {small * 1e6:.0f} µs, 150 KB: {large * 1e6:.0f} µs of CPU, ratio {ratio:.2f}")
    return int(ratio > GOAL_RATIO)


def _shot(root: Path, http: str, name: str, width: int, requests: int) -> list[str]:
    tensor = {
        "name": "x",
        "shape": [1, width],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 4 * width},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = root / f"{name}.bin"
    body.write_bytes(head + bytes(4 * width))
    return [
        *("h2load", "--h1", "-n", str(requests), "-c", "4", "-t", "1", "-d", str(body)),
        *("-H", "content-type: application/octet-stream"),
        *("-H", f"inference-header-content-length: {len(head)}"),
        f"http://{http}/v2/models/{name}/infer",
    ]


if __name__ == "__main__":
    sys.exit(main())
