"""Which layers a caffemodel has weights for, read from its bytes.

Caffe matches weights to layers by name and says nothing when a layer finds none: it then answers
with the values that training would have begun with. A file of another network, or a truncated list,
must be refused instead, so the names are read here. Only lengths and names are looked at; the
weights are skipped. Fields after caffe.proto: NetParameter.layers = 2 (V1LayerParameter: name 4,
blobs 6), NetParameter.layer = 100 (LayerParameter: name 1, blobs 7).
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LAYERS = {2: (4, 6), 100: (1, 7)}
"""Field of NetParameter: (field of the name, field of the blobs)."""


class Truncated(ValueError):
    """The bytes end inside a field, or are no protobuf message."""


def layers_with_weights(data: bytes) -> frozenset[str]:
    """Names of the layers that bring at least one blob.

    Raises:
        Truncated: the file is cut off or no caffemodel.
    """
    view = memoryview(data)
    found = set()
    for field, start, end in _fields(view, 0, len(view)):
        if field not in _LAYERS:
            continue
        name_field, blob_field = _LAYERS[field]
        name, has_blobs = "", False
        for inner, at, until in _fields(view, start, end):
            if inner == name_field:
                name = bytes(view[at:until]).decode("utf-8", "surrogateescape")
            elif inner == blob_field:
                has_blobs = True
        if has_blobs:
            found.add(name)
    return frozenset(found)


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of each length-delimited field between `at` and `end`."""
    while at < end:
        key, at = _varint(view, at, end)
        kind = key & 7
        if kind == _BYTES:
            size, at = _varint(view, at, end)
        elif kind == _VARINT:
            _, at = _varint(view, at, end)
            continue
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise Truncated(f"byte {at} is of no protobuf field")
        if size > end - at:
            raise Truncated(f"it ends {size - (end - at)} bytes too early")
        if kind == _BYTES:
            yield key >> 3, at, at + size
        at += size


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise Truncated("it ends inside a number")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Truncated(f"byte {at} is of no protobuf number")
