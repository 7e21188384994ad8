"""Inference between the four dialects: what came in one, sent in another, and its answer back.

    caller's bytes → decode_request → CanonicalRequest  → encode_request → the replica's bytes
    caller's bytes ← encode_response ← CanonicalResponse ← decode_response ← the replica's bytes

Tensors keep every bit wherever both dialects can carry them; what the replica's dialect cannot
express is refused before anything is sent, never approximated. Over gRPC and behind V2's JSON the
tensors' bytes are views of the message that came, so a translation copies them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from numpy.typing import NDArray

from gateway.codecs import oip_json, oip_proto, tfs_json, tfs_predict, translate_rest
from gateway.codecs.oip_classes import top
from gateway.codecs.oip_headers import body_headers
from gateway.codecs.oip_infer import OipAnswer, OipInfer, OipOutput, Parameters
from gateway.codecs.oip_scan import version_of
from gateway.codecs.pb import tfs_pb2
from gateway.domain.errors import InvalidRequest, Unimplemented, UpstreamFailed
from gateway.domain.names import INT64_MAX, Version
from gateway.domain.tensors import DEFAULT_SIGNATURE, Signature

_SIGNATURE_NAME = "signature_name"
"""V2's parameter for what TensorFlow Serving has a field for; our servers know it."""

_HINTS = frozenset(
    {_SIGNATURE_NAME, "timeout", "priority", "headers", "triton_enable_empty_final_response"}
)
"""V2 parameters that ask for nothing which an answer shows: where the replica's dialect lacks them
they are left out. `timeout` is the gateway's own to keep."""


class Dialect(StrEnum):
    """A protocol over a transport; the values are those of ModelSpec.speaks."""

    TFS_REST = "tfs-rest"
    TFS_GRPC = "tfs-grpc"
    V2_REST = "v2-rest"
    V2_GRPC = "v2-grpc"

    @property
    def is_v2(self) -> bool:
        """Whether it is a form of the Open Inference Protocol."""
        return self in (Dialect.V2_REST, Dialect.V2_GRPC)


@dataclass(frozen=True, slots=True)
class CanonicalRequest:
    """A prediction, whatever it was written in, with what its answer's form depends on."""

    inputs: dict[str, NDArray[Any]]
    signature_name: str = DEFAULT_SIGNATURE
    outputs: tuple[OipOutput, ...] = ()
    """Those asked for; empty asks for all."""
    model: str = ""
    """As the body names it; empty over HTTP, where the path does."""
    version: Version | None = None
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    row_form: bool = False
    """It came as TensorFlow Serving's `instances`; its answer goes as `predictions`."""
    binary_output: bool = False
    """V2 over HTTP: outputs that the request does not list come as bytes."""


