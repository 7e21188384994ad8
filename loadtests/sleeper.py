"""A server of the kit whose model takes its time and no CPU: it sleeps.

So its capacity is known (threads / seconds), and is there however busy the machine is.

    python -m loadtests.sleeper --model NAME=FOLDER --threads 8 --batch-size 1 --here-us 0
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gateway.domain.tensors import DType, Signature, TensorSpec
from servers.kit.main import run
from servers.kit.runtime import Arrays, LoadedModel

_X = TensorSpec("x", DType.FLOAT, (-1, 1))
_Y = TensorSpec("y", DType.FLOAT, (-1, 1))


class Sleeper:
    """`y = x`, after `run_s` for a run of whatever size."""

    batchable = True
    fixed_batch = None

    def __init__(self, run_s: float) -> None:
        self.signatures = {"serving_default": Signature({"x": _X}, {"y": _Y})}
        self._run_s = run_s

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        time.sleep(self._run_s)
        return {"y": inputs["x"]}

    def close(self) -> None: ...


class SleeperRuntime:
    """Loads `sleep.json`: {"run_s": seconds}."""

    platform = "sleep"

    def load(self, directory: Path) -> LoadedModel:
        return Sleeper(json.loads((directory / "sleep.json").read_text())["run_s"])


def write_sleeper(folder: Path, run_s: float) -> Path:
    """A source with version 1."""
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "sleep.json").write_text(json.dumps({"run_s": run_s}))
    return folder


if __name__ == "__main__":
    sys.exit(run(lambda _: SleeperRuntime(), "sleeper"))
