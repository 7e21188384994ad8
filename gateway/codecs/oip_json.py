"""V2 inference over HTTP: requests and answers, in JSON and in JSON with tensors' bytes behind it.

A body is one JSON document; tensors that say `binary_data_size` have their bytes behind it, in
order (extension_binary_data.md). The words of errors and the order of the checks are Triton's
(src/http_server.cc). Each function works in both directions' place: servers decode requests and
encode answers, callers (the client, and translation towards a V2 replica) the other two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from numpy.typing import NDArray

from gateway.codecs.json_text import has_words
from gateway.codecs.oip_data import (
    array_of_data,
    bad_json,
    boolean,
    checked_text,
    data_text,
    list_of,
    parse_document,
    records_of,
    text_of,
    unsigned,
)
from gateway.codecs.oip_headers import header_length as checked_header_length
from gateway.codecs.oip_infer import (
    OipAnswer,
    OipInfer,
    OipOutput,
    Parameters,
    refuse_reserved,
    refuse_shared_memory,
)
from gateway.codecs.oip_tensors import (
    Buffer,
    array_of,
    bytes_of,
    checked_shape,
    datatype_of_array,
    dtype_of,
    strings,
)
from gateway.codecs.tfs_tensors import dtype_of as dtype_of_array
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import Version
from gateway.domain.tensors import DType, Signature, TensorSpec

__all__ = [
    "OipAnswer",
    "OipInfer",
    "OipOutput",
    "decode_answer",
    "decode_infer",
    "encode_infer",
    "encode_request",
]

_ONLY_ONE = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But"
)
_OF_TENSORS = frozenset({"binary_data_size", "binary_data", "classification"})


# ---- requests ---------------------------------------------------------------------------


def decode_infer(
    body: bytes,
    header_length: int | None = None,
    signature: Signature | None = None,
    *,
    aligned: bool = True,
) -> OipInfer:
    """Read an infer request. `header_length` is what Inference-Header-Content-Length said, None
    where it was not sent; 0 makes the whole body the single input of `signature`.

    Tensors that came as bytes are views of `body`, read-only; with `aligned`, those that lie as the
    processor wants them, and copies of the others.

    Raises:
        InvalidRequest: in Triton's words (`bad_header_length`, `bad_json`, `bad_shape`,
            `bad_dtype`, `bad_tensor`, `bad_parameter`).
        Unimplemented: a tensor in shared memory.
    """
    if header_length is not None:
        checked_header_length(str(header_length), len(body))
    if header_length == 0:
        return _raw_request(body, signature)
    document, tail, may_have_bools = _parts(body, header_length, aligned)
    parameters = _parameters(document)
    refuse_reserved(parameters)
    binary_output = False
    if "binary_data_output" in parameters:
        binary_output = boolean(parameters.pop("binary_data_output"), "binary_data_output")
    inputs: dict[str, NDArray[Any]] = {}
    for record in records_of(document, "inputs"):
        name, array = _tensor(record, tail, may_have_bools)
        if name in inputs:
            raise bad_json(f"input '{name}' already exists in request")
        inputs[name] = array
    tail.finish()
    outputs: list[OipOutput] = []
    if "outputs" in document:
        outputs = [_output(one, binary_output) for one in records_of(document, "outputs")]
    return OipInfer(
        _id(document),
        inputs,
        tuple(outputs),
        _checked_parameters(parameters),
        binary_output,
    )


class _Tail:
    """The tensors' bytes behind the JSON, taken off one after the other."""

    def __init__(self, view: memoryview, aligned: bool) -> None:
        self.aligned = aligned
        self._view = view
        self._at = 0

    def take(self, size: int, name: str) -> memoryview:
        missing = size - (len(self._view) - self._at)
        if missing > 0:
            raise InvalidRequest(
                f"unexpected size for input '{name}', expecting {missing} additional bytes",
                reason="bad_tensor",
            )
        self._at += size
        return self._view[self._at - size : self._at]

    def finish(self) -> None:
        if self._at != len(self._view):
            raise InvalidRequest(
                f"unexpected additional input data: {len(self._view) - self._at} bytes are behind "
                "the last tensor",
                reason="bad_tensor",
            )


def _parts(
    body: bytes, header_length: int | None, aligned: bool
) -> tuple[dict[str, Any], _Tail, bool]:
    """The document, what is behind it, and whether there may be a true or a false in it."""
    view = memoryview(body)
    size = len(body) if header_length is None else header_length
    json_part = body if size == len(body) else bytes(view[:size])
    return parse_document(json_part), _Tail(view[size:], aligned), has_words(json_part)


