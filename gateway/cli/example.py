"""A request to try a model with, made from its metadata: zeros of the smallest shape that fits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from gateway.domain.tensors import DEFAULT_SIGNATURE

MAX_CHARS = 160
"""Two lines of a terminal; more is not typed but kept in a file."""

_INTEGERS = {f"DT_{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)}


def example_body(metadata: Mapping[str, Any]) -> str | None:
    """A predict body in column form, or None where none is short enough.

    `metadata` is TensorFlow Serving's REST answer.
    """
    try:
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        signature = signatures.get(DEFAULT_SIGNATURE) or next(iter(signatures.values()))
        inputs = {name: _zeros(info) for name, info in signature["inputs"].items()}
    except (KeyError, TypeError, ValueError, StopIteration):
        return None
    if any(value is None for value in inputs.values()):
        return None
    value = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    body = json.dumps({"inputs": value})
    return body if len(body) <= MAX_CHARS and "'" not in body else None


def _zeros(info: Mapping[str, Any]) -> Any:
    shape = info["tensor_shape"]
    if shape.get("unknown_rank"):
        return None
    sizes = [max(1, int(d["size"])) for d in shape.get("dim", [])]
    if math.prod(sizes) > MAX_CHARS // 2:
        return None
    match info["dtype"]:
        case "DT_FLOAT" | "DT_DOUBLE":
            zero: Any = 0.0
        case "DT_STRING":
            zero = "text"
        case "DT_BOOL":
            zero = False
        case dtype if dtype in _INTEGERS:
            zero = 0
        case _:
            return None
    for size in reversed(sizes):
        zero = [zero] * size
    return zero
