"""V2's JSON: reading a document as Triton does, and the `data` lists of tensors.

Triton's parser (rapidjson, src/http_server.cc and common's triton_json.h) takes `NaN`, `Infinity`
and `-Infinity`, of a key that occurs twice the first, and strings that are no UTF-8; unlike
TensorFlow Serving's it refuses what follows the document. `data` may be nested like the tensor or
flat; only the number of elements counts. orjson reads what both would read alike, the standard
library the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.codecs.json_arrays import flat_array, packed
from gateway.codecs.json_text import NoJsonError, echo, read_value
from gateway.codecs.json_write import numbers_text, string_text
from gateway.codecs.oip_dtypes import BINARY_ONLY, datatype_of
from gateway.codecs.tfs_tensors import as_bytes, numpy_dtype
from gateway.codecs.tfs_tensors import dtype_of as dtype_of_array
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DType

MAX_NESTING = 100
"""Nested lists of `data` (HTTP_MAX_JSON_NESTING_DEPTH)."""

_MAX_DEPTH = 16
_KEY = re.compile(rb'"[ \t\n\r]*:')


def parse_document(body: bytes | memoryview) -> dict[str, Any]:
    """The object that the JSON part of a body is.

    Raises:
        InvalidRequest: no JSON, or no object (`bad_json`); Triton's words.
    """
    document: Any
    raw = bytes(body)
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = _careful(raw)
    else:
        if not has_each_key_once(raw, document):
            document = _careful(raw)
    if not isinstance(document, dict):
        raise bad_json("attempt to access JSON non-object as object")
    return document


def has_each_key_once(raw: bytes, document: object) -> bool:
    """Whether no key of what orjson read from `raw` occurred twice (outside of tensors' data)."""
    # Every key has its colon, and a key that occurred twice has two. Colons inside strings only
    # make the count too high, which costs time and not truth.
    keys = _keys(document)
    return raw.count(b":") == keys or len(_KEY.findall(raw)) == keys


_HOLDS = (dict, list)


def _keys(value: object, depth: int = 0) -> int:
    """How many keys a document has outside of tensors' data; no request is so deep as to end
    here early."""
    if depth > _MAX_DEPTH:
        return 0
    count = 0
    if isinstance(value, dict):
        count = len(value)
        for key, item in value.items():
            if isinstance(item, _HOLDS) and key != "data":
                count += _keys(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, _HOLDS):
                count += _keys(item, depth + 1)
    return count


def _careful(raw: bytes) -> Any:
    try:
        return read_value(raw, whole=True)
    except NoJsonError as error:
        raise bad_json(
            f"failed to parse the request JSON buffer: {error.words} at {error.offset}"
        ) from error


def bad_json(message: str) -> InvalidRequest:
    """The error for a document that is not what it should be."""
    return InvalidRequest(message, reason="bad_json")


# ---- members ----------------------------------------------------------------------------


def text_of(record: Mapping[str, Any], key: str) -> str:
    """A string member that must be there."""
    _present(record, key)
    return checked_text(record[key], key)


def checked_text(value: object, key: str) -> str:
    """A string that goes on into headers, protos and other documents, so must be UTF-8."""
    if not isinstance(value, str):
        raise bad_json(f"Unable to parse '{key}': attempt to access JSON non-string as string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise bad_json(f"Unable to parse '{key}': it is not UTF-8") from error
    return value


def list_of(record: Mapping[str, Any], key: str) -> list[Any]:
    """A list member that must be there."""
    _present(record, key)
    value = record[key]
    if not isinstance(value, list):
        raise bad_json(f"Unable to parse '{key}': attempt to access JSON non-array as array")
    return value


def records_of(record: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects that must be there."""
    values = list_of(record, key)
    for value in values:
        if not isinstance(value, dict):
            raise bad_json(f"Unable to parse '{key}': attempt to access JSON non-object as object")
    return values


def unsigned(value: object, key: str) -> int:
    """A whole number of at least 0."""
    if type(value) is not int or value < 0:
        raise bad_json(
            f"Unable to parse '{key}': attempt to access JSON non-unsigned-integer as "
            "unsigned-integer"
        )
    return value


def boolean(value: object, key: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise bad_json(f"Unable to parse '{key}': attempt to access JSON non-boolean as boolean")
    return value


def _present(record: Mapping[str, Any], key: str) -> None:
    if key not in record:
        raise bad_json(
            f"Unable to parse '{key}': attempt to access non-existing object member '{key}'"
        )


# ---- lists to arrays --------------------------------------------------------------------


def array_of_data(
    data: list[Any],
    dtype: DType,
    shape: tuple[int, ...],
    name: str,
    *,
    may_have_bools: bool = True,
) -> NDArray[Any]:
    """A tensor from its `data`, nested in any way or flat. `may_have_bools` says whether a true or
    a false can be in it, which takes a look at each value.

    Raises:
        InvalidRequest: the dtype has no JSON form, a value is of another type or out of the dtype's
            range (`bad_dtype`), or there are more or fewer than the shape has (`bad_shape`).
    """
    if dtype in BINARY_ONLY:
        word = datatype_of(dtype)
        raise InvalidRequest(
            f"receiving {word} data via JSON is not supported. Please use the binary data format "
            f"for input {name}",
            reason="dtype_without_json",
        )
    if not may_have_bools:
        array = plain_array(data, dtype, math.prod(shape))
        if array is not None:
            return array.reshape(shape)
    flat, types = _flattened(data)
    if len(flat) != math.prod(shape):
        raise InvalidRequest(
            "Unable to parse 'data': Shape does not match true shape of 'data' field: input "
            f"'{name}' has {len(flat)} elements, its shape {list(shape)} has {math.prod(shape)}",
            reason="bad_shape",
        )
    if not flat:
        return np.empty(shape, numpy_dtype(dtype))
    array = flat_array(flat, types, dtype)
    if array is None:
        raise _first_wrong(flat, dtype, name)
    return array.reshape(shape)


def plain_array(data: list[Any], dtype: DType, count: int) -> NDArray[Any] | None:
    """`data` as a flat array of `count` numbers, or None where it needs a closer look. True and
    false pass for 1 and 0: only for lists without them."""
    level = data
    depth = 1
    while level and type(level[0]) is list:
        if depth >= MAX_NESTING - 1 or set(map(type, level)) != {list}:
            return None
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))
        depth += 1
    return packed(level, dtype) if len(level) == count else None


def _flattened(data: list[Any]) -> tuple[list[Any], set[type]]:
    """The values, and the types that they have."""
    level = data
    for _ in range(MAX_NESTING - 1):
        types = set(map(type, level))
        if list not in types:
            return level, types
        if types == {list}:
            level = list(chain.from_iterable(level))
        else:  # lists beside values: one level of lists opens, the values stay where they are
            level = list(chain.from_iterable(v if type(v) is list else (v,) for v in level))
    raise bad_json(
        f"Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit ({MAX_NESTING})"
    )


def _first_wrong(flat: list[Any], dtype: DType, name: str) -> InvalidRequest:
    """What is wrong with the first value that `dtype` cannot take."""
    if dtype is DType.STRING:
        kind, fits = "string as string", [isinstance(v, str) for v in flat]
    elif dtype is DType.BOOL:
        kind, fits = "boolean as boolean", [isinstance(v, bool) for v in flat]
    elif dtype in (DType.FLOAT, DType.DOUBLE):
        kind, fits = "number as double", [type(v) in (int, float) for v in flat]
    else:
        sign = "unsigned" if dtype.label.startswith("u") else "signed"
        kind, fits = f"{sign}-integer as {sign}-integer", [type(v) is int for v in flat]
        if all(fits):
            return _out_of_range(flat, dtype, name)
    wrong = flat[fits.index(False)]
    return InvalidRequest(
        f"Unable to parse 'data': attempt to access JSON non-{kind} (input '{name}' has "
        f"{echo(wrong)[:64]})",
        reason="bad_dtype",
    )


def _out_of_range(flat: list[Any], dtype: DType, name: str) -> InvalidRequest:
    # Triton cuts the upper bits off in silence. A number that does not fit is an error here.
    bounds = np.iinfo(numpy_dtype(dtype))
    wrong = next(v for v in flat if not bounds.min <= v <= bounds.max)
    return InvalidRequest(
        f"Unable to parse 'data': {wrong} of input '{name}' is outside of {datatype_of(dtype)}'s "
        f"range of {bounds.min} to {bounds.max}",
        reason="bad_dtype",
    )


# ---- arrays to lists --------------------------------------------------------------------


def data_text(array: NDArray[Any], name: str) -> bytes:
    """The `data` of a tensor, flat and row-major: shortest digits that give the same bits again in
    the tensor's own datatype; NaN, Infinity and -Infinity as bare words, as Triton writes them.

    Raises:
        InvalidRequest: FP16 and BF16 (`dtype_without_json`); Triton's words.
        Unimplemented: the protocol has no such datatype.
    """
    dtype = dtype_of_array(array)
    word = datatype_of(dtype, name)
    if dtype in BINARY_ONLY:
        raise InvalidRequest(
            f"sending {word} data via JSON is not supported. Please use the binary data format for "
            f"output {name}",
            reason="dtype_without_json",
        )
    if dtype is not DType.STRING:
        return numbers_text(array.reshape(-1))
    items = [as_bytes(item) for item in array.reshape(-1).tolist()]
    try:
        return orjson.dumps([item.decode() for item in items])
    except UnicodeDecodeError:
        texts = [string_text(item.decode("utf-8", "surrogateescape")) for item in items]
        return b"[" + b",".join(texts) + b"]"
