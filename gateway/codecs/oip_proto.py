"""ModelInferRequest and ModelInferResponse to arrays and back.

Tensors are either all in `raw_*_contents`, in order, or each in the typed list of its own
`contents`, where INT8 and INT16 are in `int_contents`, UINT8 and UINT16 in `uint_contents` and FP16
and BF16 nowhere. We write raw contents, as Triton does, and read both. Words of errors are Triton's
(src/grpc/infer_handler.cc).

The functions over bytes leave raw contents where they are (proto_tensors.py); those over messages
are for callers who have one already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

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
    datatype_of,
    datatype_of_array,
    dtype_of,
    strings,
)
from gateway.codecs.pb import oip_pb2
from gateway.codecs.proto_tensors import packed, split, with_fields
from gateway.codecs.proto_walk import Walk, bad
from gateway.codecs.tfs_tensors import dtype_of as dtype_of_array
from gateway.codecs.tfs_tensors import numpy_dtype
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import Version
from gateway.domain.tensors import DType

_RAW_INPUTS = 7
_RAW_ANSWER = "raw_output_contents"
_RAW_OUTPUTS = 6
_FP32_CONTENTS = 6

_LIST_OF: dict[DType, str] = {
    DType.BOOL: "bool_contents",
    DType.INT8: "int_contents",
    DType.INT16: "int_contents",
    DType.INT32: "int_contents",
    DType.INT64: "int64_contents",
    DType.UINT8: "uint_contents",
    DType.UINT16: "uint_contents",
    DType.UINT32: "uint_contents",
    DType.UINT64: "uint64_contents",
    DType.FLOAT: "fp32_contents",
    DType.DOUBLE: "fp64_contents",
    DType.STRING: "bytes_contents",
}
_TYPE_OF_LIST: dict[str, str] = {
    "bool_contents": "BOOL",
    "int_contents": "INT32",
    "int64_contents": "INT64",
    "uint_contents": "UINT32",
    "uint64_contents": "UINT64",
    "fp32_contents": "FP32",
    "fp64_contents": "FP64",
    "bytes_contents": "BYTES",
}

Tensor = oip_pb2.ModelInferRequest.InferInputTensor | oip_pb2.ModelInferResponse.InferOutputTensor


# ---- requests ---------------------------------------------------------------------------


def decode_infer_proto(request: oip_pb2.ModelInferRequest) -> OipInfer:
    """Read a request.

    Raises:
        InvalidRequest: in Triton's words (`bad_tensor`, `bad_shape`, `bad_dtype`,
            `bad_parameter`).
        Unimplemented: a tensor in shared memory.
    """
    return _request(request, list(request.raw_input_contents))


def decode_infer_bytes(body: bytes, *, aligned: bool = True) -> OipInfer:
    """Read a serialized request. Raw contents become views of `body`, read-only; with `aligned`,
    those that lie as the processor wants them, and copies of the others.

    Raises:
        InvalidRequest: also where it is no such message (`bad_message`).
        Unimplemented: as `decode_infer_proto`.
    """
    rest, raw = split(memoryview(body), _RAW_INPUTS, Walk())
    try:
        return _request(oip_pb2.ModelInferRequest.FromString(rest), raw, aligned=aligned)
    except DecodeError as error:
        raise bad(str(error)) from error


def _request(
    request: oip_pb2.ModelInferRequest, raw: Sequence[Buffer], *, aligned: bool = True
) -> OipInfer:
    parameters = parameters_of(request.parameters)
    refuse_reserved(parameters)
    inputs = _tensors(request.inputs, raw, request.model_name, "raw_input_contents", aligned)
    outputs = tuple(_output(one) for one in request.outputs)
    return OipInfer(
        request.id,
        inputs,
        outputs,
        parameters,
        model=request.model_name,
        version=request.model_version,
    )


def _output(output: oip_pb2.ModelInferRequest.InferRequestedOutputTensor) -> OipOutput:
    parameters = parameters_of(output.parameters)
    refuse_shared_memory(parameters, output.name)
    parameters.pop("binary_data", None)  # HTTP's, which clients of both leave in
    classes = parameters.pop("classification", 0)
    if type(classes) is not int:
        raise InvalidRequest(
            "invalid value type for 'classification' parameter, expected int64_param",
            reason="bad_parameter",
        )
    if classes < 0:
        raise InvalidRequest(
            "invalid value for 'classification' parameter, expected >= 0", reason="bad_parameter"
        )
    return OipOutput(output.name, False, classes, parameters)


def parameters_of(entries: Mapping[str, oip_pb2.InferParameter]) -> dict[str, Any]:
    """Parameters as Python values.

    Raises:
        InvalidRequest: one without a value (`bad_parameter`).
    """
    found: dict[str, Any] = {}
    for name in entries:
        which = entries[name].WhichOneof("parameter_choice")
        if which is None:
            raise InvalidRequest(
                f"invalid value type for '{name}' parameter, expected int64_param, bool_param, or "
                "string_param.",
                reason="bad_parameter",
            )
        found[name] = getattr(entries[name], which)
    return found


def fill_parameters(entries: Any, parameters: Parameters) -> None:
    """Write parameters into a message's map.

    Raises:
        InvalidRequest: an integer beyond 64 bits (`bad_parameter`).
    """
    for name, value in parameters.items():
        entry = entries[name]
        match value:
            case bool():
                entry.bool_param = value
            case int() if -(2**63) <= value < 2**63:
                entry.int64_param = value
            case int() if 0 <= value < 2**64:
                entry.uint64_param = value
            case float():
                entry.double_param = value
            case str():
                entry.string_param = value
            case _:
                raise InvalidRequest(
                    f"parameter '{name}' is beyond 64 bits", reason="bad_parameter"
                )


# ---- tensors ----------------------------------------------------------------------------


def _tensors(
    tensors: Sequence[Tensor], raw: Sequence[Buffer], model: str, raw_field: str, aligned: bool
) -> dict[str, NDArray[Any]]:
    # MLServer sends an empty `contents` beside its raw ones. Stock clients take that, so we do.
    is_answer = raw_field == _RAW_ANSWER
    if len(raw) > len(tensors):
        raise InvalidRequest(
            f"unexpected additional input data for model '{model}': {len(raw)} {raw_field} for "
            f"{len(tensors)} tensors",
            reason="bad_tensor",
        )
    found: dict[str, NDArray[Any]] = {}
    for at, one in enumerate(tensors):
        refuse_shared_memory(one.parameters, one.name)
        dtype = dtype_of(one.datatype, one.name)
        shape = checked_shape(one.shape, one.name)
        where = f"'{one.name}' for model '{model}'"
        if raw and one.HasField("contents") and not (is_answer and not one.contents.ByteSize()):
            raise InvalidRequest(
                f"contents field must not be specified when using {raw_field} for {where}",
                reason="bad_tensor",
            )
        if at < len(raw):
            array = array_of(raw[at], dtype, shape, one.name, aligned=aligned)
        elif one.HasField("contents") or (not raw and 0 in shape):
            array = _from_lists(one, dtype, shape, where)
        else:
            raise InvalidRequest(
                f"unable to find data for input tensor {where} in request.", reason="bad_tensor"
            )
        if one.name in found:
            raise InvalidRequest(
                f"input '{one.name}' already exists in request", reason="bad_tensor"
            )
        found[one.name] = array
    return found


def _from_lists(one: Tensor, dtype: DType, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    filled = [field.name for field, _ in one.contents.ListFields()]
    own = _LIST_OF.get(dtype)
    for name in filled:
        if name != own:
            raise InvalidRequest(
                f"unexpected explicit tensor data for input tensor {where} of type "
                f"'{_TYPE_OF_LIST[name]}', expected datatype '{datatype_of(dtype)}'",
                reason="bad_tensor",
            )
    values: Sequence[Any] = getattr(one.contents, own) if own is not None else ()
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidRequest(
            f"input byte size mismatch for input {where}. Expected {count} elements, got "
            f"{len(values)}",
            reason="bad_shape",
        )
    if own is None:
        return np.empty(shape, numpy_dtype(dtype))
    if dtype is DType.STRING:
        return strings(list(values)).reshape(shape)
    if own in ("int_contents", "uint_contents") and dtype.itemsize < 4:
        return _narrowed(values, own, dtype, where).reshape(shape)
    exact = packed(one.contents, _FP32_CONTENTS) if dtype is DType.FLOAT else None
    if exact is not None and len(exact) == count * dtype.itemsize:
        return np.frombuffer(exact, numpy_dtype(dtype)).reshape(shape)
    return np.array(values, numpy_dtype(dtype)).reshape(shape)


def _narrowed(values: Sequence[int], own: str, dtype: DType, where: str) -> NDArray[Any]:
    """32-bit values as fewer bits. Triton cuts the upper ones off in silence; here that is an
    error, because the number would be another."""
    wide = np.array(values, np.int64)
    bounds = np.iinfo(numpy_dtype(dtype))
    if wide.size and (wide.min() < bounds.min or wide.max() > bounds.max):
        raise InvalidRequest(
            f"{own} of input tensor {where} has a value outside of {datatype_of(dtype)}'s range of "
            f"{bounds.min} to {bounds.max}",
            reason="bad_tensor",
        )
    return wide.astype(numpy_dtype(dtype))


# ---- writing ----------------------------------------------------------------------------


def encode_request_bytes(request: OipInfer) -> bytes:
    """A serialized ModelInferRequest with raw contents.

    Raises:
        InvalidRequest: a parameter beyond 64 bits.
        Unimplemented: a dtype that the protocol lacks.
    """
    made = oip_pb2.ModelInferRequest(
        model_name=request.model, model_version=request.version, id=request.id
    )
    fill_parameters(made.parameters, request.parameters)
    raw: list[Buffer] = []
    for name, array in request.inputs.items():
        datatype = datatype_of_array(array, name)
        made.inputs.add(name=name, datatype=datatype, shape=array.shape)
        raw.append(bytes_of(array, dtype_of_array(array)))
    for output in request.outputs:
        one = made.outputs.add(name=output.name)
        fill_parameters(one.parameters, output.parameters)
        if output.classification:
            one.parameters["classification"].int64_param = output.classification
    return b"".join(with_fields(made.SerializeToString(), _RAW_INPUTS, raw))


def encode_infer_proto(
    model: str,
    version: Version | str | None,
    id: str,
    outputs: Mapping[str, NDArray[Any]],
    wanted: Sequence[str] = (),
    parameters: Parameters | None = None,
) -> oip_pb2.ModelInferResponse:
    """An answer with raw contents: the outputs that `wanted` names, or all, as they are given
    (classifying is done before).

    Raises:
        Unimplemented: a dtype that the protocol lacks.
    """
    if wanted:
        outputs = {name: outputs[name] for name in wanted}
    made, raw = _answer(model, version, id, outputs, parameters)
    made.raw_output_contents.extend(bytes(one) for one in raw)
    return made


def encode_infer_bytes(
    model: str,
    version: Version | str | None,
    id: str,
    outputs: Mapping[str, NDArray[Any]],
    wanted: Sequence[str] = (),
    parameters: Parameters | None = None,
) -> bytes:
    """As `encode_infer_proto`, serialized; the tensors are copied once.

    Raises:
        Unimplemented: a dtype that the protocol lacks.
    """
    if wanted:
        outputs = {name: outputs[name] for name in wanted}
    made, raw = _answer(model, version, id, outputs, parameters)
    return b"".join(with_fields(made.SerializeToString(), _RAW_OUTPUTS, raw))


def _answer(
    model: str,
    version: Version | str | None,
    id: str,
    outputs: Mapping[str, NDArray[Any]],
    parameters: Parameters | None,
) -> tuple[oip_pb2.ModelInferResponse, list[Buffer]]:
    shown = "" if version is None else str(version)
    made = oip_pb2.ModelInferResponse(model_name=model, model_version=shown, id=id)
    fill_parameters(made.parameters, parameters or {})
    raw: list[Buffer] = []
    for name, array in outputs.items():
        datatype = datatype_of_array(array, name)
        made.outputs.add(name=name, datatype=datatype, shape=array.shape)
        raw.append(bytes_of(array, dtype_of_array(array)))
    return made, raw


# ---- answers ----------------------------------------------------------------------------


def decode_answer_bytes(body: bytes, *, aligned: bool = True) -> OipAnswer:
    """Read a serialized ModelInferResponse; its tensors as in `decode_infer_bytes`.

    Raises:
        InvalidRequest: it is no such message, or its tensors contradict their shapes.
    """
    rest, raw = split(memoryview(body), _RAW_OUTPUTS, Walk())
    try:
        made = oip_pb2.ModelInferResponse.FromString(rest)
    except DecodeError as error:
        raise bad(str(error)) from error
    return OipAnswer(
        made.model_name,
        made.model_version,
        made.id,
        _tensors(made.outputs, raw, made.model_name, _RAW_ANSWER, aligned),
        parameters_of(made.parameters),
    )
