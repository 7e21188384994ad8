"""A runtime without a framework: what it does is written in the version's folder."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np

from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import (
    CLASSIFY_METHOD,
    REGRESS_METHOD,
    DType,
    Signature,
    TensorSpec,
)


def spec(name: str, dtype: DType = DType.FLOAT, shape: tuple[int, ...] | None = (-1, 2)):
    return TensorSpec(name, dtype, shape)


PREDICT = Signature({"x": spec("x")}, {"y": spec("y")})
CLASSIFY = Signature(
    {"examples": spec("examples", DType.STRING, (-1,))},
    {"classes": spec("classes", DType.STRING), "scores": spec("scores")},
    CLASSIFY_METHOD,
)
REGRESS = Signature(
    {"examples": spec("examples", DType.STRING, (-1,))},
    {"outputs": spec("outputs", shape=(-1, 1))},
    REGRESS_METHOD,
)


class FakeModel:
    """y = x * 2 + version. A row that holds `bad` fails its whole run; `gate` holds runs."""

    bad = -777.0

    def __init__(self, version: int = 0, fixed_batch: int | None = None, batchable: bool = True):
        self.version = version
        self.signatures = {"serving_default": PREDICT, "classify": CLASSIFY, "regress": REGRESS}
        self.batchable = batchable and fixed_batch is None
        self.fixed_batch = fixed_batch
        self.runs: list[int] = []
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    def run(self, signature, inputs, outputs):
        assert not self.closed, "run after close"
        assert self.gate.wait(20)
        if signature != "serving_default":
            return self._examples(signature, inputs["examples"])
        x = inputs["x"]
        self.runs.append(len(x))
        if self.fixed_batch is not None:
            assert len(x) == self.fixed_batch
        if np.any(x == self.bad):
            raise InvalidRequest("a bad row", reason="bad_shape")
        return {"y": x * 2 + np.float32(self.version)}

    def _examples(self, signature, examples):
        count = len(examples)
        if signature == "regress":
            return {"outputs": np.float32([[len(e)] for e in examples]).reshape(count, 1)}
        labels = np.empty((count, 2), dtype=object)
        labels[:] = [b"cat", b"dog"]
        return {"classes": labels, "scores": np.tile(np.float32([0.25, 0.75]), (count, 1))}

    def close(self):
        self.closed = True


class FakeRuntime:
    """Loads `fake.json`: {"fail": words} keeps a version out, {"fixed_batch": k} fixes it."""

    platform = "fake"

    def __init__(self):
        self.models: dict[int, FakeModel] = {}
        self.loads = 0
        self.gate = threading.Event()
        self.gate.set()

    def load(self, directory: Path) -> FakeModel:
        self.loads += 1
        assert self.gate.wait(20)
        path = directory / "fake.json"
        if not path.is_file():
            raise InvalidRequest(f"no fake.json in {directory.name}", reason="bad_model")
        told = json.loads(path.read_text())
        if "fail" in told:
            raise InvalidRequest(told["fail"], reason="bad_model")
        if "crash" in told:
            raise ZeroDivisionError(told["crash"])
        version = int(directory.name)
        self.models[version] = FakeModel(version, told.get("fixed_batch"))
        return self.models[version]


def write(folder: Path, version: int, **told) -> Path:
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    (folder / str(version) / "fake.json").write_text(json.dumps(told))
    return folder
