"""JSON values to arrays.

Two ways to the same answer. The quick one converts whole nested lists with operations that run in
C (flatten, set of types, one array), and gives up at anything out of the ordinary. The careful one
walks value by value in the original's order (util/json_tensor.cc) and is therefore exact about
what is wrong; it also takes what the quick one leaves, such as base64 and non-finite numbers.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gateway.codecs.json_text import echo, is_b64, type_name
from gateway.codecs.tfs_tensors import MAX_RANK, numpy_dtype
from gateway.domain.errors import GatewayError, InvalidRequest, Unimplemented
from gateway.domain.tensors import DType, TensorSpec

Shape = tuple[int, ...]

_INTEGERS = (
    DType.INT8,
    DType.INT16,
    DType.INT32,
    DType.INT64,
    DType.UINT8,
    DType.UINT32,
    DType.UINT64,
)
_FLOATS = (DType.FLOAT, DType.DOUBLE)
_READABLE = (*_INTEGERS, *_FLOATS, DType.BOOL, DType.STRING)
"""What has a JSON form. The others are answered 501, as the original does."""

_LETTERS = {
    DType.INT8: "b",
    DType.INT16: "h",
    DType.INT32: "i",
    DType.INT64: "q",
    DType.UINT8: "B",
    DType.UINT16: "H",
    DType.UINT32: "I",
    DType.UINT64: "Q",
    DType.FLOAT: "f",
    DType.DOUBLE: "d",
}
"""The struct module's, which converts a list several times faster than numpy does."""


def tensor(value: object, dtype: DType) -> NDArray[Any]:
    """One JSON value as a whole tensor; the nesting of its lists is the shape.

    Raises:
        InvalidRequest: ragged, or a value of the wrong type (`bad_shape`, `bad_dtype`).
        Unimplemented: the dtype has no JSON form.
    """
    found = _quick(value, dtype)
    if found is not None:
        return found
    shape = _shape(value)
    flat: list[Any] = []
    _fill(value, 0, shape, dtype, flat)
    return _array(flat, dtype, shape)


def join_values(
    rows: Sequence[object], spec: TensorSpec, *, may_have_bools: bool = True
) -> NDArray[Any]:
    """`instances` that are the rows of one input themselves. `may_have_bools` says whether a true
    or a false can be among their values, which takes a look at each."""
    found = _quick(rows, spec.dtype, may_have_bools=may_have_bools)
    if found is not None:
        return found
    column = _Column(spec.dtype)
    for index, row in enumerate(rows):
        if isinstance(row, dict) and not is_b64(row):
            raise InvalidRequest(
                f"Expecting value/list but got object at item {index} of input list",
                reason="bad_shape",
            )
        try:
            column.add(row)
        except (InvalidRequest, Unimplemented) as error:
            _in_element(index, "", error)
    return column.array()


def join_records(
    rows: Sequence[object], specs: Mapping[str, TensorSpec]
) -> dict[str, NDArray[Any]]:
    """`instances` that are objects with one row of every input."""
    found = _quick_records(rows, specs)
    if found is not None:
        return found
    columns = {name: _Column(spec.dtype) for name, spec in specs.items()}
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or is_b64(row):
            raise InvalidRequest(
                f"Expecting object but got list at item {index} of input list", reason="bad_shape"
            )
        for name, value in row.items():
            try:
                if name not in columns:
                    # The original's words; which keys there should be are ours.
                    raise InvalidRequest(
                        f"JSON object: does not have named input: {name}, {_wanted(specs)}",
                        reason="unknown_input",
                    )
                columns[name].add(value)
            except (InvalidRequest, Unimplemented) as error:
                _in_element(index, f" key: {name}", error)
        if row.keys() != columns.keys():
            _wrong_keys(index, row, specs)
    return {name: column.array() for name, column in columns.items()}


