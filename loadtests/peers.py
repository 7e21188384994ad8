"""Gateway and ONNX server together beside Triton, MLServer and KServe, with the same model.

A dense network 784-128-10, one row, by REST (V2 JSON) and gRPC (V2, raw tensors). First every
server's answer is compared with onnxruntime's own. CPU is the user and system time of all their
processes, children too; for ours that is the gateway with its replica. Rounds are interleaved.

    python -m loadtests.peers --install     only make the peers' virtual environments
    python -m loadtests.peers --rounds 5
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from loadtests import h2load, peer_servers
from loadtests.echoes import SERVE_FLAGS, framed
from loadtests.h2load import Request, Run, WrongAnswers
from loadtests.models import write_mlp
from loadtests.peer_servers import MODEL
from loadtests.processes import NOBODY, Family, gateway_alone, with_children
from loadtests.progress import steps
from loadtests.scenario import Settings, run_alone
from loadtests.summary import Line, Outcome, Spread, ratios, table
from tests.parts.gateway_process import gateway_process

OURS = "gateway + ONNX"
TRITON_GOAL = 0.5
PYTHON_GOAL = 3.0
PROTOCOLS = ("REST", "gRPC")
AT_ONCE = (4, 16)
"""Requests under way. Servers that join requests to batches gain by more of them."""
REQUESTS = {"mlserver": 1200, "kserve": 1200}
"""In each round; of the faster ones, 4000."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs, with what to send to it."""

    title: str
    addresses: Mapping[str, str]
    requests: Mapping[str, Request]
    family: Family
    requests_in_a_round: int
    front: Family = NOBODY
    """The part of the family that is the gateway."""


@dataclass(slots=True)
class Measured:
    """All rounds of one server and protocol."""

    runs: list[Run] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    front_cpu_s: list[float] = field(default_factory=list)
    """What the gateway has of it."""
    rss_bytes: int = 0


def measure(settings: Settings) -> Outcome:
    """Start them all, compare their answers, run all rounds."""
    root = settings.scratch / "peers"
    write_mlp(root / MODEL / "1")
    model = root / MODEL / "1" / "model.onnx"
    peer_servers.install_all()
    with ExitStack() as stack:
        servers = _started(stack, model, root)
        found = {(s.title, p, n): Measured() for n in AT_ONCE for p in PROTOCOLS for s in servers}
        by_title = {s.title: s for s in servers}
        for round_, case in settings.interleaved("peers", list(found), _label, warm_up=True):
            title, protocol, at_once = case
            server = by_title[title]
            count = settings.scaled(server.requests_in_a_round)
            _shoot(server, protocol, at_once, count, found[case], is_warm_up=round_ == 0)
    facts = {
        "model": "MLP 784-128-10, float32, one row; onnxruntime with one thread everywhere",
        "load": "h2load, one thread, a connection for each request under way",
        "triton": "its python backend; as it comes, and with dynamic batching",
        "mlserver": "a custom runtime in the server's process (parallel_workers 0)",
        "kserve": "a custom model, one worker",
        "requests_per_s": "of the whole machine; ours are two processes, MLServer and KServe one",
    }
    return Outcome("peers", _lines(found), _rows(found), facts)


def _started(stack: ExitStack, model: Path, root: Path) -> list[Server]:
    """All servers, ours first, each seen to answer what onnxruntime answers by itself."""
    x = np.linspace(0, 1, 784, dtype=np.float32).round(4).reshape(1, 784)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    expected = session.run(["y"], {"x": x})[0]
    servers = []
    with steps("peers", 1 + len(peer_servers.ALL)) as progress:
        progress.next("starting and comparing", OURS)
        servers.append(_compared(stack.enter_context(_ours(root, x)), x, expected))
        for peer in peer_servers.ALL:
            progress.next("starting and comparing", peer.title)
            started = stack.enter_context(peer_servers.running(peer, model, root / "others"))
            addresses = {"REST": started.http, "gRPC": started.grpc}
            asks, count = _requests(root, peer.name, x), REQUESTS.get(peer.name, 4000)
            family = with_children(started.pid)
            server = Server(peer.title, addresses, asks, family, count)
            servers.append(_compared(server, x, expected))
    return servers


def _label(case: tuple[str, str, int]) -> str:
    title, protocol, at_once = case
    return f"{title} by {protocol}, {at_once} at once"


@contextmanager
def _ours(root: Path, x: Array) -> Iterator[Server]:
    with gateway_process(root / "state", *SERVE_FLAGS) as gateway:
        assert gateway.process is not None
        gateway.cli("deploy", "model", MODEL, "--source", str(root / MODEL), "--cpu", "1")
        addresses = {"REST": gateway.http, "gRPC": gateway.grpc}
        family, front = with_children(gateway.process.pid), gateway_alone(gateway)
        yield Server(OURS, addresses, _requests(root, "ours", x), family, 4000, front)


def _requests(root: Path, name: str, x: Array) -> dict[str, Request]:
    tensor = {"name": "x", "shape": [1, 784], "datatype": "FP32", "data": x[0].tolist()}
    tensor["data"] = [round(float(v), 4) for v in x[0]]
    rest = root / f"{name}.json"
    rest.write_text(json.dumps({"id": "1", "inputs": [tensor]}))
    rpc = root / f"{name}.grpc"
    rpc.write_bytes(framed(_infer(x)))
    return {
        "REST": Request(f"/v2/models/{MODEL}/infer", rest),
        "gRPC": Request(OipMethod.MODEL_INFER.path, rpc, is_grpc=True),
    }


def _infer(x: Array) -> bytes:
    request = oip_pb2.ModelInferRequest(model_name=MODEL, id="1")
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    return bytes(request.SerializeToString())