@dataclass(frozen=True, slots=True)
class CanonicalResponse:
    """An answer, whatever it was written in."""

    outputs: dict[str, NDArray[Any]]
    model: str = ""
    version: str = ""
    """The effective one as the replica says it; empty where its dialect does not say."""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    classified: bool = False
    """Whether the replica has done what `OipOutput.classification` asks (V2 replicas do)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body and the HTTP headers that belong to it; gRPC messages have none."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


# ---- requests ---------------------------------------------------------------------------


def decode_request(
    dialect: Dialect,
    body: bytes,
    signatures: Mapping[str, Signature],
    *,
    header_length: int | None = None,
) -> CanonicalRequest:
    """Read a predict or infer request. `signatures` are the model's; TFS REST and V2's raw request
    cannot be read without them. `header_length` is V2 REST's (oip_headers.header_length).

    Raises:
        InvalidRequest, Unimplemented: in the words of `dialect`.
    """
    match dialect:
        case Dialect.TFS_REST:
            call = tfs_json.decode_predict(body, signatures)
            return CanonicalRequest(call.inputs, call.signature_name, row_form=call.row_form)
        case Dialect.TFS_GRPC:
            return _from_predict(body)
        case Dialect.V2_REST:
            only = signatures.get(_default_name(signatures))
            return _from_infer(
                oip_json.decode_infer(body, header_length, only, aligned=False), signatures
            )
        case Dialect.V2_GRPC:
            return _from_infer(oip_proto.decode_infer_bytes(body, aligned=False), signatures)


def _from_predict(body: bytes) -> CanonicalRequest:
    request, inputs = tfs_predict.decode_request(body)
    spec = request.model_spec
    has_version = spec.WhichOneof("version_choice") == "version"
    return CanonicalRequest(
        inputs,
        spec.signature_name or DEFAULT_SIGNATURE,
        tuple(OipOutput(name) for name in request.output_filter),
        spec.name,
        spec.version.value if has_version else None,
    )


def _default_name(signatures: Mapping[str, Signature]) -> str:
    """The signature that V2, which has one per model, means: the default, or the only one."""
    if DEFAULT_SIGNATURE not in signatures and len(signatures) == 1:
        return next(iter(signatures))
    return DEFAULT_SIGNATURE


def _from_infer(infer: OipInfer, signatures: Mapping[str, Signature]) -> CanonicalRequest:
    name = infer.parameters.get(_SIGNATURE_NAME, _default_name(signatures))
    if not isinstance(name, str):
        raise InvalidRequest(
            f"parameter '{_SIGNATURE_NAME}' must be a string", reason="bad_parameter"
        )
    return CanonicalRequest(
        infer.inputs,
        name,
        infer.outputs,
        infer.model,
        version_of(infer.version),
        infer.id,
        infer.parameters,
        binary_output=infer.binary_output,
    )


def encode_request(
    dialect: Dialect,
    request: CanonicalRequest,
    *,
    model: str,
    version: Version,
    binary: bool = True,
) -> Encoded:
    """Write it for a replica that speaks `dialect`, for exactly this version. Without `binary`, V2
    REST gets its tensors as JSON.

    Raises:
        InvalidRequest, Unimplemented: `dialect` cannot express it (`not_expressible`).
    """
    if dialect.is_v2:
        return _to_infer(dialect, request, model, version, binary)
    _refuse_parameters(request)
    if dialect is Dialect.TFS_REST:
        return Encoded(
            translate_rest.predict_body(request.inputs, request.signature_name),
            body_headers(None),
        )
    rest = tfs_pb2.PredictRequest()
    rest.model_spec.name = model
    rest.model_spec.version.value = version
    rest.model_spec.signature_name = request.signature_name
    rest.output_filter.extend(output.name for output in request.outputs)
    return Encoded(tfs_predict.encode_request(rest, request.inputs))


def _to_infer(
    dialect: Dialect, request: CanonicalRequest, model: str, version: Version, binary: bool
) -> Encoded:
    if request.signature_name not in (
        DEFAULT_SIGNATURE,
        request.parameters.get(_SIGNATURE_NAME),
    ):
        raise InvalidRequest(
            f'Serving signature name: "{request.signature_name}" cannot be asked for: this '
            "model's replicas speak the Open Inference Protocol, which has one signature per "
            f'model. Leave the name out, or say "{DEFAULT_SIGNATURE}"',
            reason="not_expressible",
        )
    infer = OipInfer(
        request.id,
        request.inputs,
        request.outputs,
        request.parameters,
        model=model,
        version=str(version),
    )
    if dialect is Dialect.V2_GRPC:
        return Encoded(oip_proto.encode_request_bytes(infer))
    json_length, body = oip_json.encode_request(infer, binary=binary)
    return Encoded(body, body_headers(json_length))


def _refuse_parameters(request: CanonicalRequest) -> None:
    """What V2 callers may ask and TensorFlow Serving has no word for."""
    for name in request.parameters:
        if name not in _HINTS:
            raise Unimplemented(
                f"parameter '{name}' cannot be passed on: this model's replicas speak the "
                "TensorFlow Serving protocol, which has no parameters. Leave it out",
                reason="not_expressible",
            )


# ---- answers ----------------------------------------------------------------------------


def decode_response(
    dialect: Dialect,
    body: bytes,
    signatures: Mapping[str, Signature],
    request: CanonicalRequest,
    *,
    header_length: int | None = None,
) -> CanonicalResponse:
    """Read a replica's successful answer to `request`.

    Raises:
        UpstreamFailed: it is not what the dialect promises (`bad_answer`).
    """
    try:
        match dialect:
            case Dialect.TFS_REST:
                signature = signatures.get(request.signature_name)
                if signature is None:
                    raise InvalidRequest(
                        f'it answered for signature "{request.signature_name}", which its '
                        "metadata lacks",
                        reason="bad_answer",
                    )
                return CanonicalResponse(translate_rest.outputs_of(body, signature))
            case Dialect.TFS_GRPC:
                answer, outputs = tfs_predict.decode_response(body)
                spec = answer.model_spec
                version = str(spec.version.value) if spec.HasField("version") else ""
                return CanonicalResponse(outputs, spec.name, version)
            case Dialect.V2_REST:
                return _from_answer(oip_json.decode_answer(body, header_length, aligned=False))
            case Dialect.V2_GRPC:
                return _from_answer(oip_proto.decode_answer_bytes(body, aligned=False))
    except (InvalidRequest, Unimplemented) as error:
        raise UpstreamFailed(
            f"The replica's answer cannot be read as {dialect}: {error.message}",
            reason="bad_answer",
            sent=True,
        ) from error


def _from_answer(answer: OipAnswer) -> CanonicalResponse:
    return CanonicalResponse(
        answer.outputs, answer.model, answer.version, answer.id, answer.parameters, classified=True
    )


def encode_response(
    dialect: Dialect,
    request: CanonicalRequest,
    response: CanonicalResponse,
    signatures: Mapping[str, Signature],
    *,
    model: str,
    version: Version,
) -> Encoded:
    """Write the answer to `request` for its caller. `model` and `version` stand in where the
    replica did not say them.

    Raises:
        InvalidRequest, Unimplemented: `dialect` cannot express an output, or there is no output of
            a name that was asked for; in its words.
    """
    outputs = _chosen(request, response, signatures)
    name = response.model or model
    match dialect:
        case Dialect.TFS_REST:
            return Encoded(tfs_json.encode_predict(outputs, request.row_form), body_headers(None))
        case Dialect.TFS_GRPC:
            rest = tfs_pb2.PredictResponse()
            rest.model_spec.name = name
            rest.model_spec.version.value = _number(response.version, version)
            rest.model_spec.signature_name = request.signature_name
            return Encoded(tfs_predict.encode_response(rest, outputs))
        case Dialect.V2_REST:
            json_length, body = oip_json.encode_infer(
                name,
                response.version or version,
                request.id or response.id,
                outputs,
                OipInfer("", {}, request.outputs, binary_output=request.binary_output),
                response.parameters,
            )
            return Encoded(body, body_headers(json_length))
        case Dialect.V2_GRPC:
            return Encoded(
                oip_proto.encode_infer_bytes(
                    name,
                    response.version or version,
                    request.id or response.id,
                    outputs,
                    parameters=response.parameters,
                )
            )


def _number(said: str, pinned: Version) -> Version:
    """The effective version as a number. Some V2 servers have names (`v1`) for versions."""
    if said.isascii() and said.isdigit() and len(said) <= 19 and int(said) <= INT64_MAX:
        return int(said)
    return pinned


def _chosen(
    request: CanonicalRequest, response: CanonicalResponse, signatures: Mapping[str, Signature]
) -> dict[str, NDArray[Any]]:
    """The outputs that were asked for, classified where that was asked and nobody has done it."""
    if not request.outputs:
        return response.outputs
    chosen: dict[str, NDArray[Any]] = {}
    for wanted in request.outputs:
        array = response.outputs.get(wanted.name)
        if array is None:
            raise InvalidRequest(
                f"unexpected inference output '{wanted.name}': the model has "
                f"{', '.join(response.outputs)}",
                reason="unknown_output",
            )
        if wanted.classification and not response.classified:
            has_rows = _has_rows(signatures.get(request.signature_name), wanted.name)
            array = top(wanted.name, array, wanted.classification, has_rows=has_rows)
        chosen[wanted.name] = array
    return chosen


def _has_rows(signature: Signature | None, output: str) -> bool:
    """Whether an output's first dimension is the batch: the one that a signature leaves open."""
    spec = signature.outputs.get(output) if signature is not None else None
    return spec is not None and bool(spec.shape) and spec.shape is not None and spec.shape[0] == -1
