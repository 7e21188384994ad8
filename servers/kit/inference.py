"""Classify and Regress: examples in, classes or values out, over a signature of that method.

The words and the shapes that are accepted are the original's (servables/tensorflow/classifier.cc,
regressor.cc). The examples go serialized into the signature's one input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.codecs.pb import tfs_pb2
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import CLASSIFY_METHOD, REGRESS_METHOD, DType, Signature
from servers.kit.runtime import Arrays

CLASSES = "classes"
SCORES = "scores"
VALUES = "outputs"


def _refuse(message: str, reason: str = "bad_signature") -> InvalidRequest:
    return InvalidRequest(message, reason=reason)


def no_signature(name: str) -> InvalidRequest:
    """The original's words for a signature that is not there, which differ from Predict's."""
    return _refuse(f"No signature was found with the name: {name}", "unknown_signature")


def check_method(signature: Signature, method: str) -> None:
    """Raise InvalidRequest unless the signature is for `method` and has its inputs and outputs."""
    kind = "classification" if method == CLASSIFY_METHOD else "regression"
    if signature.method_name != method:
        raise _refuse(
            f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise _refuse("Expected one input Tensor.")
    spec = next(iter(signature.inputs.values()))
    if spec.dtype is not DType.STRING:
        raise _refuse(f'Expected input "{spec.name}" to be of type string, was {spec.dtype.label}')
    known = {CLASSES, SCORES} if method == CLASSIFY_METHOD else {VALUES}
    if not signature.outputs or not set(signature.outputs) <= known:
        raise _refuse(
            f"Expected {kind} outputs to be among {{{','.join(sorted(known))}}}, "
            f"were {{{','.join(sorted(signature.outputs))}}}"
        )


def examples_input(signature: Signature, examples: Sequence[bytes]) -> Arrays:
    """The one input, one serialized Example per row."""
    if not examples:
        raise _refuse("Input is empty.", "no_examples")
    array = np.empty(len(examples), dtype=object)
    array[:] = examples
    return {next(iter(signature.inputs)): array}


def classification(outputs: Arrays, count: int) -> tfs_pb2.ClassificationResult:
    """One list of classes per example, from `classes` (strings) and `scores` (floats), either of
    which may be missing."""
    labels = _table(outputs.get(CLASSES), CLASSES, count)
    scores = _table(outputs.get(SCORES), SCORES, count)
    if labels is not None and scores is not None and labels.shape != scores.shape:
        raise _refuse(
            f"Tensors class and score should match in dim_size(1). {list(labels.shape)} vs. "
            f"{list(scores.shape)}"
        )
    result = tfs_pb2.ClassificationResult()
    rows_l = labels.tolist() if labels is not None else None
    rows_s = scores.tolist() if scores is not None else None
    for row in range(count):
        one = result.classifications.add()
        width = len(rows_l[row]) if rows_l is not None else len(rows_s[row]) if rows_s else 0
        for column in range(width):
            made = one.classes.add()
            if rows_l is not None:
                label = rows_l[row][column]
                made.label = label.decode("utf-8", "replace") if isinstance(label, bytes) else label
            if rows_s is not None:
                made.score = rows_s[row][column]
    return result


def _table(array: NDArray[np.generic] | None, name: str, count: int) -> NDArray[np.generic] | None:
    if array is None:
        return None
    if array.ndim != 2 or array.shape[0] != count:
        raise _refuse(
            f"Expected Tensor {name} shape: [{count} num_classes], got: {list(array.shape)}"
        )
    return array


def regression(outputs: Arrays, count: int) -> tfs_pb2.RegressionResult:
    """One value per example, from `outputs` of shape [batch] or [batch, 1]."""
    array = outputs[VALUES]
    if array.shape not in ((count,), (count, 1)):
        raise _refuse(
            f"Expected output Tensor shape to be either [{count}] or [{count}, 1] but got "
            f"{list(array.shape)}"
        )
    result = tfs_pb2.RegressionResult()
    for value in array.reshape(count).tolist():
        result.regressions.add().value = value
    return result


__all__ = [
    "CLASSIFY_METHOD",
    "REGRESS_METHOD",
    "check_method",
    "classification",
    "examples_input",
    "no_signature",
    "regression",
]