def _id(document: Mapping[str, Any]) -> str:
    return checked_text(document["id"], "id") if "id" in document else ""


def _parameters(record: Mapping[str, Any]) -> dict[str, Any]:
    parameters = record.get("parameters")
    if parameters is None:  # null, too: KServe's clients and servers write their empty fields
        return {}
    if not isinstance(parameters, dict):
        raise bad_json("Unable to parse 'parameters': attempt to access JSON non-object as object")
    return dict(parameters)


def _checked_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    for name, value in parameters.items():
        checked_text(name, "parameters")
        if isinstance(value, str):
            checked_text(value, name)
        elif not isinstance(value, bool | int | float):
            raise InvalidRequest(
                f"parameter '{name}' has invalid type. It should be either 'int', 'bool', "
                "'string', or 'double'.",
                reason="bad_parameter",
            )
    return parameters


def _tensor(
    record: Mapping[str, Any], tail: _Tail, may_have_bools: bool
) -> tuple[str, NDArray[Any]]:
    """One tensor of a request or an answer, from its list or from the bytes behind the JSON."""
    parameters = _parameters(record)
    given = [
        word
        for word, is_set in (
            ("'data'", "data" in record),
            ("'binary_data_size'", "binary_data_size" in parameters),
            ("'shared_memory_region'", "shared_memory_region" in parameters),
        )
        if is_set
    ]
    if len(given) != 1:
        raise bad_json(f"{_ONLY_ONE} {'set ' + ' '.join(given) if given else 'no field is set'}")
    name = text_of(record, "name")
    refuse_shared_memory(parameters, name)
    dtype = dtype_of(text_of(record, "datatype"), name)
    sizes = [unsigned(size, "shape") for size in list_of(record, "shape")]
    shape = checked_shape(sizes, name)
    if "data" in record:
        data = list_of(record, "data")
        return name, array_of_data(data, dtype, shape, name, may_have_bools=may_have_bools)
    size = unsigned(parameters["binary_data_size"], "binary_data_size")
    return name, array_of(tail.take(size, name), dtype, shape, name, aligned=tail.aligned)


def _output(record: Mapping[str, Any], binary_output: bool) -> OipOutput:
    name = text_of(record, "name")
    parameters = _parameters(record)
    refuse_shared_memory(parameters, name)
    binary = binary_output
    if "binary_data" in parameters:
        binary = boolean(parameters["binary_data"], "binary_data")
    classes = unsigned(parameters.get("classification", 0), "classification")
    rest = {key: value for key, value in parameters.items() if key not in _OF_TENSORS}
    return OipOutput(name, binary, classes, _checked_parameters(rest))


def _raw_request(body: bytes, signature: Signature | None) -> OipInfer:
    """The whole body as the single input, its shape from the signature; every output as bytes."""
    specs = list(signature.inputs.values()) if signature is not None else []
    if len(specs) != 1:
        raise InvalidRequest(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(specs)} "
            "inputs in the model's signature",
            reason="bad_shape",
        )
    [spec] = specs
    if spec.dtype is DType.STRING:
        if any(size not in (1, -1) for size in spec.shape or ()):
            raise InvalidRequest(
                f"For BYTE datatype raw input '{spec.name}', the model must have input shape [1]",
                reason="bad_shape",
            )
        array = strings([body]).reshape((1,) * len(spec.shape if spec.shape is not None else (1,)))
    else:
        array = array_of(body, spec.dtype, _raw_shape(spec, len(body)), spec.name)
    return OipInfer("", {spec.name: array}, binary_output=True)


def _raw_shape(spec: TensorSpec, size: int) -> tuple[int, ...]:
    """The shape that `size` bytes can only have. A first dimension that varies is the batch: 1
    where another varies too, else as many rows as came."""
    shape = list(spec.shape if spec.shape is not None else (-1,))
    varying = [at for at, length in enumerate(shape) if length == -1]
    if len(varying) == 2 and varying[0] == 0:
        shape[0] = 1
        varying = varying[1:]
    if len(varying) > 1:
        raise InvalidRequest(
            f"The shape of the raw input '{spec.name}' can not be deduced because there are more "
            "than one variable-sized dimension",
            reason="bad_shape",
        )
    if varying:
        shape[varying[0]] = 1
        one = math.prod(shape) * spec.dtype.itemsize
        shape[varying[0]] = size // one if one else 0
    return tuple(shape)


