"""JSON Schema of tensors, in TensorFlow Serving's REST and in V2's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.codecs.example_values import FLOATS, concrete, count, flat
from gateway.codecs.oip_dtypes import BINARY_ONLY, shown_datatype
from gateway.domain.tensors import DType, TensorSpec

Object = dict[str, Any]

MAX_EXAMPLE = 256
"""Elements of an example at most; an image's thousands would bury what is to be shown."""

_COUNTS = {"type": "object", "additionalProperties": True}
TFS_STATUS: Object = {
    "type": "object",
    "required": ["model_version_status"],
    "properties": {
        "model_version_status": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["version", "state", "status"],
                "properties": {
                    "version": {"type": "string"},
                    "state": {
                        "type": "string",
                        "enum": ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"],
                    },
                    "status": _COUNTS,
                },
            },
        }
    },
}
TFS_METADATA: Object = {
    "type": "object",
    "required": ["model_spec", "metadata"],
    "properties": {"model_spec": _COUNTS, "metadata": _COUNTS},
}
_V2_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
    },
}
V2_METADATA: Object = {
    "type": "object",
    "required": ["name", "inputs", "outputs"],
    "properties": {
        "name": {"type": "string"},
        "versions": {"type": "array", "items": {"type": "string"}},
        "platform": {"type": "string"},
        "inputs": {"type": "array", "items": _V2_TENSOR},
        "outputs": {"type": "array", "items": _V2_TENSOR},
    },
}


def is_short(specs: Mapping[str, TensorSpec]) -> bool:
    """Whether an example of all of these can be read by people."""
    return sum(count(s) for s in specs.values()) <= MAX_EXAMPLE


def element(dtype: DType) -> Object:
    """One element."""
    if dtype in FLOATS:
        return {"type": "number"}
    if dtype is DType.BOOL:
        return {"type": "boolean"}
    if dtype is DType.STRING:
        return {"type": "string"}
    bits = dtype.itemsize * 8
    low, high = (
        (0, 2**bits - 1) if dtype.label[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )
    return {"type": "integer", "minimum": low, "maximum": high}


def _arrays(shape: Sequence[int], inner: Object) -> Object:
    """`inner` in arrays of a shape; -1 is any length."""
    for size in reversed(shape):
        inner = {"type": "array", "items": inner}
        if size >= 0:
            inner |= {"minItems": size, "maxItems": size}
    return inner


# ---- TensorFlow Serving --------------------

_B64 = {
    "type": "object",
    "required": ["b64"],
    "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
    "additionalProperties": False,
}


def tfs_tensors(specs: Mapping[str, TensorSpec], *, row: bool) -> Object | None:
    """What `inputs`, `outputs` (or with `row` `instances`, `predictions`) hold; None where one of
    the tensors cannot be written so. A tensor alone may go without its name."""
    made = {n: _tfs_tensor(s, row=row) for n, s in specs.items()}
    if not made or any(one is None for one in made.values()):
        return None
    named: Object = {"type": "object", "required": list(made), "properties": made}
    one = named if len(made) > 1 else {"anyOf": [next(iter(made.values())), named]}
    return {"type": "array", "items": one, "minItems": 1} if row else one


def _tfs_tensor(spec: TensorSpec, *, row: bool) -> Object | None:
    if spec.dtype in BINARY_ONLY or spec.dtype in (DType.COMPLEX64, DType.COMPLEX128):
        return None
    inner = element(spec.dtype)
    if spec.dtype is DType.STRING:
        inner = {"anyOf": [inner, _B64]}
    words = {"description": f"{spec.dtype.label}{shape_text(spec)}"}
    if spec.shape is None:
        return words
    if not row:
        return _arrays(spec.shape, inner) | words
    if not spec.shape or spec.shape[0] >= 0:
        return None  # no batch to cut into rows
    return _arrays(spec.shape[1:], inner) | words


def shape_text(spec: TensorSpec) -> str:
    """`[-1, 3]`; `[…]` where not even the rank is known."""
    return "[…]" if spec.shape is None else str(list(spec.shape))


# ---- V2 --------------------


def v2_tensors(specs: Mapping[str, TensorSpec], *, answered: bool = False) -> Object:
    """What `inputs` holds, or `outputs` of an answer: which may be fewer than there are."""
    made: Object = {"type": "array", "maxItems": len(specs)}
    if specs:
        made["items"] = {"anyOf": [_v2_tensor(s) for s in specs.values()]}
    return made if answered else made | {"minItems": len(specs)}


def _v2_tensor(spec: TensorSpec) -> Object:
    shape: Object = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    if spec.shape is not None:
        rank = len(spec.shape)
        shape |= {"minItems": rank, "maxItems": rank}
        # Which dimension it is that is fixed would take prefixItems, which many tools cannot read.
        if fixed := [{"contains": {"const": d}} for d in spec.shape if d >= 0]:
            shape["allOf"] = fixed
    properties = {
        "name": {"type": "string", "const": spec.name},
        "datatype": {"type": "string", "const": shown_datatype(spec.dtype)},
        "shape": shape,
        "parameters": {"type": "object"},
        "data": {"type": "array", "description": "Row-major, flat or nested."},
    }
    if spec.dtype in BINARY_ONLY:
        del properties["data"]
    return {
        "type": "object",
        "description": f"{spec.dtype.label}{shape_text(spec)}",
        "required": ["name", "datatype", "shape"],
        "properties": properties,
    }


def v2_wanted(names: Sequence[str]) -> Object:
    """Which outputs are wanted; left out, all."""
    return {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"enum": list(names)}, "parameters": {"type": "object"}},
        },
    }


def v2_example(spec: TensorSpec) -> Object:
    """One input, flat."""
    shape = list(concrete(spec.shape))
    datatype = shown_datatype(spec.dtype)
    return {"name": spec.name, "shape": shape, "datatype": datatype, "data": flat(spec)}
