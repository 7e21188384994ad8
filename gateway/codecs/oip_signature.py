"""Read a model's signature from the Open Inference Protocol's metadata. Free of numpy.

The protocol has one way to call a model, so what comes out is one signature, the default one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from gateway.codecs.oip_dtypes import dtype_of
from gateway.codecs.pb import oip_pb2
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec

_Tensor = tuple[str, str, Iterable[int]]


def signatures_from_proto(body: bytes) -> dict[str, Signature]:
    """The signature in a serialized ModelMetadataResponse.

    Raises:
        InvalidRequest: it is none (`bad_metadata`), or has a datatype of its own (`bad_dtype`).
    """
    try:
        told = oip_pb2.ModelMetadataResponse.FromString(body)
    except DecodeError as error:
        raise _unreadable(error) from error
    return _signatures(
        [(t.name, t.datatype, t.shape) for t in told.inputs],
        [(t.name, t.datatype, t.shape) for t in told.outputs],
    )


def signatures_from_json(body: bytes) -> dict[str, Signature]:
    """The signature in the answer of `GET /v2/models/NAME`. Raises as `signatures_from_proto`."""
    try:
        told = json.loads(body)
        inputs, outputs = (
            [(str(t["name"]), str(t["datatype"]), [int(d) for d in t["shape"]]) for t in side]
            for side in (told["inputs"], told["outputs"])
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(error) from error
    return _signatures(inputs, outputs)


def _signatures(inputs: Iterable[_Tensor], outputs: Iterable[_Tensor]) -> dict[str, Signature]:
    taken, given = (
        {n: TensorSpec(n, dtype_of(d, n), tuple(shape)) for n, d, shape in side}
        for side in (inputs, outputs)
    )
    return {DEFAULT_SIGNATURE: Signature(taken, given)}


def _unreadable(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"The metadata cannot be read: {error!r}", reason="bad_metadata")