def _compared(server: Server, x: Array, expected: Array) -> Server:
    """The server, with the length that its answers have; exits where one is not the model's."""
    try:
        rest, size = _ask_rest(server.addresses["REST"], server.requests["REST"])
    except urllib.error.HTTPError as error:
        raise WrongAnswers(f"{server.title}: {error} {error.read(500)!r}") from error
    rpc, rpc_size = _ask_grpc(server.addresses["gRPC"], x)
    for protocol, y in (("REST", rest), ("gRPC", rpc)):
        if y.shape != expected.shape or not np.allclose(y, expected, rtol=1e-4, atol=1e-6):
            raise WrongAnswers(f"{server.title} answers {y} over {protocol}, not {expected}")
    sizes = {"REST": size, "gRPC": rpc_size}
    # Numbers as text have other last digits when rows were joined to a batch.
    slack = {"REST": 0.05, "gRPC": 0.0}
    requests = {
        p: replace(r, answer_bytes=sizes[p], answer_slack=slack[p])
        for p, r in server.requests.items()
    }
    return replace(server, requests=requests)


def _ask_rest(address: str, request: Request) -> tuple[Array, int]:
    url = f"http://{address}{request.path}"
    ask = urllib.request.Request(url, data=request.body.read_bytes())
    ask.add_header("content-type", "application/json")
    with urllib.request.urlopen(ask, timeout=30) as answer:
        body = answer.read()
    [output] = json.loads(body)["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"]), len(body)


def _ask_grpc(address: str, x: Array) -> tuple[Array, int]:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(OipMethod.MODEL_INFER.path)
        body = call(_infer(x), timeout=30)
    answer = oip_pb2.ModelInferResponse.FromString(body)
    [output] = answer.outputs
    if answer.raw_output_contents:
        y = np.frombuffer(answer.raw_output_contents[0], np.float32)
    else:
        y = np.array(output.contents.fp32_contents, np.float32)
    return y.reshape(tuple(output.shape)), 5 + len(body)


def _shoot(
    server: Server, protocol: str, at_once: int, count: int, into: Measured, *, is_warm_up: bool
) -> None:
    if is_warm_up:
        count = max(16, count // 4)
    front, before = server.front.cpu_s(), server.family.cpu_s()
    address = server.addresses[protocol]
    run = h2load.run(address, server.requests[protocol], count, at_once, streams=1)
    used, front_used = server.family.cpu_s() - before, server.front.cpu_s() - front
    if is_warm_up:
        return
    into.runs.append(run)
    into.cpu_s.append(used / count)
    into.front_cpu_s.append(front_used / count)
    into.rss_bytes = max(into.rss_bytes, server.family.rss_bytes())


Found = Mapping[tuple[str, str, int], Measured]


def _lines(found: Found) -> list[Line]:
    lines = []
    for (title, protocol, at_once), theirs in found.items():
        ours = found[OURS, protocol, at_once]
        if title == OURS:
            continue
        what = f"with ONNX server, MLP by {protocol}, {at_once} at once"
        cpu = ratios(ours.cpu_s, theirs.cpu_s)
        if title.startswith("Triton"):
            lines.append(Line(f"{what}: CPU per request", f"× {title}", cpu, TRITON_GOAL))
        else:
            speed = ratios([r.per_s for r in ours.runs], [r.per_s for r in theirs.runs])
            unit, note = f"× {title}", f"CPU per request {cpu.shown()} × its"
            lines.append(
                Line(f"{what}: requests/s", unit, speed, PYTHON_GOAL, at_most=False, note=note)
            )
    return lines


def _rows(found: Found) -> list[dict[str, Any]]:
    rows = []
    for (title, protocol, at_once), one in found.items():
        cpu = Spread.of(one.cpu_s)
        rows.append(
            {
                "server": title,
                "protocol": protocol,
                "at_once": at_once,
                "requests_per_s": Spread.of(r.per_s for r in one.runs).median,
                "p50_s": Spread.of(r.p50_s for r in one.runs).median,
                "p99_s": Spread.of(r.p99_s for r in one.runs).median,
                "cpu_per_request_s": cpu.median,
                "cpu_spread_s": [cpu.least, cpu.most],
                "gateway_cpu_per_request_s": Spread.of(one.front_cpu_s).median,
                "rss_bytes": one.rss_bytes,
                "cpu_rounds_s": one.cpu_s,
                "per_s_rounds": [r.per_s for r in one.runs],
            }
        )
    return rows


def show(outcome: Outcome) -> str:
    """The rows as text."""
    header = ("server", "protocol", "at once", "req/s", "p50 ms", "p99 ms", "CPU µs", "RSS MB", "")
    return table(
        header,
        (
            (
                row["server"],
                row["protocol"],
                str(row["at_once"]),
                f"{row['requests_per_s']:.0f}",
                f"{row['p50_s'] * 1e3:.2f}",
                f"{row['p99_s'] * 1e3:.2f}",
                f"{row['cpu_per_request_s'] * 1e6:.0f}",
                f"{row['rss_bytes'] / 1e6:.0f}",
                _of_it(row["gateway_cpu_per_request_s"]),
            )
            for row in outcome.rows
        ),
    )


def _of_it(gateway_cpu_s: float) -> str:
    return f"of the CPU, the gateway {gateway_cpu_s * 1e6:.0f}" if gateway_cpu_s else ""


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--install", action="store_true", help="only install the peers")
    if "--install" in (sys.argv[1:] if argv is None else argv):
        peer_servers.install_all()
        return 0
    return run_alone(parser, argv, measure, show, ("h2load",))


if __name__ == "__main__":
    sys.exit(main())