def _in_element(index: int, key: str, error: GatewayError) -> NoReturn:
    code = "UNIMPLEMENTED" if isinstance(error, Unimplemented) else "INVALID_ARGUMENT"
    raise type(error)(
        f"Failed to process element: {index}{key} of 'instances' list. "
        f"Error: {code}: {error.message}",
        reason=error.reason,
    ) from error


def _wrong_keys(index: int, row: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> NoReturn:
    raise InvalidRequest(
        f"Failed to process element: {index} of 'instances' list. JSON object: {echo(row)} "
        f"{_wanted(specs)}",
        reason="unknown_input",
    )


def _wanted(specs: Mapping[str, TensorSpec]) -> str:
    return f"keys must be equal to: {','.join(sorted(specs))}"


# ---- the quick way ------------------------------------------------------------------


def _quick(value: object, dtype: DType, *, may_have_bools: bool = True) -> NDArray[Any] | None:
    """`value` as an array, or None where anything about it needs a closer look."""
    if type(value) is not list or not value or dtype not in _READABLE:
        return None
    shape, level = [len(value)], value
    while type(level[0]) is list:
        if len(shape) >= MAX_RANK or set(map(type, level)) != {list}:
            return None
        sizes = set(map(len, level))
        if len(sizes) != 1 or 0 in sizes:
            return None
        shape += sizes
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))
    if dtype in _LETTERS and not may_have_bools:
        flat = packed(level, dtype)
    else:
        flat = flat_array(level, set(map(type, level)), dtype)
    return None if flat is None else flat.reshape(shape)


def packed(level: list[Any], dtype: DType) -> NDArray[Any] | None:
    """A flat list of numbers, or None where anything in it is none, or none that `dtype` takes.
    True and false pass for 1 and 0: only for lists without them."""
    letter = _LETTERS.get(dtype)
    if letter is None:
        return None
    array = np.empty(len(level), numpy_dtype(dtype))
    try:
        # Floats go through double, as in the original; what float cannot hold becomes infinite.
        struct.pack_into(f"{len(level)}{letter}", array.data, 0, *level)
    except (struct.error, OverflowError):
        return None
    return array


def flat_array(level: list[Any], types: set[type], dtype: DType) -> NDArray[Any] | None:
    """A flat list whose values have these `types`, or None where they need a closer look."""
    if dtype is DType.BOOL:
        return np.array(level, np.bool_) if types == {bool} else None
    if dtype is DType.STRING:
        if types != {str}:
            return None
        return _array([utf8(text) for text in level], dtype, (len(level),))
    wanted = {float, int} if dtype in _FLOATS else {int}
    return packed(level, dtype) if types <= wanted else None


def _quick_records(
    rows: Sequence[object], specs: Mapping[str, TensorSpec]
) -> dict[str, NDArray[Any]] | None:
    names = specs.keys()
    if any(type(row) is not dict or row.keys() != names for row in rows):
        return None
    columns = {}
    for name, spec in specs.items():
        column = _quick([row[name] for row in rows], spec.dtype)  # type: ignore[index]
        if column is None:
            return None
        columns[name] = column
    return columns


# ---- the careful way ------------------------------------------------------------------


class _Column:
    """The rows of one input, of which each must have the first one's shape."""

    def __init__(self, dtype: DType) -> None:
        self._dtype = dtype
        self._flat: list[Any] = []
        self._shape: Shape | None = None
        self._rows = 0

    def add(self, value: object) -> None:
        shape = _shape(value)
        before = len(self._flat)
        _fill(value, 0, shape, self._dtype, self._flat)
        size = len(self._flat) - before
        if self._shape is None:
            self._shape, self._size = shape, size
        elif size != self._size:
            raise InvalidRequest(
                f"Expecting tensor size: {self._size} but got: {size}", reason="bad_shape"
            )
        elif shape != self._shape:
            raise InvalidRequest(
                f"Expecting shape {_show(self._shape)} but got: {_show(shape)}", reason="bad_shape"
            )
        self._rows += 1

    def array(self) -> NDArray[Any]:
        return _array(self._flat, self._dtype, (self._rows, *(self._shape or ())))


