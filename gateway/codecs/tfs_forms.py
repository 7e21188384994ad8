"""PredictRequests and PredictResponses by their forms (`proto_forms`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.proto_forms import MAX_FIXED_BYTES, MAX_FORMS, Form, Forms, Span, Tensor, is_fit
from gateway.codecs.proto_walk import BYTES, Walk
from gateway.codecs.tfs_dtypes import dtype_of_enum
from gateway.codecs.tfs_tensors import dtype_of
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.names import Version
from gateway.domain.tensors import DType

_INPUTS, _OUTPUTS = 2, 1
_KEY, _VALUE = 1, 2
_CONTENT = 4


class PredictAsked(NamedTuple):
    """What a PredictRequest says beside its tensors."""

    model: str
    version: Version | None
    label: str | None
    signature: str
    output_filter: tuple[str, ...]


PredictForm = Form[PredictAsked]


class PredictForms(Forms[PredictAsked]):
    """The forms of requests."""

    def learn_request(
        self, message: bytes, request: tfs_pb2.PredictRequest, asked: PredictAsked
    ) -> PredictForm | None:
        """Remember a request that could be read; None where its form cannot be told from its
        bytes (values in lists, strings, repeated fields)."""
        spans = tensor_spans(message, _INPUTS)
        if spans is None or spans.keys() != set(request.inputs):
            return None
        tensors = []
        for name, span in spans.items():
            proto = request.inputs[name]
            try:
                dtype = dtype_of_enum(proto.dtype)
            except (InvalidRequest, Unimplemented):
                return None
            shape = tuple(dim.size for dim in proto.tensor_shape.dim)
            if not is_fit(dtype, shape, span):
                return None
            tensors.append(Tensor(name, dtype, shape, span))
        return self.learn(message, tensors, asked)


def tensor_spans(message: bytes, number: int) -> dict[str, Span] | None:
    """Where the `tensor_content` of each entry of the map `number` is; None where some entry has
    none, or anything on the way there occurs twice."""
    view, walk = memoryview(message), Walk()
    found: dict[str, Span] = {}
    total = 0
    try:
        for field, wire, _, end, value in walk.fields(view):
            if field != number:
                continue
            if wire != BYTES or not isinstance(value, memoryview):
                return None
            entry = _entry(walk, value, end - len(value))
            if entry is None or entry[0] in found:
                return None
            found[entry[0]] = entry[1]
            total += entry[1][1] - entry[1][0]
    except (InvalidRequest, UnicodeDecodeError):
        return None
    return found if found and len(message) - total <= MAX_FIXED_BYTES else None


def _entry(walk: Walk, entry: memoryview, offset: int) -> tuple[str, Span] | None:
    """Key and content of one map entry."""
    name = _only(walk, entry, offset, _KEY)
    value = _only(walk, entry, offset, _VALUE)
    if name is None or value is None:
        return None
    content = _only(walk, entry[value[0] - offset : value[1] - offset], value[0], _CONTENT)
    if content is None:
        return None
    return str(entry[name[0] - offset : name[1] - offset], "utf-8"), content


def _only(walk: Walk, view: memoryview, offset: int, number: int) -> Span | None:
    found: Span | None = None
    for field, wire, _, end, value in walk.fields(view):
        if field == number:
            if found is not None or wire != BYTES or not isinstance(value, memoryview):
                return None
            found = offset + end - len(value), offset + end
    return found


class PredictAnswers:
    """Serialized PredictResponses of one version, whose fixed bytes are made once per form."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[tuple[bytes, str], ...]] = {}
        self._tails: dict[tuple[object, ...], bytes] = {}

    def encode(self, signature: str, outputs: Mapping[str, NDArray[Any]]) -> bytes | None:
        """The answer, if one of this form has been learnt."""
        key = _key(signature, outputs)
        pieces = self._known.get(key)
        if pieces is None:
            return None
        parts: list[bytes | memoryview] = []
        for piece, name in pieces:
            parts += (piece, outputs[name].tobytes())
        parts.append(self._tails[key])
        return b"".join(parts)

    def learn(
        self,
        signature: str,
        outputs: Mapping[str, NDArray[Any]],
        dtypes: Mapping[str, DType],
        message: bytes,
    ) -> None:
        """Remember an answer that was made of `outputs`, whose dtypes are sent as `dtypes`."""
        spans = tensor_spans(message, _OUTPUTS)
        if spans is None or spans.keys() != outputs.keys():
            return
        for name, array in outputs.items():
            start, end = spans[name]
            own = dtype_of(array)
            if own is not dtypes[name] or own is DType.STRING or end - start != array.nbytes:
                return
            if not np.little_endian or array.dtype.byteorder == ">":
                return
        if len(self._known) >= MAX_FORMS:
            self._known.clear()
            self._tails.clear()
        pieces: list[tuple[bytes, str]] = []
        at = 0
        for name, (start, end) in sorted(spans.items(), key=lambda item: item[1]):
            pieces.append((message[at:start], name))
            at = end
        key = _key(signature, outputs)
        self._known[key] = tuple(pieces)
        self._tails[key] = message[at:]


def _key(signature: str, outputs: Mapping[str, NDArray[Any]]) -> tuple[object, ...]:
    return (signature, *[(name, a.dtype, a.shape) for name, a in outputs.items()])
