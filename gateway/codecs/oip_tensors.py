"""V2's bytes of a tensor to numpy and back; the same in raw_*_contents and behind HTTP's JSON.

Row-major and little-endian; BOOL is one byte each; BYTES are an unsigned 32-bit length and that
many bytes for each element (extension_binary_data.md). Words of errors are Triton's
(core src/infer_request.cc) as far as it has any.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.codecs.oip_dtypes import BINARY_ONLY, DATATYPE, datatype_of, dtype_of
from gateway.codecs.tfs_tensors import MAX_RANK, as_bytes, numpy_dtype
from gateway.codecs.tfs_tensors import dtype_of as dtype_of_array
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DType

__all__ = [
    "BINARY_ONLY",
    "DATATYPE",
    "array_of",
    "bytes_of",
    "checked_shape",
    "datatype_of",
    "datatype_of_array",
    "dtype_of",
    "from_array",
    "strings",
    "to_array",
]

Buffer = bytes | bytearray | memoryview

_INT64_MAX = 2**63 - 1
_LENGTH = struct.Struct("<I")


def datatype_of_array(array: NDArray[Any], name: str = "") -> str:
    """The datatype that an array carries.

    Raises:
        Unimplemented: complex numbers, dates and the like.
    """
    return datatype_of(dtype_of_array(array), name)


def checked_shape(shape: Sequence[int], name: str) -> tuple[int, ...]:
    """`shape` as one that a tensor can have.

    Raises:
        InvalidRequest: a negative size, too many dimensions or elements (`bad_shape`).
    """
    found = tuple(shape)
    if len(found) > MAX_RANK:
        raise _bad_shape(
            f"invalid shape for input '{name}': {len(found)} dimensions; the limit is {MAX_RANK}"
        )
    shown = "[" + ",".join(map(str, found)) + "]"
    if any(size < 0 for size in found):
        raise _bad_shape(
            f"invalid shape for input '{name}': shape {shown} contains one or more invalid "
            "dimensions"
        )
    # Zeros aside, as numpy cannot index (0, 2**62, 2**62) either.
    if math.prod(size for size in found if size) > _INT64_MAX >> 4:
        raise _bad_shape(
            f"invalid shape for input '{name}': shape {shown} causes total element count to exceed "
            f"maximum size of {_INT64_MAX >> 4}"
        )
    return found


def to_array(data: Buffer, datatype: str, shape: Sequence[int], name: str = "") -> NDArray[Any]:
    """A tensor from its bytes. No copy where the bytes lie as the processor wants them; read-only.

    Raises:
        InvalidRequest: shape and bytes contradict each other (`bad_shape`, `bad_tensor`), or no
            such datatype (`bad_dtype`).
    """
    return array_of(data, dtype_of(datatype, name), checked_shape(shape, name), name)


def array_of(
    data: Buffer, dtype: DType, shape: tuple[int, ...], name: str, *, aligned: bool = True
) -> NDArray[Any]:
    """As `to_array`, with a shape that is checked. Within a message nothing is aligned, and not
    every runtime takes that; who only passes the bytes on saves a copy by not insisting."""
    count = math.prod(shape)
    view = memoryview(data)
    if dtype is DType.STRING:
        return strings(_split(view, count, name)).reshape(shape)
    if len(view) != count * dtype.itemsize:
        raise _bad_shape(
            f"input byte size mismatch for input '{name}'. Expected {count * dtype.itemsize}, "
            f"got {len(view)}"
        )
    if dtype is DType.BOOL:
        truth = np.frombuffer(view, np.uint8)
        # Any other byte than 0 and 1 in a numpy bool is undefined behaviour further down.
        is_clean = not truth.size or truth.max() <= 1
        flat: NDArray[Any] = truth.view(np.bool_) if is_clean else truth != 0
    else:
        flat = np.frombuffer(view, numpy_dtype(dtype))
        if aligned:
            flat = np.require(flat, requirements="A")
    return flat.reshape(shape)


def _split(view: memoryview, count: int, name: str) -> list[bytes]:
    if count * 4 > len(view):  # each has its length at least
        found = len(view)
        raise InvalidRequest(
            f"incomplete string length indicator for inference input '{name}', expecting {count} "
            f"strings but only {found} bytes available.",
            reason="bad_tensor",
        )
    parts: list[bytes] = []
    at, size = 0, len(view)
    for _ in range(count):
        if size - at < 4:
            raise InvalidRequest(
                f"incomplete string length indicator for inference input '{name}', expecting "
                f"4 bytes but only {size - at} bytes available.",
                reason="bad_tensor",
            )
        (length,) = _LENGTH.unpack_from(view, at)
        at += 4
        if length > size - at:
            raise InvalidRequest(
                f"incomplete string data for inference input '{name}', expecting string of length "
                f"{length} but only {size - at} bytes available.",
                reason="bad_tensor",
            )
        parts.append(bytes(view[at : at + length]))
        at += length
    if at != size:
        raise InvalidRequest(
            f"unexpected number of string elements for inference input '{name}', expecting "
            f"{count}: {size - at} bytes are left over",
            reason="bad_tensor",
        )
    return parts


def strings(values: Sequence[bytes]) -> NDArray[Any]:
    """Strings as a flat object array."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def from_array(array: NDArray[Any], name: str = "") -> tuple[str, Buffer]:
    """Datatype and bytes of a tensor. Of a contiguous array the bytes are a view, not a copy.

    Raises:
        InvalidRequest: an object array holds something else than bytes and str (`bad_dtype`).
        Unimplemented: complex numbers, dates and the like.
    """
    dtype = dtype_of_array(array)
    return datatype_of(dtype, name), bytes_of(array, dtype)


def bytes_of(array: NDArray[Any], dtype: DType) -> Buffer:
    """The bytes of an array that carries `dtype`."""
    if dtype is not DType.STRING:
        flat = np.ascontiguousarray(array, numpy_dtype(dtype)).reshape(-1)
        return flat.view(np.uint8).data
    parts: list[bytes] = []
    for item in array.reshape(-1).tolist():
        data = as_bytes(item)
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _bad_shape(message: str) -> InvalidRequest:
    return InvalidRequest(message, reason="bad_shape")
