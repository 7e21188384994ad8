"""A model server whose versions behave as their folders say: slow, failing or wrong now and then.

`<version>/mood.json` is `{"delay_s": 0.002, "failing_ratio": 0.02, "wrong_ratio": 0.0}`. It answers
`y`, `x + version`, and the `scores` of three classes, which all versions have the same of, but for
the share of answers that is wrong. On the kit of the real servers, so that everything but the model
is what people run.

    python -m loadtests.moody --http 127.0.0.1:0 --grpc 127.0.0.1:0 --model NAME=DIR
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np

from gateway.domain.errors import Internal, InvalidRequest
from gateway.domain.tensors import DType, Signature, TensorSpec
from servers.kit.main import run
from servers.kit.runtime import Arrays

_SIGNATURE = Signature(
    {"x": TensorSpec("x", DType.FLOAT, (-1, 1))},
    {
        "y": TensorSpec("y", DType.FLOAT, (-1, 1)),
        "scores": TensorSpec("scores", DType.FLOAT, (-1, 3)),
    },
)
_SCORES = np.array([0.2, 0.7, 0.1], np.float32)


class MoodyModel:
    """One version."""

    signatures: Mapping[str, Signature] = {"serving_default": _SIGNATURE}
    batchable = False
    fixed_batch: int | None = None

    def __init__(
        self, version: int, delay_s: float, failing_ratio: float, wrong_ratio: float
    ) -> None:
        self._version = version
        self._delay_s = delay_s
        self._failing_ratio = failing_ratio
        self._wrong_ratio = wrong_ratio
        self._rng = Random()
        self._runs = 0

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Wait, and answer or fail. The first runs are the kit's own warm-up and go well."""
        self._runs += 1
        time.sleep(self._delay_s * self._rng.uniform(0.7, 1.3))
        if self._runs > 10 and self._rng.random() < self._failing_ratio:
            raise Internal("it is not in the mood", reason="moody")
        x = inputs["x"]
        scores = np.tile(_SCORES, (len(x), 1))
        if self._rng.random() < self._wrong_ratio:
            scores = scores[:, ::-1] + np.float32([[0.8, 0.0, 0.0]])
        return {"y": x + np.float32(self._version), "scores": scores}

    def close(self) -> None:
        """Nothing is held."""


class MoodyRuntime:
    """servers.kit.Runtime."""

    platform = "moody"

    def load(self, directory: Path) -> MoodyModel:
        """Read the mood."""
        try:
            told = json.loads((directory / "mood.json").read_text())
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"no mood.json: {error}", reason="bad_model") from error
        return MoodyModel(
            int(directory.name), told["delay_s"], told["failing_ratio"], told["wrong_ratio"]
        )


def write(
    directory: Path, *, delay_s: float, failing_ratio: float = 0.0, wrong_ratio: float = 0.0
) -> None:
    """A version's folder."""
    directory.mkdir(parents=True, exist_ok=True)
    mood = {"delay_s": delay_s, "failing_ratio": failing_ratio, "wrong_ratio": wrong_ratio}
    (directory / "mood.json").write_text(json.dumps(mood))


if __name__ == "__main__":
    sys.exit(run(lambda args: MoodyRuntime(), "moody", sys.argv[1:]))