def encode_request(request: OipInfer, *, binary: bool = True) -> tuple[int | None, bytes]:
    """The body that asks a V2 server for this: JSON's length (None where there is nothing behind
    it) and the whole. With `binary`, tensors go as bytes and all outputs are asked for as such.

    Raises:
        InvalidRequest: without `binary`, FP16 or BF16.
        Unimplemented: a dtype that the protocol lacks.
    """
    document: dict[str, Any] = {}
    if request.id:
        document["id"] = request.id
    parameters = dict(request.parameters)
    if binary:
        parameters["binary_data_output"] = True
    if parameters:
        document["parameters"] = _parameters_record(parameters)
    tails: list[Buffer] = []
    document["inputs"] = [
        _tensor_record(name, array, binary, tails) for name, array in request.inputs.items()
    ]
    if request.outputs:
        document["outputs"] = [_output_record(one, binary) for one in request.outputs]
    return _joined(document, tails, is_binary=binary)


def _output_record(output: OipOutput, binary: bool) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        **_parameters_record(output.parameters),
        "binary_data": binary,
    }
    if output.classification:
        parameters["classification"] = output.classification
    return {"name": output.name, "parameters": parameters}


# ---- answers ----------------------------------------------------------------------------


def encode_infer(
    model: str,
    version: Version | str | None,
    id: str,
    outputs: Mapping[str, NDArray[Any]],
    wanted: OipInfer | None = None,
    parameters: Parameters | None = None,
) -> tuple[int | None, bytes]:
    """An answer: JSON's length, None where nothing is behind it, and the whole body. `wanted`, the
    request, says which outputs come as bytes; without it all come as JSON. Outputs are answered as
    they are given: choosing and classifying is done before.

    Raises:
        InvalidRequest: FP16 or BF16 that is not asked for as bytes (`dtype_without_json`).
        Unimplemented: a dtype that the protocol lacks.
    """
    document: dict[str, Any] = {}
    if id:
        document["id"] = id
    document["model_name"] = model
    if version is not None and version != "":
        document["model_version"] = str(version)
    if parameters:
        document["parameters"] = _parameters_record(parameters)
    default = wanted.binary_output if wanted is not None else False
    chosen = {one.name: one.binary for one in wanted.outputs} if wanted is not None else {}
    tails: list[Buffer] = []
    is_binary = False
    records = []
    for name, array in outputs.items():
        binary = chosen.get(name, default)
        is_binary = is_binary or binary
        records.append(_tensor_record(name, array, binary, tails))
    document["outputs"] = records
    return _joined(document, tails, is_binary=is_binary)


def _tensor_record(
    name: str, array: NDArray[Any], binary: bool, tails: list[Buffer]
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": name,
        "datatype": datatype_of_array(array, name),
        "shape": list(array.shape),
    }
    if binary:
        tails.append(bytes_of(array, dtype_of_array(array)))
        record["parameters"] = {"binary_data_size": len(tails[-1])}
    else:
        record["data"] = orjson.Fragment(data_text(array, name))
    return record


def _parameters_record(parameters: Parameters) -> dict[str, Any]:
    """Parameters as orjson writes them right: it would make null of what is not finite."""
    return {
        name: orjson.Fragment(json.dumps(value))
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for name, value in parameters.items()
    }


def _joined(
    document: dict[str, Any], tails: Sequence[Buffer], *, is_binary: bool
) -> tuple[int | None, bytes]:
    head = orjson.dumps(document)
    if not is_binary:
        return None, head
    return len(head), b"".join((head, *tails))


def decode_answer(
    body: bytes, header_length: int | None = None, *, aligned: bool = True
) -> OipAnswer:
    """Read an infer answer; its tensors as in `decode_infer`.

    Raises:
        InvalidRequest: it is no such answer (`bad_json`, `bad_shape`, `bad_tensor`, `bad_dtype`).
    """
    document, tail, may_have_bools = _parts(body, header_length, aligned)
    outputs = dict(
        _tensor(record, tail, may_have_bools) for record in records_of(document, "outputs")
    )
    tail.finish()
    version = document.get("model_version", "")
    return OipAnswer(
        checked_text(document.get("model_name", ""), "model_name"),
        version if isinstance(version, str) else str(version),
        # MLServer makes an id up, others answer null where none was sent.
        checked_text(document.get("id") or "", "id"),
        outputs,
        {k: v for k, v in _parameters(document).items() if isinstance(v, bool | int | float | str)},
    )
