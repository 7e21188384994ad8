"""Tiny SavedModels, written with TF 1's builder as TensorFlow Serving's own test models are."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.parts.need import need

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def tensorflow() -> Any:
    """The module, or a skip. Its import warns about its own dependencies."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
    except ImportError:
        need(False, "pip install -e '.[tensorflow]'")
    tf.get_logger().setLevel("ERROR")
    return tf


def save(directory: Path, build: Callable[[Any], dict[str, Any]]) -> Path:
    """Write the graph that `build(tf)` makes, with the signatures it returns, to `directory`."""
    tf = tensorflow()
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        signatures = build(tf)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.builder.SavedModelBuilder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
    return directory


def half_plus_two(directory: Path, *, plus: float = 2.0) -> Path:
    """y = x / 2 + `plus`: predict, classify and regress, as in TensorFlow Serving's testdata."""

    def build(tf: Any) -> dict[str, Any]:
        v1 = tf.compat.v1
        a, b = v1.Variable(0.5, name="a"), v1.Variable(plus, name="b")
        examples = v1.placeholder(tf.string, [None], name="tf_example")
        features = {"x": v1.FixedLenFeature([1], tf.float32)}
        parsed = v1.parse_example(examples, features)["x"]
        x = v1.placeholder(tf.float32, [None], name="x")
        y = tf.add(a * x, b, name="y")
        scores = tf.add(a * parsed, b, name="scores")
        classes = tf.fill(tf.shape(scores), "half", name="classes")
        build_def, info = v1.saved_model.build_signature_def, v1.saved_model.build_tensor_info
        return {
            "serving_default": build_def({"x": info(x)}, {"y": info(y)}, PREDICT),
            "regress_x_to_y": build_def(
                {"inputs": info(examples)}, {"outputs": info(scores)}, REGRESS
            ),
            "classify_x_to_y": build_def(
                {"inputs": info(examples)},
                {"classes": info(classes), "scores": info(scores)},
                CLASSIFY,
            ),
        }

    return save(directory, build)


def adder(directory: Path, addend: float) -> Path:
    """`y = x + addend`, float32[batch, 1], as loadtests.models.write_adder makes it for ONNX."""

    def build(tf: Any) -> dict[str, Any]:
        v1 = tf.compat.v1
        x = v1.placeholder(tf.float32, [None, 1], name="x")
        y = tf.add(x, v1.Variable(addend, name="addend"), name="y")
        info = v1.saved_model.build_tensor_info
        made = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y)}, PREDICT)
        return {"serving_default": made}

    return save(directory, build)


def mixed(directory: Path) -> Path:
    """Several signatures over strings, unknown ranks, fixed shapes and a default."""

    def build(tf: Any) -> dict[str, Any]:
        v1 = tf.compat.v1
        build_def, info = v1.saved_model.build_signature_def, v1.saved_model.build_tensor_info
        words = v1.placeholder(tf.string, [None, 2], name="words")
        joined = tf.strings.reduce_join(words, axis=1, separator="-")
        anything = v1.placeholder(tf.int64, None, name="anything")
        matrix = v1.placeholder(tf.float32, [2, 2], name="matrix")
        rows = v1.placeholder(tf.float32, [None, None], name="rows")
        ready = v1.placeholder(tf.bfloat16, [None], name="brain")
        scaled = build_def(
            {"rows": info(rows), "factor": info(v1.placeholder(tf.float32, [], name="factor"))},
            {
                "scaled": info(
                    rows * tf.identity(v1.get_default_graph().get_tensor_by_name("factor:0"))
                )
            },
            PREDICT,
        )
        scaled.defaults["factor"].CopyFrom(tf.make_tensor_proto(3.0, tf.float32))
        return {
            "join": build_def({"words": info(words)}, {"joined": info(joined)}, PREDICT),
            "twice": build_def({"n": info(anything)}, {"n2": info(anything * 2)}, PREDICT),
            "square": build_def(
                {"m": info(matrix)}, {"mm": info(tf.matmul(matrix, matrix))}, PREDICT
            ),
            "self_product": build_def(
                {"r": info(rows)}, {"rr": info(tf.matmul(rows, rows))}, PREDICT
            ),
            "brain": build_def({"b": info(ready)}, {"b2": info(ready + ready)}, PREDICT),
            "scale": scaled,
        }

    return save(directory, build)


PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