def _shape(value: object) -> Shape:
    """The shape that the first elements promise; the walk holds the others to it."""
    shape: list[int] = []
    while isinstance(value, list):
        if len(shape) >= MAX_RANK:
            raise InvalidRequest(
                f"Lists are nested deeper than {MAX_RANK} levels; no tensor has so many dimensions",
                reason="bad_shape",
            )
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _fill(value: object, level: int, shape: Shape, dtype: DType, flat: list[Any]) -> None:
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise InvalidRequest(
                f"JSON Value: {echo(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {rank}",
                reason="bad_shape",
            )
        flat.append(_element(value, dtype))
        return
    if level >= rank:
        raise InvalidRequest(
            f"Encountered list at unexpected level: {level} expected < {rank}", reason="bad_shape"
        )
    if len(value) != shape[level]:
        raise InvalidRequest(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}",
            reason="bad_shape",
        )
    for item in value:
        _fill(item, level + 1, shape, dtype, flat)


def _element(value: object, dtype: DType) -> object:
    """One value as what numpy makes an element from."""
    if isinstance(value, dict):
        if dtype is DType.STRING:
            return decode_b64(value)
        raise _wrong_type(value, dtype)
    if dtype in _FLOATS:
        if type(value) in (int, float):
            return value
    elif dtype is DType.STRING:
        if isinstance(value, str):
            return utf8(value)
    elif dtype is DType.BOOL:
        if isinstance(value, bool):
            return value
    elif dtype in _INTEGERS:
        # The original checks int8, int16 and uint8 only against int32 and cuts off the rest in
        # silence. A number that does not fit is an error here.
        bounds = np.iinfo(numpy_dtype(dtype))
        if type(value) is int and bounds.min <= value <= bounds.max:
            return value
    else:
        raise Unimplemented(
            f"Conversion of JSON Value: {echo(value)} to type: {dtype.label}",
            reason="dtype_without_json",
        )
    raise _wrong_type(value, dtype)


def _wrong_type(value: object, dtype: DType) -> InvalidRequest:
    return InvalidRequest(
        f"JSON Value: {echo(value)} Type: {type_name(value)} is not of expected type: "
        f"{dtype.label}",
        reason="bad_dtype",
    )


def decode_b64(value: dict[str, Any]) -> bytes:
    """The bytes of `{"b64": "…"}`: standard alphabet, padding and white space as one likes.

    Raises:
        InvalidRequest: another object, or no base64 (`bad_b64`).
    """
    if not is_b64(value):
        raise InvalidRequest(
            f"JSON Value: {echo(value)} not formatted correctly for base64 data", reason="bad_b64"
        )
    text: str = value["b64"]
    try:
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            bare = "".join(text.split())
            padding = "" if bare.endswith("=") else "=" * (-len(bare) % 4)
            return binascii.a2b_base64(bare + padding, strict_mode=True)
    except ValueError as error:
        raise InvalidRequest("Unable to base64 decode", reason="bad_b64") from error


def _floats(flat: list[Any], dtype: DType) -> NDArray[Any]:
    # Through double, as the original does; what float cannot hold becomes infinite there too.
    with np.errstate(over="ignore"):
        return np.array(flat, np.float64).astype(numpy_dtype(dtype), copy=False)


def _array(flat: list[Any], dtype: DType, shape: Shape) -> NDArray[Any]:
    if dtype in _FLOATS:
        return _floats(flat, dtype).reshape(shape)
    array = np.empty(len(flat), numpy_dtype(dtype))
    array[:] = flat
    return array.reshape(shape)


def utf8(text: str) -> bytes:
    """A JSON string's bytes; what was no UTF-8 comes out as it came in."""
    return text.encode("utf-8", "surrogateescape")


def _show(shape: Shape) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
