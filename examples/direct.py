"""The frameworks called directly, with no server in between: what the demo compares answers with.

    python -m examples.direct tensorflow DIR INPUTS.npz OUTPUTS.npz

TensorFlow runs in a process of its own: its import costs seconds and hundreds of MB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


def onnx(directory: Path, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
    """Every output of `model.onnx`, by name."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    session = onnxruntime.InferenceSession(
        directory / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def caffe(directory: Path, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
    """Every unconnected output of the net."""
    import cv2

    net = cv2.dnn.readNetFromCaffe(
        str(next(directory.glob("*.prototxt"))), str(next(directory.glob("*.caffemodel")))
    )
    for name, value in inputs.items():
        net.setInput(value, name)
    names = net.getUnconnectedOutLayersNames()
    return dict(zip(names, net.forward(names), strict=True))


def tensorflow(directory: Path, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
    """Every output of the SavedModel's `serving_default`, from a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        given, wanted = Path(scratch) / "in.npz", Path(scratch) / "out.npz"
        np.savez(given, **inputs)
        subprocess.run(
            [sys.executable, "-m", "examples.direct", "tensorflow", directory, given, wanted],
            check=True,
            capture_output=True,
        )
        with np.load(wanted) as answers:
            return dict(answers)


def _tensorflow_here(directory: str, given: str, wanted: str) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], directory)
        signature = meta.signature_def["serving_default"]
        fetches = {alias: info.name for alias, info in signature.outputs.items()}
        with np.load(given) as inputs:
            feeds = {signature.inputs[alias].name: value for alias, value in inputs.items()}
        np.savez(wanted, **session.run(fetches, feeds))


if __name__ == "__main__":
    _tensorflow_here(*sys.argv[2:5])
