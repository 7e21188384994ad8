"""TensorProto to numpy and back.

A TensorProto carries its elements either as little-endian bytes (`tensor_content`) or in the typed
list that its dtype names (`*_val`), where fewer values than the shape has elements mean: the last
one again and again, and none at all mean zeros (tensorflow/core/framework/tensor.proto). We send
bytes for everything of fixed size and read all forms.

Strings are object arrays of `bytes`; half is float16, bfloat16 is `ml_dtypes.bfloat16`.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.proto_tensors import packed
from gateway.codecs.tfs_dtypes import PROTO_ENUM, dtype_of_enum
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.tensors import DType

__all__ = ["PROTO_ENUM", "dtype_of", "numpy_dtype", "to_array", "to_proto"]

MAX_RANK = 32
"""Dimensions of a tensor. numpy 1.26 stops here, and no model comes near it."""

MAX_REPEATED_BYTES = 64 << 20
"""How large a tensor may become by the repetition rule. Without a bound a message of 20 bytes could
claim the whole memory; a tensor whose elements are all in the message is bounded by the message."""

_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.BOOL: np.dtype(np.bool_),
    DType.INT8: np.dtype(np.int8),
    DType.INT16: np.dtype("<i2"),
    DType.INT32: np.dtype("<i4"),
    DType.INT64: np.dtype("<i8"),
    DType.UINT8: np.dtype(np.uint8),
    DType.UINT16: np.dtype("<u2"),
    DType.UINT32: np.dtype("<u4"),
    DType.UINT64: np.dtype("<u8"),
    DType.HALF: np.dtype("<f2"),
    DType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    DType.FLOAT: np.dtype("<f4"),
    DType.DOUBLE: np.dtype("<f8"),
    DType.COMPLEX64: np.dtype("<c8"),
    DType.COMPLEX128: np.dtype("<c16"),
    DType.STRING: np.dtype(object),
}
_DTYPE = {dtype: ours for ours, dtype in _NUMPY.items()}

_VALUES = {
    DType.BOOL: "bool_val",
    DType.INT8: "int_val",
    DType.INT16: "int_val",
    DType.INT32: "int_val",
    DType.INT64: "int64_val",
    DType.UINT8: "int_val",
    DType.UINT16: "int_val",
    DType.UINT32: "uint32_val",
    DType.UINT64: "uint64_val",
    DType.HALF: "half_val",
    DType.BFLOAT16: "half_val",
    DType.FLOAT: "float_val",
    DType.DOUBLE: "double_val",
    DType.COMPLEX64: "scomplex_val",
    DType.COMPLEX128: "dcomplex_val",
    DType.STRING: "string_val",
}
"""The typed list of each dtype. Halves are there as their 16 bits, complex numbers as pairs."""

_FLOAT_LISTS = {DType.FLOAT: 5, DType.COMPLEX64: 9}
"""Lists of single-precision values: float_val and scomplex_val."""


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """The numpy dtype that carries `dtype`; `object` for strings."""
    return _NUMPY[dtype]


def dtype_of(array: NDArray[Any]) -> DType:
    """Which dtype an array carries; `object`, `S` and `U` arrays are strings.

    Raises:
        Unimplemented: dates, records, float8 and the like (`dtype_unknown`).
    """
    if array.dtype.kind in "OSU":
        return DType.STRING
    found = _DTYPE.get(array.dtype.newbyteorder("<"))
    if found is None:
        raise Unimplemented(
            f"Arrays of {array.dtype} have no tensor type; convert them first",
            reason="dtype_unknown",
        )
    return found


# ---- array from proto -----------------------------------------------------------


def to_array(proto: tfs_pb2.TensorProto, content: bytes | memoryview | None = None) -> NDArray[Any]:
    """The elements of `proto`, row-major. `content` stands in for its `tensor_content`, for who
    has that without a copy; the array is then aligned only if `content` is. Arrays read from either
    are read-only.

    Raises:
        InvalidRequest: shape and elements contradict each other, a value does not fit its dtype, or
            the claimed shape is beyond what the message can mean (`bad_shape`, `bad_tensor`).
        Unimplemented: a dtype that we do not carry.
    """
    dtype = dtype_of_enum(proto.dtype)
    shape = _shape(proto.tensor_shape)
    count = math.prod(shape)
    if content is None:
        content = proto.tensor_content
    if len(content):
        flat = _from_content(dtype, content, count, shape)
    else:
        flat = _from_values(dtype, proto, count, shape)
    try:
        return flat.reshape(shape)
    except (
        ValueError
    ) as error:  # e.g. (0, 2**62, 2**62): no elements, yet more than numpy can index
        raise _bad_shape(f"A tensor of shape {_show(shape)} is too large") from error


def _shape(proto: tfs_pb2.TensorShapeProto) -> tuple[int, ...]:
    if proto.unknown_rank:
        raise _bad_shape("A tensor must have a shape; this one has unknown_rank")
    if len(proto.dim) > MAX_RANK:
        raise _bad_shape(f"A tensor has {len(proto.dim)} dimensions; the limit is {MAX_RANK}")
    shape = tuple(dim.size for dim in proto.dim)
    if any(size < 0 for size in shape):
        raise _bad_shape(f"A tensor has the negative size {min(shape)} in shape {_show(shape)}")
    return shape


def _from_content(
    dtype: DType, content: bytes | memoryview, count: int, shape: tuple[int, ...]
) -> NDArray[Any]:
    if dtype is DType.STRING:
        return _strings(_split_strings(bytes(content), count, shape))
    if len(content) != count * dtype.itemsize:
        raise _bad_shape(
            f"A tensor of shape {_show(shape)} and type {dtype.label} has {len(content)} bytes of "
            f"tensor_content; expected {count * dtype.itemsize}"
        )
    if dtype is DType.BOOL:
        # Any other byte than 0 and 1 in a numpy bool is undefined behaviour further down.
        truth: NDArray[Any] = np.frombuffer(content, np.uint8) != 0
        return truth
    return np.frombuffer(content, _NUMPY[dtype])


def _split_strings(content: bytes, count: int, shape: tuple[int, ...]) -> list[bytes]:
    """Strings as C++ packs them: all lengths as varints, then all bytes (EncodeStringList)."""
    wrong = _bad_shape(
        f"tensor_content of {len(content)} bytes does not hold the {count} strings of shape "
        f"{_show(shape)}"
    )
    if count > len(content):  # each has one byte of length at least
        raise wrong
    lengths, at = [], 0
    for _ in range(count):
        length = shift = 0
        while True:
            if at >= len(content) or shift > 63:
                raise wrong
            byte = content[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise wrong
    parts = []
    for length in lengths:
        parts.append(content[at : at + length])
        at += length
    return parts


def _from_values(
    dtype: DType, proto: tfs_pb2.TensorProto, count: int, shape: tuple[int, ...]
) -> NDArray[Any]:
    values = getattr(proto, _VALUES[dtype])
    given = len(values) // 2 if dtype in (DType.COMPLEX64, DType.COMPLEX128) else len(values)
    if given > count:
        raise _bad_shape(
            f"A tensor of shape {_show(shape)} has {given} values; expected at most {count}"
        )
    if given < count and count * max(dtype.itemsize, 8) > MAX_REPEATED_BYTES:
        raise _bad_shape(
            f"A tensor of shape {_show(shape)} and type {dtype.label} has only {given} values; "
            f"repeating the last one is limited to {MAX_REPEATED_BYTES >> 20} MiB. Send all values"
        )
    flat = _exact_floats(dtype, proto, len(values))
    if flat is None:
        flat = _strings(list(values)) if dtype is DType.STRING else _numbers(dtype, list(values))
    if given == count:
        return flat
    full = np.empty(count, flat.dtype)
    full[:given] = flat
    if given:
        full[given:] = flat[-1]
    else:
        full.fill(b"" if dtype is DType.STRING else 0)
    return full


def _exact_floats(dtype: DType, proto: tfs_pb2.TensorProto, count: int) -> NDArray[Any] | None:
    """Single-precision values with every bit of their NaNs; None where the list has to do."""
    number = _FLOAT_LISTS.get(dtype)
    if number is None or (dtype is DType.COMPLEX64 and count % 2):
        return None
    exact = packed(proto, number)
    if exact is None or len(exact) != 4 * count:
        return None
    return np.frombuffer(exact, _NUMPY[dtype])


def _numbers(dtype: DType, values: list[Any]) -> NDArray[Any]:
    target = _NUMPY[dtype]
    if dtype in (DType.COMPLEX64, DType.COMPLEX128):
        if len(values) % 2:
            raise InvalidRequest(
                f"A {dtype.label} tensor needs its values in pairs; got {len(values)}",
                reason="bad_tensor",
            )
        part = np.dtype("<f4") if dtype is DType.COMPLEX64 else np.dtype("<f8")
        return np.array(values, part).view(target)
    list_name = _VALUES[dtype]
    if list_name not in ("int_val", "half_val"):
        return np.array(values, target)
    # These lists are int32 and wider than their dtype. C++ would cut the upper bits off in silence.
    wide = np.array(values, np.int64)
    narrow = np.dtype("<u2") if list_name == "half_val" else target
    bounds = np.iinfo(narrow)
    if wide.size and (wide.min() < bounds.min or wide.max() > bounds.max):
        raise InvalidRequest(
            f"{list_name} of a {dtype.label} tensor has a value outside {bounds.min} to "
            f"{bounds.max}",
            reason="bad_tensor",
        )
    return wide.astype(narrow).view(target)


def _strings(values: list[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _show(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _bad_shape(message: str) -> InvalidRequest:
    return InvalidRequest(message, reason="bad_shape")


# ---- proto from array -----------------------------------------------------------


def to_proto(array: NDArray[Any], dtype: DType | None = None) -> tfs_pb2.TensorProto:
    """`array` as a TensorProto; `dtype` where it should be another than the array's own.

    Raises:
        InvalidRequest: the array cannot become `dtype` without loss, or an object array holds
            something else than bytes and str (`bad_dtype`).
        Unimplemented: the array's dtype has no tensor type.
    """
    own = dtype_of(array)
    if dtype is not None and dtype is not own:
        if DType.STRING in (own, dtype) or not np.can_cast(array.dtype, _NUMPY[dtype], "safe"):
            raise InvalidRequest(
                f"An array of {own.label} cannot be sent as {dtype.label} without loss; convert it",
                reason="bad_dtype",
            )
        array, own = array.astype(_NUMPY[dtype]), dtype
    proto = tfs_pb2.TensorProto(dtype=PROTO_ENUM[own])  # type: ignore[arg-type]
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if own is DType.STRING:
        proto.string_val.extend([as_bytes(item) for item in array.reshape(-1).tolist()])
    else:
        proto.tensor_content = array.astype(_NUMPY[own], copy=False).tobytes()
    return proto


def as_bytes(item: object) -> bytes:
    """An element of a string array as bytes; str is encoded as UTF-8."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode("utf-8", "surrogateescape")
    raise InvalidRequest(
        f"A string tensor holds bytes or str, not {type(item).__name__}", reason="bad_dtype"
    )
