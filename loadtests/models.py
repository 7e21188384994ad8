"""Small ONNX models that benches and scenarios make for themselves."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_mlp(directory: Path, sizes: tuple[int, ...] = (784, 128, 10)) -> None:
    """A dense network with ReLU between its layers: `x` float32[batch, sizes[0]] → `y`.

    784-128-10 is the classic digit classifier's shape; the weights are random but fixed.
    """
    rng = np.random.default_rng(7)
    nodes, weights, last = [], [], "x"
    for i, (width, height) in enumerate(itertools.pairwise(sizes)):
        matrix = (rng.standard_normal((width, height)) / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{i}"))
        out = "y" if i == len(sizes) - 2 else f"h{i}"
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [out]))
        last = out
        if out != "y":
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
            last = f"r{i}"
    _save(directory, nodes, weights, ("x", ["batch", sizes[0]]), ("y", ["batch", sizes[-1]]))


def write_adder(directory: Path, addend: float) -> None:
    """`y = x + addend`, float32[batch, 1]: an answer that says which version gave it."""
    constant = numpy_helper.from_array(np.array([addend], dtype=np.float32), "addend")
    nodes = [helper.make_node("Add", ["x", "addend"], ["y"])]
    _save(directory, nodes, [constant], ("x", ["batch", 1]), ("y", ["batch", 1]))


def write_heavy_adder(directory: Path, addend: float, megabytes: int) -> None:
    """As `write_adder`, with so many megabytes of weights that every run goes through."""
    width, layers = 4096, max(1, megabytes * 10**6 // (4 * 4096 * 4096))
    rng = np.random.default_rng(7)
    first, last = np.ones((1, width), np.float32), np.zeros((width, 1), np.float32)
    weights = [
        numpy_helper.from_array(np.array([addend], dtype=np.float32), "addend"),
        numpy_helper.from_array(first, "first"),
        numpy_helper.from_array(last, "last"),
    ]
    nodes, before = [helper.make_node("MatMul", ["x", "first"], ["h"])], "h"
    for i in range(layers):
        matrix = rng.standard_normal((width, width), dtype=np.float32) / np.float32(width)
        weights.append(numpy_helper.from_array(matrix, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [before, f"w{i}"], [f"h{i}"]))
        before = f"h{i}"
    nodes.append(helper.make_node("MatMul", [before, "last"], ["nothing"]))
    nodes.append(helper.make_node("Add", ["x", "addend"], ["sum"]))
    nodes.append(helper.make_node("Add", ["sum", "nothing"], ["y"]))
    _save(directory, nodes, weights, ("x", ["batch", 1]), ("y", ["batch", 1]))


def _save(
    directory: Path,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    x: tuple[str, list[str | int]],
    y: tuple[str, list[str | int]],
) -> None:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(x[0], TensorProto.FLOAT, x[1])],
        [helper.make_tensor_value_info(y[0], TensorProto.FLOAT, y[1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "model.onnx")
