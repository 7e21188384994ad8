"""The models that the wire tables ask: tiny ONNX graphs, each for some rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.parts import tiny_onnx

LABELS = {"affine": {"prod": 1}}
"""Labels that callers may use, on the gateway and on a server."""


def write(root: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Write all; gives folder and versions by name. `affine` has 1 and 2: y = 2x + version."""
    for version in (1, 2):
        tiny_onnx.affine(root / "affine" / str(version), version)
    tiny_onnx.two_in_two_out(root / "two" / "1")
    for name, dtype in (
        ("ints", TensorProto.INT32),
        ("bytes", TensorProto.UINT8),
        ("halves", TensorProto.FLOAT16),
        ("flags", TensorProto.BOOL),
        ("texts", TensorProto.STRING),
        ("doubles", TensorProto.DOUBLE),
    ):
        tiny_onnx.identity(root / name / "1", dtype)
    _encoded(root / "encoded" / "1")
    _total(root / "total" / "1")
    _halved(root / "uneven" / "1")
    names = [p.name for p in root.iterdir() if p.is_dir()]
    return {n: (root / n, (1, 2) if n == "affine" else (1,)) for n in sorted(names)}


def _encoded(directory: Path) -> None:
    """`y_bytes` = x: strings whose alias asks for base64."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y_bytes"])],
        "encoded",
        [tiny_onnx.info("x", TensorProto.STRING, ["N", 2])],
        [tiny_onnx.info("y_bytes", TensorProto.STRING, ["N", 2])],
    )
    tiny_onnx.save(directory, graph)


def _total(directory: Path) -> None:
    """A scalar output, which the row form cannot express."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        "total",
        [tiny_onnx.info("x", TensorProto.FLOAT, ["N", 2])],
        [tiny_onnx.info("y", TensorProto.FLOAT, [])],
    )
    tiny_onnx.save(directory, graph)


def _halved(directory: Path) -> None:
    """Two outputs that disagree on dimension 0: x, and x twice below each other."""
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Concat", ["x", "x"], ["twice"], axis=0),
        ],
        "uneven",
        [tiny_onnx.info("x", TensorProto.FLOAT, ["N", 2])],
        [
            tiny_onnx.info("same", TensorProto.FLOAT, ["N", 2]),
            tiny_onnx.info("twice", TensorProto.FLOAT, ["M", 2]),
        ],
    )
    tiny_onnx.save(directory, graph)


FLOATS = np.array([[1.0, 2.0, 3.0]], np.float32)
"""One row for `affine`; answered [[4, 6, 8]] by version 2."""
