"""Make tiny ONNX models for tests. Needs the `onnx` helper package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = int | str | None
FLOAT = TensorProto.FLOAT
_OPSET = 17


def save(
    directory: Path, graph: onnx.GraphProto, name: str = "model.onnx", opset: int = _OPSET
) -> Path:
    """Write a checked model into a version's folder; returns the folder."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(directory / name))
    return directory


def info(name: str, dtype: int, shape: Sequence[Dim]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def const(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def affine(
    directory: Path, version: int, *, scale: float = 2.0, width: int = 3, batch: Dim = "N"
) -> Path:
    """y = x * scale + version, float32 [batch, width]: the answer tells the version."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "version"], ["y"]),
        ],
        "affine",
        [info("x", FLOAT, [batch, width])],
        [info("y", FLOAT, [batch, width])],
        [const("scale", np.float32(scale)), const("version", np.float32(version))],
    )
    return save(directory, graph)


def identity(directory: Path, dtype: int, batch: Dim = "N", width: Dim = 2) -> Path:
    """y = x for any ONNX tensor type."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [info("x", dtype, [batch, width])],
        [info("y", dtype, [batch, width])],
    )
    return save(directory, graph)


def two_in_two_out(directory: Path) -> Path:
    """sum = a + b, difference = a - b, float32 [N, 2]."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        "two",
        [info("a", FLOAT, ["N", 2]), info("b", FLOAT, ["N", 2])],
        [info("sum", FLOAT, ["N", 2]), info("difference", FLOAT, ["N", 2])],
    )
    return save(directory, graph)


def row_mean(directory: Path) -> Path:
    """y = x - mean over axis 0: its rows depend on each other, so they must not be joined."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        "row_mean",
        [info("x", FLOAT, ["N", 2])],
        [info("y", FLOAT, ["N", 2])],
    )
    return save(directory, graph)


def picky(directory: Path) -> Path:
    """y = table[i], int64 [N]: an index beyond 3 fails the whole run that it is in."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "i"], ["y"], axis=0)],
        "picky",
        [info("i", TensorProto.INT64, ["N"])],
        [info("y", FLOAT, ["N"])],
        [const("table", np.array([10, 11, 12, 13], dtype=np.float32))],
    )
    return save(directory, graph)


def fails_warmup(directory: Path) -> Path:
    """Loads; on a row of zeros its reshape to 3 columns of 2 values fails."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "fails_warmup",
        [info("x", FLOAT, ["N", 2])],
        [info("y", FLOAT, ["N", 3])],
        [const("shape", np.array([-1, 3], dtype=np.int64))],
    )
    return save(directory, graph)


def slow(directory: Path, *, rounds: int = 60, size: int = 500) -> Path:
    """y = x after `rounds` products of [size, size] matrices of zeros: some tenths of a second."""
    graph_nodes = [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=1)]
    graph_nodes.append(helper.make_node("Mul", ["zeros", "total"], ["m0"]))
    for step in range(rounds):
        graph_nodes.append(helper.make_node("MatMul", [f"m{step}", "zeros"], [f"m{step + 1}"]))
    graph_nodes.append(helper.make_node("ReduceSum", [f"m{rounds}"], ["nought"], keepdims=0))
    graph_nodes.append(helper.make_node("Add", ["x", "nought"], ["y"]))
    graph = helper.make_graph(
        graph_nodes,
        "slow",
        [info("x", FLOAT, ["N", 1])],
        [info("y", FLOAT, ["N", 1])],
        [const("zeros", np.zeros((size, size), dtype=np.float32))],
    )
    return save(directory, graph)


def large(directory: Path, megabytes: int = 200, *, external: bool = False) -> Path:
    """y = x @ W with a W of so many MB."""
    width = 1024
    columns = megabytes * 1024 * 1024 // 4 // width
    weights = np.random.default_rng(1).standard_normal((width, columns), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [info("x", FLOAT, ["N", width])],
        [info("y", FLOAT, ["N", columns])],
        [const("w", weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(
        model,
        str(directory / "model.onnx"),
        save_as_external_data=external,
        location="weights.bin",
    )
    return directory


def sequence_output(directory: Path) -> Path:
    """An output that is a sequence of tensors, which cannot be served."""
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "sequence",
        [info("x", FLOAT, ["N", 2])],
        [helper.make_tensor_sequence_value_info("y", FLOAT, ["N", 2])],
    )
    return save(directory, graph)


def classifier(directory: Path, weights: np.ndarray) -> Path:
    """probabilities = softmax(x @ weights), float32 [N, classes], and label = their argmax, int64
    [N]."""
    width, classes = weights.shape
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=-1, keepdims=0),
        ],
        "classifier",
        [info("x", FLOAT, ["N", width])],
        [
            info("probabilities", FLOAT, ["N", classes]),
            info("label", TensorProto.INT64, ["N"]),
        ],
        [const("weights", weights.astype(np.float32))],
    )
    return save(directory, graph)
