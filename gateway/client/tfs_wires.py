"""TensorFlow Serving's protocols as a client writes and reads them.

gRPC: PredictRequest with raw tensor_content. HTTP: REST in column form, which says every shape and
implies no batch.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from google.protobuf.message import DecodeError

from gateway.client.arrays import Array
from gateway.client.calls import Call, Reply, Target, Wire, bad_answer
from gateway.codecs import tfs_metadata, tfs_tensors
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec


def path_of(target: Target) -> str:
    """`/v1/models/NAME`, with the version or label."""
    path = f"/v1/models/{quote(target.model, safe='')}"
    if target.version is not None:
        return f"{path}/versions/{target.version}"
    return path if target.label is None else f"{path}/labels/{quote(target.label, safe='')}"


def _spec(target: Target, signature: str = "") -> tfs_pb2.ModelSpec:
    spec = tfs_pb2.ModelSpec(name=target.model, signature_name=signature)
    if target.version is not None:
        spec.version.value = target.version
    if target.label is not None:
        spec.version_label = target.label
    return spec


# ---- gRPC --------------------


def _describe_grpc(target: Target) -> Call:
    request = tfs_pb2.GetModelMetadataRequest(
        model_spec=_spec(target), metadata_field=["signature_def"]
    )
    return Call(Method.GET_MODEL_METADATA.path, request.SerializeToString())


def _described_grpc(reply: Reply) -> Mapping[str, Signature]:
    answer = read_message(tfs_pb2.GetModelMetadataResponse, reply.body)
    return tfs_metadata.signatures_from_metadata(answer)


def _predict_grpc(
    target: Target, arrays: Mapping[str, Array], signature: str, outputs: Sequence[str] | None
) -> Call:
    request = tfs_pb2.PredictRequest(
        model_spec=_spec(target, signature), output_filter=outputs or ()
    )
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(tfs_tensors.to_proto(array, None))
    return Call(Method.PREDICT.path, request.SerializeToString())


def _predicted_grpc(reply: Reply, _: Signature | None) -> dict[str, Array]:
    answer = read_message(tfs_pb2.PredictResponse, reply.body)
    return {name: tfs_tensors.to_array(tensor) for name, tensor in answer.outputs.items()}


def read_message(kind: Any, body: bytes) -> Any:
    """A protobuf message; UpstreamFailed (`bad_answer`) where it is none."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise bad_answer(f"The answer is no {kind.DESCRIPTOR.name}: {error}") from error


# ---- HTTP --------------------


def _describe_rest(target: Target) -> Call:
    return Call(f"{path_of(target)}/metadata", None)


def _described_rest(reply: Reply) -> Mapping[str, Signature]:
    return tfs_metadata.signatures_from_rest(reply.body)


def _predict_rest(
    target: Target, arrays: Mapping[str, Array], signature: str, _: Sequence[str] | None
) -> Call:
    body = b'{"signature_name":%s,"inputs":{%s}}' % (
        json.dumps(signature or DEFAULT_SIGNATURE).encode(),
        b",".join(json.dumps(n).encode() + b":" + _json(a) for n, a in arrays.items()),
    )
    return Call(f"{path_of(target)}:predict", body)


def _json(array: Array) -> bytes:
    if array.dtype.kind == "S":
        array = array.astype(object)
    if array.dtype.kind == "O":
        return json.dumps(_map(array.tolist(), _b64)).encode()
    plain = array.dtype.kind in "iub" or (
        array.dtype in (np.float32, np.float64) and bool(np.isfinite(array).all())
    )
    if plain and array.ndim:
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    # NaN and Infinity are bare words in this dialect; orjson would write null.
    wide = array.astype(np.float64) if array.dtype.kind not in "iub" else array
    return json.dumps(wide.tolist()).encode()


def _map(value: Any, change: Any) -> Any:
    return [_map(v, change) for v in value] if isinstance(value, list) else change(value)


def _b64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return str(value).encode()


def _predicted_rest(reply: Reply, spec: Signature | None) -> dict[str, Array]:
    """Arrays of a column-form answer, typed by the signature's outputs."""
    assert spec is not None  # `needs_signature`
    try:
        try:
            value = orjson.loads(reply.body)["outputs"]
        except orjson.JSONDecodeError:
            value = json.loads(reply.body)["outputs"]  # NaN, Infinity
        if len(spec.outputs) == 1:
            value = {next(iter(spec.outputs)): value}
        return {n: _typed(v, spec.outputs[n]) for n, v in value.items() if n in spec.outputs}
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise bad_answer(f"The answer is not what the signature promises: {error!r}") from error


def _typed(value: Any, spec: TensorSpec) -> Array:
    if spec.dtype is DType.STRING:
        return np.array(_map(value, _bytes), dtype=object)
    return np.asarray(value, dtype=tfs_tensors.numpy_dtype(spec.dtype))


GRPC = Wire(False, True, _describe_grpc, _described_grpc, _predict_grpc, _predicted_grpc)
REST = Wire(True, True, _describe_rest, _described_rest, _predict_rest, _predicted_rest)
