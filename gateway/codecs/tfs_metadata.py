"""Signatures as TensorFlow Serving's metadata shows them, in gRPC and in JSON.

The gRPC answer packs a SignatureDefMap into an Any under the original's type name, so that stock
clients can unpack it. The JSON has `signature_def` twice, one for the metadata field and one for
the map's own field, and prints every field; int64 are strings, as protobuf's JSON has them
(golden file: servables/tensorflow/testdata/saved_model_half_plus_two_2_versions_metadata.json).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_dtypes import PROTO_ENUM, dtype_of_enum, proto_name
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import Version
from gateway.domain.tensors import Signature, TensorSpec

_FIELD = "signature_def"
_TYPE = "tensorflow.serving.SignatureDefMap"


def signature_to_proto(signature: Signature) -> tfs_pb2.SignatureDef:
    """A signature as a SignatureDef."""
    proto = tfs_pb2.SignatureDef(method_name=signature.method_name)
    for alias, spec in signature.inputs.items():
        _fill(proto.inputs[alias], alias, spec)
        if spec.default is not None:
            proto.defaults[alias].MergeFromString(spec.default)
    for alias, spec in signature.outputs.items():
        _fill(proto.outputs[alias], alias, spec)
    return proto


def _fill(info: tfs_pb2.TensorInfo, alias: str, spec: TensorSpec) -> None:
    info.name = spec.graph_name or alias
    info.dtype = PROTO_ENUM[spec.dtype]  # type: ignore[assignment]
    if spec.shape is None:
        info.tensor_shape.unknown_rank = True
        return
    info.tensor_shape.SetInParent()
    for size in spec.shape:
        info.tensor_shape.dim.add(size=size)


def signature_from_proto(proto: tfs_pb2.SignatureDef) -> Signature:
    """A SignatureDef as a signature. Aliases are sorted, because protobuf maps have no order.

    Raises:
        Unimplemented: a dtype that we do not carry.
    """
    defaults = {alias: tensor.SerializeToString() for alias, tensor in proto.defaults.items()}
    return Signature(
        {a: _spec(a, proto.inputs[a], defaults.get(a)) for a in sorted(proto.inputs)},
        {a: _spec(a, proto.outputs[a], None) for a in sorted(proto.outputs)},
        proto.method_name,
    )


def _spec(alias: str, info: tfs_pb2.TensorInfo, default: bytes | None) -> TensorSpec:
    name = info.name
    if info.WhichOneof("encoding") == "coo_sparse":
        name = info.coo_sparse.values_tensor_name
    shape = None
    if info.HasField("tensor_shape") and not info.tensor_shape.unknown_rank:
        shape = tuple(dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(alias, dtype_of_enum(info.dtype), shape, name, default)


def check_metadata_request(request: tfs_pb2.GetModelMetadataRequest) -> None:
    """Refuse what cannot be answered, in the original's words (get_model_metadata_impl.cc).

    Raises:
        InvalidRequest: no ModelSpec, no metadata_field, or one other than `signature_def`.
    """
    if not request.HasField("model_spec"):
        raise InvalidRequest("Missing ModelSpec", reason="model_missing")
    if not request.metadata_field:
        raise InvalidRequest(
            "GetModelMetadataRequest must specify at least one metadata_field",
            reason="bad_metadata_field",
        )
    for field in request.metadata_field:
        if field != _FIELD:
            raise InvalidRequest(
                f"Metadata field {field} is not supported", reason="bad_metadata_field"
            )


def metadata_proto(
    name: str, version: Version, signatures: Mapping[str, Signature]
) -> tfs_pb2.GetModelMetadataResponse:
    """The gRPC answer for one version, with the version filled in."""
    answer = tfs_pb2.GetModelMetadataResponse()
    answer.model_spec.name = name
    answer.model_spec.version.value = version
    every = tfs_pb2.SignatureDefMap()
    for key, signature in signatures.items():
        every.signature_def[key].CopyFrom(signature_to_proto(signature))
    packed = answer.metadata[_FIELD]
    packed.type_url = f"type.googleapis.com/{_TYPE}"
    packed.value = every.SerializeToString()
    return answer


def signatures_from_metadata(answer: tfs_pb2.GetModelMetadataResponse) -> dict[str, Signature]:
    """The signatures in a gRPC answer, sorted by name. A signature that uses a dtype which we do
    not carry raises Unimplemented.

    Raises:
        InvalidRequest: the answer holds no SignatureDefMap (`bad_metadata`).
    """
    if _FIELD not in answer.metadata:
        raise InvalidRequest(
            "The metadata answer has no signature_def; ask for metadata_field 'signature_def'",
            reason="bad_metadata",
        )
    packed = answer.metadata[_FIELD]
    every = tfs_pb2.SignatureDefMap()
    try:
        every.ParseFromString(packed.value)
    except DecodeError as error:
        raise InvalidRequest(
            f"The metadata answer's {packed.type_url} cannot be read: {error}",
            reason="bad_metadata",
        ) from error
    return {
        key: signature_from_proto(every.signature_def[key]) for key in sorted(every.signature_def)
    }


def signatures_from_rest(body: bytes) -> dict[str, Signature]:
    """The signatures in a REST answer, which is the gRPC one as proto3 JSON but for the Any, which
    it spells without its type.

    Raises:
        InvalidRequest: it is none (`bad_metadata`).
    """
    try:
        shown = json.loads(body)
        every = json_format.ParseDict(
            shown["metadata"][_FIELD], tfs_pb2.SignatureDefMap(), ignore_unknown_fields=True
        )
    except (ValueError, KeyError, TypeError, RecursionError, json_format.ParseError) as error:
        raise InvalidRequest(
            f"The metadata cannot be read: {error!r}", reason="bad_metadata"
        ) from error
    return {
        key: signature_from_proto(every.signature_def[key]) for key in sorted(every.signature_def)
    }


def metadata_json(name: str, version: Version, signatures: Mapping[str, Signature]) -> bytes:
    """The REST answer for one version."""
    spec = {"name": name, "signature_name": "", "version": str(version)}
    every = {key: _signature_json(signature) for key, signature in signatures.items()}
    body = {"model_spec": spec, "metadata": {_FIELD: {_FIELD: every}}}
    return json.dumps(body, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _signature_json(signature: Signature) -> dict[str, Any]:
    proto = signature_to_proto(signature)
    return {
        "inputs": {alias: _info_json(proto.inputs[alias]) for alias in signature.inputs},
        "outputs": {alias: _info_json(proto.outputs[alias]) for alias in signature.outputs},
        "method_name": signature.method_name,
        "defaults": {
            alias: json_format.MessageToDict(
                proto.defaults[alias],
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for alias, spec in signature.inputs.items()
            if spec.default is not None
        },
    }


def _info_json(info: tfs_pb2.TensorInfo) -> dict[str, Any]:
    shape = info.tensor_shape
    return {
        "dtype": proto_name(info.dtype),
        "tensor_shape": {
            "dim": [{"size": str(dim.size), "name": dim.name} for dim in shape.dim],
            "unknown_rank": shape.unknown_rank,
        },
        "name": info.name,
    }
