"""Two answers to one request, compared tensor by tensor.

The error of an element is taken in relation to `|a| + scale / 10`, where a is the stable version's
and scale the largest |a| of its tensor: a relative error for what is large in its tensor, and an
absolute one for what is next to nothing there (the tail of a softmax). With a tolerance of 0.01
that is numpy's isclose with rtol 1e-2 and atol 1e-3 x scale. Integers, booleans and strings differ
unless they are equal: they are mostly labels, and label 300 is not nearly 299.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.codecs import oip_json, oip_proto, tfs_predict, translate_rest
from gateway.codecs.json_text import parse_object
from gateway.codecs.translate import Dialect
from gateway.domain.agreement import Difference
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DEFAULT_SIGNATURE, Signature

Array = NDArray[Any]
Outputs = Mapping[str, Array]

_NEAR_ZERO = 0.1
"""Which part of a tensor's scale is added to each element's size."""

_MOST = sys.float_info.max
"""In place of infinity, which JSON cannot say."""


# ---- answers to arrays --------------------


def outputs_of(
    dialect: Dialect,
    body: bytes,
    signatures: Mapping[str, Signature],
    signature_name: str,
    *,
    header_length: int | None,
) -> dict[str, Array]:
    """The outputs of a successful answer. `signatures` are needed for TensorFlow Serving's REST
    only, whose answers do not name dtypes, nor an only output.

    Raises:
        InvalidRequest, Unimplemented: it cannot be read.
    """
    match dialect:
        case Dialect.TFS_REST:
            signature = signatures.get(signature_name)
            if signature is None:
                raise InvalidRequest(
                    f'no signature "{signature_name[:64]}" to read the answer by',
                    reason="unknown_signature",
                )
            return translate_rest.answer_of(body, signature)
        case Dialect.TFS_GRPC:
            return tfs_predict.decode_response(body)[1]
        case Dialect.V2_REST:
            return oip_json.decode_answer(body, header_length, aligned=False).outputs
        case Dialect.V2_GRPC:
            return oip_proto.decode_answer_bytes(body, aligned=False).outputs


def signature_name_of(body: bytes) -> str:
    """The signature that a TensorFlow Serving REST request names.

    Raises:
        InvalidRequest: the body is no JSON object.
    """
    if b'"signature_name"' not in body:
        return DEFAULT_SIGNATURE
    named = parse_object(body).get("signature_name", DEFAULT_SIGNATURE)
    return named if isinstance(named, str) else DEFAULT_SIGNATURE


# ---- arrays to differences --------------------


def differences(stable: Outputs, canary: Outputs, tolerance: float) -> tuple[Difference, ...]:
    """One for each output of either, by name."""
    return tuple(
        _difference(name, stable.get(name), canary.get(name), tolerance)
        for name in sorted({*stable, *canary})
    )


def _difference(name: str, a: Array | None, b: Array | None, tolerance: float) -> Difference:
    if a is None or b is None:
        which = "the canary's answer" if b is None else "the stable version's answer"
        return Difference(name, f"is missing in {which}", differing=1.0)
    if a.shape != b.shape or a.dtype != b.dtype:
        words = f"is {_form(b)} instead of {_form(a)}"
        return Difference(name, words, differing=1.0)
    if a.dtype.kind in "OSU":
        return Difference(name, differing=_by_row(a != b))
    if a.dtype.kind == "b" or not a.size:
        return Difference(name, differing=_by_row(a != b), cosine=None)
    with np.errstate(all="ignore"):
        return _numeric(name, a, b, tolerance)


def _form(array: Array) -> str:
    kind = "string" if array.dtype.kind in "OSU" else array.dtype.name
    return f"{kind}[{','.join(map(str, array.shape))}]"


def _by_row(differs: Any) -> float:
    """The share of rows (axis 0) with anything in them that differs."""
    differs = np.asarray(differs, dtype=bool)
    if not differs.size:
        return 0.0
    if differs.ndim > 1:
        differs = differs.reshape(differs.shape[0], -1).any(axis=1)
    return float(differs.mean())


def _numeric(name: str, a: Array, b: Array, tolerance: float) -> Difference:
    is_exact = a.dtype.kind in "iu"
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    unequal = a != b
    # bfloat16 and its like are of a kind of their own (V), and have no isnan.
    a, b = a.astype(wide), b.astype(wide)
    if not is_exact:
        unequal &= ~(np.isnan(a) & np.isnan(b))
    if not unequal.any():
        return Difference(name, flips=_flips(a, b), cosine=1.0)
    is_finite = np.isfinite(a) & np.isfinite(b)
    flips = None if is_exact else _flips(a, b)
    a, b = np.where(is_finite, a, 0.0), np.where(is_finite, b, 0.0)
    error = np.where(unequal, np.abs(a - b), 0.0)
    scale = float(np.abs(a).max()) or float(np.abs(b).max()) or 1.0
    # Divided first: sums of huge doubles have no room.
    size = np.abs(a / scale) + _NEAR_ZERO
    relative = np.where(unequal, np.abs(a / scale - b / scale) / size, 0.0)
    differs = unequal if is_exact else unequal & (~is_finite | (relative > tolerance))
    return Difference(
        name,
        differing=_by_row(differs),
        flips=flips,
        abs_error=min(float(error.max()), _MOST),
        rel_error=min(float(relative.max()), _MOST),
        cosine=_cosine(a, b),
    )


def _flips(a: Array, b: Array) -> float | None:
    """Along the last axis, where it looks like classes: floats of two axes and two classes at
    least. An exact tie in either is no flip: argmax takes the first by chance."""
    if a.dtype.kind == "c" or a.ndim < 2 or a.shape[-1] < 2 or not a.size:
        return None
    a, b = (np.where(np.isnan(x), -np.inf, x) for x in (a, b))
    of_a, of_b = (np.argmax(x, axis=-1, keepdims=True) for x in (a, b))

    def at(x: Array, index: Array) -> Array:
        return np.take_along_axis(x, index, axis=-1)

    flipped = (at(a, of_b) < at(a, of_a)) & (at(b, of_a) < at(b, of_b))
    return float(flipped.mean())


def _cosine(a: Array, b: Array) -> float | None:
    """Of the two as vectors; None for complex ones."""
    if a.dtype.kind == "c":
        return None
    a, b = a.ravel(), b.ravel()
    # Scaled first, as squares of large doubles have no room.
    most_a, most_b = float(np.abs(a).max()), float(np.abs(b).max())
    if not most_a or not most_b:
        return 1.0 if most_a == most_b else 0.0
    a, b = a / most_a, b / most_b
    product = float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
    return max(-1.0, min(1.0, product))
