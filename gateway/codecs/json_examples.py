"""JSON examples to tf.Example (util/json_tensor.cc, MakeExampleFromJsonObject).

The kind of a feature is that of its first element: a string or base64 object is bytes, a number
with `.` or `e` a float, any other number and a boolean an int64. Kinds may not mix in one feature.
"""

from __future__ import annotations

import math
import struct

from gateway.codecs.json_arrays import decode_b64
from gateway.codecs.json_text import is_b64, type_name
from gateway.codecs.pb import tfs_pb2
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import INT64_MAX

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def example_of(value: object) -> tfs_pb2.Example:
    """One JSON object `{feature: value | [values]}` as a tf.Example.

    Raises:
        InvalidRequest: no object, a null, nested or mixed feature, an integer beyond int64
            (`bad_example`), or no base64 (`bad_b64`).
    """
    if not isinstance(value, dict):
        raise _bad(f"Example must be JSON object but got JSON {type_name(value)}")
    example = tfs_pb2.Example()
    example.features.SetInParent()
    for name, content in value.items():
        try:
            feature = example.features.feature[name]
        except (UnicodeEncodeError, ValueError) as error:
            raise _bad(f"Feature name {name!r} is not UTF-8") from error
        feature.SetInParent()
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)
    return example


def _add(feature: tfs_pb2.Feature, name: str, item: object) -> None:
    if isinstance(item, bool):
        _expect(feature, name, "int64_list")
        feature.int64_list.value.append(int(item))
    elif isinstance(item, str):
        _expect(feature, name, "bytes_list")
        feature.bytes_list.value.append(item.encode("utf-8", "surrogateescape"))
    elif isinstance(item, dict) and is_b64(item):
        _expect(feature, name, "bytes_list")
        feature.bytes_list.value.append(decode_b64(item))
    elif isinstance(item, float):
        _expect(feature, name, "float_list")
        feature.float_list.value.append(_float32(item))
    elif isinstance(item, int):
        _expect(feature, name, "int64_list")
        if item > INT64_MAX:
            raise _bad(f"Feature: {name} has uint64 element. Only int64 is supported.")
        feature.int64_list.value.append(item)
    else:
        raise _bad(f"Feature: {name} has element with unexpected JSON type: {type_name(item)}")


def _expect(feature: tfs_pb2.Feature, name: str, kind: str) -> None:
    found = feature.WhichOneof("kind")
    if found is not None and found != kind:
        raise _bad(f"Unexpected element type in feature: {name} expecting type: {_KINDS[found]}")


def _float32(value: float) -> float:
    try:
        struct.pack("<f", value)
    except OverflowError:
        return math.copysign(math.inf, value)
    return value


def _bad(message: str) -> InvalidRequest:
    return InvalidRequest(message, reason="bad_example")
