"""Arrays to JSON text, in the original's layout (util/json_tensor.cc).

Numbers come from orjson: the shortest digits that round-trip in the array's own dtype, always with
`.` or `e` for floats. It writes `null` for what is not finite; those are replaced one by one with
NaN, Infinity and -Infinity, which clients of this protocol expect. Strings that are no UTF-8 are
written as the bytes they are, as the original does: the answer is then not valid JSON, but nothing
is lost; an alias that ends with `_bytes` is the way to say so.
"""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.codecs.tfs_tensors import as_bytes, dtype_of
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DType

WRITABLE = frozenset(
    {
        DType.BOOL,
        DType.INT8,
        DType.INT16,
        DType.INT32,
        DType.INT64,
        DType.UINT8,
        DType.UINT32,
        DType.UINT64,
        DType.FLOAT,
        DType.DOUBLE,
    }
)
"""What has a JSON form as numbers or booleans."""

_BYTES_SUFFIX = "_bytes"
_MAX_EMPTY = 1 << 16
"""Elements that the other dimensions of an empty tensor may count."""


def rows_text(outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """`{"predictions": …}`: bare values of a single output, else one object for each row.

    Raises:
        InvalidRequest: an output has no rows, their numbers differ, or a dtype has no JSON form.
    """
    size = _batch_size(outputs)
    if len(outputs) == 1:
        [(name, array)] = outputs.items()
        lines = tensor_text(name, array)[1:-1]
    else:
        names = [b"            " + _quoted(name) + b": " for name in outputs]
        columns = [_row_texts(name, array) for name, array in outputs.items()]
        lines = b",".join(
            b"\n        {\n" + b",\n".join(map(bytes.__add__, names, row)) + b"\n        }"
            for row in zip(*columns, strict=True)
        )
    end = b"\n    ]\n}" if size else b"]\n}"
    return b'{\n    "predictions": [' + lines + end


def columns_text(outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """`{"outputs": …}`: the bare tensor of a single output, else an object.

    Raises:
        InvalidRequest: a dtype has no JSON form.
    """
    if len(outputs) == 1:
        [(name, array)] = outputs.items()
        value = tensor_text(name, array)
    else:
        members = (
            b"\n        " + _quoted(name) + b": " + tensor_text(name, array)
            for name, array in outputs.items()
        )
        value = b"{" + b",".join(members) + b"\n    }"
    return b'{\n    "outputs": ' + value + b"\n}"


def _batch_size(outputs: Mapping[str, NDArray[Any]]) -> int:
    size: int | None = None
    for name, array in outputs.items():
        _check_size(name, array)
        if array.ndim == 0:
            raise InvalidRequest(
                f"Tensor name: {name} has no shape information ", reason="bad_output"
            )
        if size is not None and array.shape[0] != size:
            raise InvalidRequest(
                f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} "
                f"expecting: {size}",
                reason="bad_output",
            )
        size = array.shape[0]
    return size or 0


def _check_size(name: str, array: NDArray[Any]) -> None:
    """Refuse what would be written as millions of empty lists: 20 bytes of shape [2^40, 0] must
    not become the whole memory."""
    if array.size == 0 and math.prod(size for size in array.shape if size) > _MAX_EMPTY:
        raise InvalidRequest(
            f"Tensor name: {name} is empty and of shape {list(array.shape)}, which JSON would "
            f"need more than {_MAX_EMPTY} lists for",
            reason="bad_output",
        )


def _row_texts(name: str, array: NDArray[Any]) -> list[bytes]:
    if array.ndim == 1 and dtype_of(array) in WRITABLE and len(array):
        return tensor_text(name, array)[1:-1].split(b", ")
    return [tensor_text(name, array[i]) for i in range(array.shape[0])]


def tensor_text(name: str, array: NDArray[Any] | Any) -> bytes:
    """One tensor, `[1.0, 2.0]`; a scalar without brackets. `name` decides about base64.

    Raises:
        InvalidRequest: half, bfloat16, uint16 and complex have no JSON form.
    """
    array = np.asarray(array)
    _check_size(name, array)
    dtype = dtype_of(array)
    if array.ndim == 0:
        # asarray of an element of an object array would see the bytes themselves; both are fine.
        return tensor_text(name, array.reshape(1))[1:-1]
    if dtype is DType.STRING:
        return _strings(array.tolist(), name.endswith(_BYTES_SUFFIX))
    if dtype not in WRITABLE:
        raise InvalidRequest(
            f"Failed to write JSON value for tensor type: {dtype.label}",
            reason="dtype_without_json",
        )
    return _numbers(array)


def _numbers(array: NDArray[Any]) -> bytes:
    return numbers_text(array).replace(b",", b", ")


def numbers_text(array: NDArray[Any]) -> bytes:
    """Numbers or booleans as nested JSON lists without white space."""
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned and array.dtype.isnative):
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    if array.dtype.kind != "f" or b"n" not in text:
        return text
    odd = array[~np.isfinite(array)]
    parts = text.split(b"null")
    out = [parts[0]]
    for value, part in zip(odd.tolist(), parts[1:], strict=True):
        out += [_odd(value), part]
    return b"".join(out)


def _odd(value: float) -> bytes:
    if value != value:
        return b"NaN"
    return b"Infinity" if value > 0 else b"-Infinity"


def float32_text(value: float) -> bytes:
    """One float32 score: shortest digits, never without `.` or `e`."""
    return _numbers(np.array([value], np.float32))[1:-1]


def string_text(value: str) -> bytes:
    """A JSON string in UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _strings(value: object, as_b64: bool) -> bytes:
    if isinstance(value, list):
        return b"[" + b", ".join([_strings(item, as_b64) for item in value]) + b"]"
    data = as_bytes(value)
    if as_b64:
        return b'{"b64": "' + binascii.b2a_base64(data, newline=False) + b'"}'
    return string_text(data.decode("utf-8", "surrogateescape"))


def _quoted(name: str) -> bytes:
    return string_text(name)
