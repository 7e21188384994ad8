"""Replicas that answer at once, deployed as a program of one's own, and all ways to them.

The Go program `echo` stands where a very fast model server would, so that a bench shows what is in
front of it. The gateway deploys it as any custom backend, two replicas of it, and probes and routes
as always; Envoy stands before the same two; the direct way leads to the first of them.
"""

from __future__ import annotations

import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from gateway.codecs.pb import tfs_pb2
from loadtests.envoy import envoy
from loadtests.golang import program
from loadtests.h2load import Request, WrongAnswers
from loadtests.processes import NOBODY, Family, gateway_alone, with_children
from loadtests.traffic import PREDICT
from tests.parts.gateway_process import GatewayProcess

SERVE_FLAGS = ("--settle-s", "0")
"""A version without a manifest is taken as it is found: these are written whole beforehand."""

REPLICAS = 2
"""The fewest between which there is a choice."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the replicas: `host:port` of both protocols, and whose CPU time it costs."""

    name: str
    http: str
    grpc: str
    family: Family


def deploy_echo(gateway: GatewayProcess, model: str, scratch: Path, floats: int = 10) -> None:
    """Have `model` answer every prediction with one row of so many floats."""
    folder = scratch / model
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "answer.json").write_text(json_answer(floats))
    (folder / "1" / "answer.pb").write_bytes(grpc_answer(model, floats))
    command = [
        *(str(program("echo")), "--http", "127.0.0.1:{http_port}"),
        *("--grpc", "127.0.0.1:{grpc_port}"),
        *("--http-answer", str(folder / "1" / "answer.json")),
        *("--grpc-answer", str(folder / "1" / "answer.pb")),
    ]
    gateway.cli(
        *("deploy", "model", model, "--source", str(folder), "--backend", "custom"),
        *("--command", shlex.join(command), "--replicas", str(REPLICAS), "--timeout", "60"),
    )


@contextmanager
def ways(
    gateway: GatewayProcess, model: str, scratch: Path, answer_floats: int = 10
) -> Iterator[list[Way]]:
    """Direct, through the gateway, and through Envoy, until the block ends. Each was seen to give
    the right answer by both protocols."""
    replicas = [r for r in gateway.get("replicas", model) if r["state"] == "ready"]
    if len(replicas) != REPLICAS:
        raise SystemExit(f"{len(replicas)} of {REPLICAS} replicas of {model} are ready")
    http, rpc_at = ([r[k] for r in replicas] for k in ("endpoint", "grpc_endpoint"))
    with envoy(model, http, rpc_at, scratch) as proxy:
        found = [
            Way("direct", http[0], rpc_at[0], NOBODY),
            Way("gateway", gateway.http, gateway.grpc, gateway_alone(gateway)),
            Way("envoy", proxy.http, proxy.grpc, with_children(proxy.pid)),
        ]
        rest, rpc = http_request(model, 3, scratch), grpc_request(model, 9, scratch)
        wanted = json_answer(answer_floats).encode(), grpc_answer(model, answer_floats)
        for way in found:
            got = _ask_http(way.http, rest), _ask_grpc(way.grpc, rpc)
            for protocol, one, other in zip(("HTTP", "gRPC"), got, wanted, strict=True):
                if one != other:
                    raise WrongAnswers(f"{way.name} answers {one[:200]!r}… over {protocol}")
        yield found


def _ask_http(address: str, request: Request) -> bytes:
    ask = urllib.request.Request(f"http://{address}{request.path}", request.body.read_bytes())
    ask.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(ask, timeout=30) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise WrongAnswers(f"{request.path}: {error} {error.read(500)!r}") from error


def _ask_grpc(address: str, request: Request) -> bytes:
    unlimited = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, unlimited) as channel:
        call = channel.unary_unary(request.path)
        try:
            return bytes(call(request.body.read_bytes()[5:], timeout=30))
        except grpc.RpcError as error:
            raise WrongAnswers(f"{request.path}: {error}") from error


def http_request(model: str, floats: int, scratch: Path, answer_floats: int = 10) -> Request:
    """`:predict` of one row."""
    row = [0.1, 0.2, 0.35] if floats == 3 else [round(i / floats, 4) for i in range(floats)]
    body = scratch / f"{model}-{floats}.json"
    body.write_text(json.dumps({"instances": [row]}, separators=(",", ":")))
    answer_bytes = len(json_answer(answer_floats))
    return Request(f"/v1/models/{model}:predict", body, answer_bytes=answer_bytes)


def grpc_request(model: str, floats: int, scratch: Path, answer_floats: int = 10) -> Request:
    """Predict of one row in `tensor_content`, as clients of numpy arrays send it."""
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default"
    _fill(request.inputs["x"], floats)
    body = scratch / f"{model}-{floats}.grpc"
    body.write_bytes(framed(request.SerializeToString()))
    answer_bytes = 5 + len(grpc_answer(model, answer_floats))
    return Request(PREDICT, body, is_grpc=True, answer_bytes=answer_bytes)


def json_answer(floats: int) -> str:
    """What TensorFlow Serving would answer, pretty-printed as it does."""
    row = ", ".join(f"{i / floats:.4f}" for i in range(floats))
    return f'{{\n    "predictions": [[{row}]\n    ]\n}}'


def grpc_answer(model: str, floats: int) -> bytes:
    """A PredictResponse of version 1."""
    answer = tfs_pb2.PredictResponse()
    answer.model_spec.name = model
    answer.model_spec.version.value = 1
    answer.model_spec.signature_name = "serving_default"
    _fill(answer.outputs["y"], floats)
    return bytes(answer.SerializeToString())


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _fill(tensor: tfs_pb2.TensorProto, floats: int) -> None:
    tensor.dtype = tfs_pb2.DT_FLOAT
    for size in (1, floats):
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = (np.arange(floats, dtype=np.float32) / floats).tobytes()
