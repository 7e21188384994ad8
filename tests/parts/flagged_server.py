"""`python -m tests.parts.flagged_server`: the fake server, whose answers say how it was started.

`--adds N`: the answer to zeros is N, whatever version gives it. `--fails-every K`: every K-th
request is refused, in words.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from gateway.codecs.pb import tfs_pb2
from gateway.domain.errors import InvalidRequest
from loadtests.swap import tfs_value
from loadtests.traffic import Shot
from servers.kit.main import run
from tests.parts.fake_runtime import FakeModel, FakeRuntime

REFUSAL = "refused, as its flags say"


def command(adds: int, *, fails_every: int = 0) -> str:
    """The command line of a replica, as `--command` takes it."""
    program = [sys.executable, "-m", "tests.parts.flagged_server", "--adds", str(adds)]
    if fails_every:
        program += ["--fails-every", str(fails_every)]
    program += ["--http", "127.0.0.1:{http_port}", "--grpc", "127.0.0.1:{grpc_port}"]
    return shlex.join(program)


def flagged_shot(model: str) -> Shot:
    """Send zeros. What a sample calls its version is what the replica was started with."""
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["x"]
    tensor.dtype = tfs_pb2.DT_FLOAT
    for size in (1, 2):
        tensor.tensor_shape.dim.add().size = size
    tensor.float_val.extend((0.0, 0.0))

    def from_http(body: bytes, headers: Mapping[str, str]) -> int:
        return round(json.loads(body)["predictions"][0][0])

    def from_grpc(body: bytes) -> int:
        y = tfs_pb2.PredictResponse.FromString(body).outputs["y"]
        first = tfs_pb2.TensorProto(float_val=y.float_val, tensor_content=y.tensor_content[:4])
        return round(tfs_value(first))

    return Shot(
        model, b'{"instances": [[0.0, 0.0]]}', request.SerializeToString(), from_http, from_grpc
    )


class FlaggedModel(FakeModel):
    """y = x * 2 + N."""

    def __init__(self, adds: int, fails_every: int) -> None:
        super().__init__(adds)
        self._fails_every = fails_every
        self._asked = count(1)

    def run(self, signature, inputs, outputs):
        if self._fails_every and next(self._asked) % self._fails_every == 0:
            raise InvalidRequest(REFUSAL, reason="bad_shape")
        return super().run(signature, inputs, outputs)


class FlaggedRuntime(FakeRuntime):
    """Loads what FakeRuntime does."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self._args = args

    def load(self, directory: Path) -> FakeModel:
        super().load(directory)
        return FlaggedModel(self._args.adds, self._args.fails_every)


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adds", type=int, default=0)
    parser.add_argument("--fails-every", type=int, default=0)


if __name__ == "__main__":
    sys.exit(run(FlaggedRuntime, "fake", add_flags=_flags))
