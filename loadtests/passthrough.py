"""Does the gateway's cost grow with the picture? CPU per request of V2 binary bodies, in one run.

A 150 KB picture (float32[1,3,112,112]) and a request of 12 bytes go through the gateway as V2's
binary form over HTTP to one ONNX replica; rounds are interleaved and a ratio is taken within its
round. The goal is that the large one costs at most 1.2 times the small one, as nothing of it is
decoded.

    python -m loadtests.passthrough --rounds 5
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

from loadtests import h2load
from loadtests.echoes import SERVE_FLAGS
from loadtests.h2load import Request, WrongAnswers
from loadtests.models import write_mlp
from loadtests.processes import gateway_alone
from loadtests.scenario import Settings, run_alone
from loadtests.summary import Line, Outcome, Spread, ratios, table
from tests.parts.gateway_process import gateway_process

SMALL, LARGE = "12 B", "150 KB"
WIDTHS = {SMALL: 3, LARGE: 3 * 112 * 112}
GOAL_RATIO = 1.2
REQUESTS = 3000


def measure(settings: Settings) -> Outcome:
    """Run all rounds."""
    root = settings.scratch / "passthrough"
    cpu_s: dict[str, list[float]] = {label: [] for label in WIDTHS}
    with gateway_process(root / "state", *SERVE_FLAGS) as gateway:
        family, requests = gateway_alone(gateway), {}
        for label, width in WIDTHS.items():
            name = f"w{width}"
            write_mlp(root / name / "1", (width, 1))
            gateway.cli("deploy", "model", name, "--source", str(root / name))
            requests[label] = _compared(gateway.http, _request(root, name, width))
        cases, count = list(WIDTHS), settings.scaled(REQUESTS)
        for round_, label in settings.interleaved("passthrough", cases, str, warm_up=True):
            before = family.cpu_s()
            h2load.run(gateway.http, requests[label], count)
            if round_:
                cpu_s[label].append((family.cpu_s() - before) / count)
    what = f"V2 over HTTP, {LARGE} beside {SMALL}: CPU per request"
    line = Line(what, f"× {SMALL}", ratios(cpu_s[LARGE], cpu_s[SMALL]), GOAL_RATIO)
    rows = [
        {"payload": label, "cpu_per_request_s": Spread.of(rounds).median, "cpu_rounds_s": rounds}
        for label, rounds in cpu_s.items()
    ]
    return Outcome("passthrough", [line], rows, {"load": "h2load, 4 connections"})


def _request(root: Path, name: str, width: int) -> Request:
    tensor = {
        "name": "x",
        "shape": [1, width],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 4 * width},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = root / f"{name}.bin"
    body.write_bytes(head + bytes(4 * width))
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(head)),
    }
    return Request(f"/v2/models/{name}/infer", body, headers=headers)


def _compared(address: str, request: Request) -> Request:
    """The request with the length of its answers; exits where zeros do not give zero."""
    ask = urllib.request.Request(f"http://{address}{request.path}", request.body.read_bytes())
    for name, value in request.headers.items():
        ask.add_header(name, value)
    with urllib.request.urlopen(ask, timeout=30) as answer:
        body = answer.read()
    if body[-4:] != bytes(4):
        raise WrongAnswers(f"{request.path} answers {body!r}")
    return replace(request, answer_bytes=len(body))


def show(outcome: Outcome) -> str:
    """The rows as text."""
    rows = ((r["payload"], f"{r['cpu_per_request_s'] * 1e6:.0f}") for r in outcome.rows)
    return table(("payload", "CPU µs"), rows)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON; 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    return run_alone(parser, argv, measure, show, ("h2load",))


if __name__ == "__main__":
    sys.exit(main())
