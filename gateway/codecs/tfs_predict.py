"""Serialized PredictRequest and PredictResponse to arrays and back, the tensors' bytes uncopied.

For translation, where every copy of a large tensor counts (proto_tensors.py). Tensors that are not
in `tensor_content` go through protobuf as everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from gateway.codecs.oip_tensors import Buffer, bytes_of
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.proto_tensors import field_head, split
from gateway.codecs.proto_walk import BYTES, Walk, bad, text
from gateway.codecs.tfs_dtypes import PROTO_ENUM
from gateway.codecs.tfs_tensors import dtype_of, to_array, to_proto
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DType

M = TypeVar("M", bound=Message)

_INPUTS = 2
_OUTPUTS = 1
_CONTENT = 4

_TENSOR_FIELDS = 64
"""Fields looked at to find a tensor's content. One that has more carries its elements otherwise."""


def decode_request(body: bytes) -> tuple[tfs_pb2.PredictRequest, dict[str, NDArray[Any]]]:
    """The request without its inputs, and those.

    Raises:
        InvalidRequest: no such message (`bad_message`), or a tensor contradicts its shape.
        Unimplemented: a dtype that we do not carry.
    """
    return _decode(tfs_pb2.PredictRequest, body, _INPUTS)


def decode_response(body: bytes) -> tuple[tfs_pb2.PredictResponse, dict[str, NDArray[Any]]]:
    """The answer without its outputs, and those; raises as `decode_request`."""
    return _decode(tfs_pb2.PredictResponse, body, _OUTPUTS)


def encode_request(rest: tfs_pb2.PredictRequest, inputs: Mapping[str, NDArray[Any]]) -> bytes:
    """`rest` with these inputs, serialized."""
    return _encode(rest, _INPUTS, inputs)


def encode_response(rest: tfs_pb2.PredictResponse, outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """`rest` with these outputs, serialized."""
    return _encode(rest, _OUTPUTS, outputs)


def _decode(kind: type[M], body: bytes, number: int) -> tuple[M, dict[str, NDArray[Any]]]:
    walk = Walk()
    small, entries = split(memoryview(body), number, walk)
    rest = _parsed(kind, small)
    tensors: dict[str, memoryview] = {}  # of a key that occurs twice the last counts
    for entry in entries:
        name, values = "", []
        for field, wire, _, _, value in walk.fields(entry):
            if wire != BYTES or not isinstance(value, memoryview):
                continue
            if field == 1:
                name = text(value, "a tensor's name")
            elif field == 2:
                values.append(value)
        # A message that occurs more than once is the merge of them, which is what parsing them as
        # one makes of it.
        merged = values[0] if len(values) == 1 else memoryview(b"".join(values))
        tensors[name] = merged
    return rest, {name: _tensor(value) for name, value in tensors.items()}


def _tensor(value: memoryview) -> NDArray[Any]:
    try:
        small, contents = split(value, _CONTENT, Walk(_TENSOR_FIELDS))
    except InvalidRequest:
        # Many fields, or none that make sense: for protobuf to say which.
        return to_array(_parsed(tfs_pb2.TensorProto, bytes(value)))
    proto = _parsed(tfs_pb2.TensorProto, small)
    return to_array(proto, contents[-1] if contents else b"")


def _parsed(kind: type[M], data: bytes) -> M:
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise bad(str(error)) from error
    return message


def _encode(rest: Message, number: int, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    pieces: list[Buffer] = [rest.SerializeToString()]
    for name, array in arrays.items():
        tensor = _tensor_pieces(array)
        size = sum(map(len, tensor))
        key = name.encode()
        entry = [field_head(1, len(key)), key, field_head(2, size)]
        pieces.append(field_head(number, sum(map(len, entry)) + size))
        pieces += entry
        pieces += tensor
    return b"".join(pieces)


def _tensor_pieces(array: NDArray[Any]) -> list[Buffer]:
    dtype = dtype_of(array)
    if dtype is DType.STRING:
        return [to_proto(array).SerializeToString()]
    proto = tfs_pb2.TensorProto(dtype=PROTO_ENUM[dtype])  # type: ignore[arg-type]
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    data = bytes_of(array, dtype)
    return [proto.SerializeToString(), field_head(_CONTENT, len(data)), data]
