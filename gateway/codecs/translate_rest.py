"""TensorFlow Serving's REST from the other side: writing its requests, reading its answers.

Requests go in column form, which has any shape, with every string in base64, which has any byte.
Answers name no dtypes, so they are read by the model's signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from gateway.codecs.json_arrays import tensor
from gateway.codecs.json_text import parse_object
from gateway.codecs.json_write import WRITABLE, string_text, tensor_text
from gateway.codecs.tfs_tensors import dtype_of
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec

_B64_NAME = "_bytes"
"""A name whose strings are written in base64."""


def predict_body(inputs: Mapping[str, NDArray[Any]], signature_name: str) -> bytes:
    """The body of a `:predict` request.

    Raises:
        Unimplemented: a dtype has no JSON form here (`not_expressible`).
        InvalidRequest: an empty tensor whose shape JSON cannot say (`not_expressible`).
    """
    members = [string_text(name) + b":" + _text(name, array) for name, array in inputs.items()]
    head = b""
    if signature_name != DEFAULT_SIGNATURE:
        head = b'"signature_name":' + string_text(signature_name) + b","
    return b"{" + head + b'"inputs":{' + b",".join(members) + b"}}"


def _text(name: str, array: NDArray[Any]) -> bytes:
    dtype = dtype_of(array)
    if dtype is not DType.STRING and dtype not in WRITABLE:
        raise Unimplemented(
            f"Input {name} is {dtype.label}, for which TensorFlow Serving's REST, the only "
            "protocol of this model's replicas that can be used, has no form; a server that "
            "speaks gRPC takes it",
            reason="not_expressible",
        )
    # Nested lists end at the first dimension of size 0; what is behind it is lost.
    if 0 in array.shape[:-1]:
        raise InvalidRequest(
            f"Input {name} is empty and of shape {list(array.shape)}, which TensorFlow Serving's "
            "REST, the only protocol of this model's replicas that can be used, cannot say",
            reason="not_expressible",
        )
    return tensor_text(_B64_NAME if dtype is DType.STRING else name, array)


def outputs_of(body: bytes, signature: Signature) -> dict[str, NDArray[Any]]:
    """The outputs in the answer to a request in column form.

    Raises:
        InvalidRequest: no such answer, or a value contradicts the signature.
        Unimplemented: a dtype has no JSON form here.
    """
    document = parse_object(body)
    if "outputs" not in document:
        raise InvalidRequest("the answer has no 'outputs'", reason="bad_json")
    value, specs = document["outputs"], signature.outputs
    if len(specs) == 1:
        [(name, spec)] = specs.items()
        return {name: _array(value, spec)}
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"'outputs' is no object, and the signature has {len(specs)} outputs",
            reason="bad_json",
        )
    return {name: _array(value[name], spec) for name, spec in specs.items() if name in value}


def answer_of(body: bytes, signature: Signature) -> dict[str, NDArray[Any]]:
    """The outputs in an answer to a request in either form; rows become columns.

    Raises:
        InvalidRequest: no such answer, or a value contradicts the signature.
        Unimplemented: a dtype has no JSON form here.
    """
    rows = parse_object(body).get("predictions")
    if not isinstance(rows, list):
        return outputs_of(body, signature)
    specs = signature.outputs
    if len(specs) == 1:
        [(name, spec)] = specs.items()
        return {name: _array(rows, spec)}
    if not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        raise InvalidRequest("the rows of 'predictions' are not alike", reason="bad_json")
    return {
        name: _array([row[name] for row in rows], spec)
        for name, spec in specs.items()
        if rows and name in rows[0]
    }


def _array(value: object, spec: TensorSpec) -> NDArray[Any]:
    array = tensor(value, spec.dtype)
    known = spec.shape
    if array.size == 0 and known is not None and len(known) > array.ndim:
        # What lists cannot say of an empty tensor the signature may.
        rest = known[array.ndim :]
        if -1 not in rest:
            return array.reshape(array.shape + rest)
    return array
