"""ModelInferRequests and ModelInferResponses by their forms (`proto_forms`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from gateway.codecs import oip_proto
from gateway.codecs.oip_infer import OipInfer, Parameters
from gateway.codecs.oip_tensors import bytes_of
from gateway.codecs.proto_forms import MAX_FIXED_BYTES, MAX_FORMS, Form, Forms, Span, Tensor, is_fit
from gateway.codecs.proto_tensors import Buffer, field_head
from gateway.codecs.proto_walk import BYTES, Walk
from gateway.codecs.tfs_tensors import dtype_of
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import Version

_RAW_INPUTS = 7
_RAW_OUTPUTS = 6

InferForm = Form[OipInfer]


class InferForms(Forms[OipInfer]):
    """The forms of requests. What is said of one has no inputs; they are in each message."""

    def learn_request(self, message: bytes, asked: OipInfer) -> InferForm | None:
        """Remember a request that could be read as `asked`; None where its form cannot be told
        from its bytes, or will not come again (it has an id)."""
        spans = _raw_spans(message)
        if asked.id or spans is None or len(spans) != len(asked.inputs):
            return None
        tensors = []
        for (name, array), span in zip(asked.inputs.items(), spans, strict=True):
            dtype = dtype_of(array)
            if not is_fit(dtype, array.shape, span):
                return None
            tensors.append(Tensor(name, dtype, array.shape, span))
        said = OipInfer(
            "", {}, asked.outputs, asked.parameters, model=asked.model, version=asked.version
        )
        return self.learn(message, tensors, said)


def _raw_spans(message: bytes) -> list[Span] | None:
    spans: list[Span] = []
    fixed = len(message)
    try:
        for number, wire, _, end, value in Walk().fields(memoryview(message)):
            if number == _RAW_INPUTS:
                if wire != BYTES or not isinstance(value, memoryview):
                    return None
                spans.append((end - len(value), end))
                fixed -= len(value)
    except InvalidRequest:
        return None
    return spans if spans and fixed <= MAX_FIXED_BYTES else None


class InferAnswers:
    """Serialized ModelInferResponses of one version, whose fixed bytes are made once per form."""

    def __init__(self, model: str, version: Version) -> None:
        self._model = model
        self._version = version
        self._known: dict[tuple[object, ...], list[bytes]] = {}

    def encode(
        self, id: str, outputs: Mapping[str, NDArray[Any]], parameters: Parameters | None = None
    ) -> bytes:
        """As `oip_proto.encode_infer_bytes`.

        Raises:
            Unimplemented: a dtype that the protocol lacks.
        """
        if id or parameters:
            return oip_proto.encode_infer_bytes(
                self._model, self._version, id, outputs, parameters=parameters
            )
        key = tuple([(name, a.dtype, a.shape) for name, a in outputs.items()])
        heads = self._known.get(key)
        if heads is None:
            heads = self._learnt(key, outputs)
        parts: list[Buffer] = []
        for head, array in zip(heads, outputs.values(), strict=True):
            parts += (head, bytes_of(array, dtype_of(array)))
        return b"".join(parts)

    def _learnt(self, key: tuple[object, ...], outputs: Mapping[str, NDArray[Any]]) -> list[bytes]:
        """What stands before each output's bytes: of the first, all of the message."""
        made = oip_proto.encode_infer_proto(self._model, self._version, "", outputs)
        sizes = [len(raw) for raw in made.raw_output_contents]
        del made.raw_output_contents[:]
        heads = [field_head(_RAW_OUTPUTS, size) for size in sizes]
        heads[0] = made.SerializeToString() + heads[0]
        if all(array.dtype.kind not in "OSU" for array in outputs.values()):
            if len(self._known) >= MAX_FORMS:
                self._known.clear()
            self._known[key] = heads
        return heads
