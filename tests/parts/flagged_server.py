"""`python -m tests.parts.flagged_server`: the fake server, whose answers say how it was started.

`--adds N`: the answer to 0 is N, whatever version gives it. `--fails-every K`: every K-th
request is refused, in words.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

from gateway.codecs.pb import tfs_pb2
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import Signature
from loadtests.swap import adder_shot, tfs_value
from loadtests.traffic import Shot
from servers.kit.main import run
from tests.parts.fake_runtime import FakeModel, FakeRuntime, spec

REFUSAL = "refused, as its flags say"


def command(adds: int, *, fails_every: int = 0) -> str:
    """The command line of a replica, as `--command` takes it."""
    program = [sys.executable, "-m", "tests.parts.flagged_server", "--adds", str(adds)]
    if fails_every:
        program += ["--fails-every", str(fails_every)]
    program += ["--http", "127.0.0.1:{http_port}", "--grpc", "127.0.0.1:{grpc_port}"]
    return shlex.join(program)


def flagged_shot(model: str) -> Shot:
    """Send zero. What a sample calls its version is what the replica was started with."""

    def from_http(body: bytes, headers: Mapping[str, str]) -> int:
        return round(json.loads(body)["predictions"][0][0])

    def from_grpc(body: bytes) -> int:
        return round(tfs_value(tfs_pb2.PredictResponse.FromString(body).outputs["y"]))

    return replace(adder_shot(model), http_version=from_http, grpc_version=from_grpc)


class FlaggedModel(FakeModel):
    """y = x * 2 + N, float32[batch, 1]."""

    def __init__(self, adds: int, fails_every: int) -> None:
        super().__init__(adds)
        column = (-1, 1)
        predict = Signature({"x": spec("x", shape=column)}, {"y": spec("y", shape=column)})
        self.signatures = {"serving_default": predict}
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
