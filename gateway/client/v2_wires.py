"""The Open Inference Protocol V2 as a client writes and reads it.

Tensors go raw in both carriers: over gRPC in raw_input_contents, over HTTP by the binary tensor
extension (JSON, then the buffers). So every dtype goes bit by bit, FP16 and BF16 too, and there is
no text of numbers to read. Servers that answer in JSON or typed contents are understood as well.

The protocol has neither labels nor signatures; a signature is sent as the request parameter
`signature_name`, which servers of this project know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from gateway.client.arrays import Array
from gateway.client.calls import Call, Reply, Target, Wire, bad_answer
from gateway.codecs import oip_json, oip_proto
from gateway.codecs.oip_infer import OipInfer, OipOutput
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_signature import signatures_from_json, signatures_from_proto
from gateway.codecs.pb import oip_pb2
from gateway.domain.errors import GatewayError, InvalidRequest
from gateway.domain.tensors import DEFAULT_SIGNATURE, Signature


def path_of(target: Target) -> str:
    """`/v2/models/NAME`, with the version.

    Raises:
        InvalidRequest: the target names a label (`bad_target`).
    """
    path = f"/v2/models/{quote(target.model, safe='')}"
    version = _version(target)
    return f"{path}/versions/{version}" if version else path


def _version(target: Target) -> str:
    if target.label is not None:
        raise InvalidRequest(
            "V2 knows versions and no labels: name a version, or use tfs-rest or tfs-grpc",
            reason="bad_target",
        )
    return "" if target.version is None else str(target.version)


def _request(
    target: Target, arrays: Mapping[str, Array], signature: str, outputs: Sequence[str] | None
) -> OipInfer:
    named = signature not in ("", DEFAULT_SIGNATURE)
    return OipInfer(
        id="",
        inputs=dict(arrays),
        outputs=tuple(OipOutput(name, binary=True) for name in outputs or ()),
        parameters={"signature_name": signature} if named else {},
        binary_output=True,
        model=target.model,
        version=_version(target),
    )


# ---- gRPC --------------------


def _describe_grpc(target: Target) -> Call:
    request = oip_pb2.ModelMetadataRequest(name=target.model, version=_version(target))
    return Call(OipMethod.MODEL_METADATA.path, request.SerializeToString())


def _described_grpc(reply: Reply) -> Mapping[str, Signature]:
    return signatures_from_proto(reply.body)


def _predict_grpc(
    target: Target, arrays: Mapping[str, Array], signature: str, outputs: Sequence[str] | None
) -> Call:
    request = _request(target, arrays, signature, outputs)
    return Call(OipMethod.MODEL_INFER.path, oip_proto.encode_request_bytes(request))


def _predicted_grpc(reply: Reply, _: Signature | None) -> dict[str, Array]:
    try:
        return oip_proto.decode_answer_bytes(reply.body).outputs
    except GatewayError as error:  # to the codec it is a message; to us the server's answer
        raise bad_answer(f"The answer cannot be read: {error.message}") from error


# ---- HTTP --------------------


def _describe_rest(target: Target) -> Call:
    return Call(path_of(target), None)


def _described_rest(reply: Reply) -> Mapping[str, Signature]:
    return signatures_from_json(reply.body)


def _predict_rest(
    target: Target, arrays: Mapping[str, Array], signature: str, outputs: Sequence[str] | None
) -> Call:
    request = _request(target, arrays, signature, outputs)
    json_length, body = oip_json.encode_request(request, binary=True)
    return Call(f"{path_of(target)}/infer", body, json_length)


def _predicted_rest(reply: Reply, _: Signature | None) -> dict[str, Array]:
    try:
        return oip_json.decode_answer(reply.body, reply.header_length).outputs
    except GatewayError as error:
        raise bad_answer(f"The answer cannot be read: {error.message}") from error


GRPC = Wire(False, False, _describe_grpc, _described_grpc, _predict_grpc, _predicted_grpc)
REST = Wire(False, False, _describe_rest, _described_rest, _predict_rest, _predicted_rest)
