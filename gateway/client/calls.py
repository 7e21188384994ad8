"""Predictions as exchanges of bytes: what to send, and what the answer means. No I/O.

`predicting` is the whole of a prediction as a generator: it yields the calls to make and is sent
their answers. So the sync and the async client, over gRPC and over HTTP, share every decision and
differ only in how a call is carried.

gRPC: PredictRequest with raw tensor_content. HTTP: TensorFlow Serving's REST in column form, whose
JSON does not say what type a number has; there the model's metadata is asked first, and kept.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from google.protobuf.message import DecodeError

from gateway.codecs import tfs_metadata, tfs_tensors
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import InvalidRequest, NotFound, UpstreamFailed
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]
Inputs = Mapping[str, Any] | Any
"""Arrays (or what numpy makes one of) by name; or one alone, where the model has one input."""


class Dialect(Enum):
    """How the gateway is spoken to."""

    GRPC = "grpc"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange: `target` is a gRPC method path, or an HTTP path (GET where `body` is None)."""

    target: str
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Target:
    """Which version is meant; neither means the live one."""

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise InvalidRequest("Name a version or a label, not both", reason="bad_target")

    @property
    def path(self) -> str:
        """As TensorFlow Serving's REST writes it."""
        path = f"/v1/models/{quote(self.model, safe='')}"
        if self.version is not None:
            return f"{path}/versions/{self.version}"
        return path if self.label is None else f"{path}/labels/{quote(self.label, safe='')}"

    def spec(self, signature: str = "") -> tfs_pb2.ModelSpec:
        """As gRPC writes it."""
        spec = tfs_pb2.ModelSpec(name=self.model, signature_name=signature)
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label
        return spec


Steps = Generator[Call, bytes, Any]


class SignatureBook:
    """Signatures by target, so that metadata is asked once and not with each prediction.

    What a name means may change with the model's next version; `predicting` forgets an entry and
    asks again when the server refuses what was encoded by it. The oldest entry goes at MAX.
    """

    MAX = 256

    def __init__(self) -> None:
        self._known: dict[Target, Mapping[str, Signature]] = {}

    def get(self, target: Target) -> Mapping[str, Signature] | None:
        """What is known of `target`."""
        return self._known.get(target)

    def put(self, target: Target, signatures: Mapping[str, Signature]) -> None:
        """Remember."""
        while len(self._known) >= self.MAX:
            # pop, not del: another thread may have been quicker
            self._known.pop(next(iter(self._known), target), None)
        self._known[target] = signatures

    def forget(self, target: Target) -> bool:
        """Whether there was something to forget."""
        return self._known.pop(target, None) is not None


def describing(
    dialect: Dialect, target: Target, book: SignatureBook
) -> Generator[Call, bytes, Mapping[str, Signature]]:
    """All signatures of a model, from the book or by asking."""
    known = book.get(target)
    if known is not None:
        return known
    if dialect is Dialect.GRPC:
        request = tfs_pb2.GetModelMetadataRequest(
            model_spec=target.spec(), metadata_field=["signature_def"]
        )
        answer = yield Call(Method.GET_MODEL_METADATA.path, request.SerializeToString())
        told = _message(tfs_pb2.GetModelMetadataResponse, answer)
    else:
        answer = yield Call(f"{target.path}/metadata", None)
        told = _metadata_of_json(answer)
    signatures = tfs_metadata.signatures_from_metadata(told)
    book.put(target, signatures)
    return signatures


def predicting(
    dialect: Dialect,
    target: Target,
    inputs: Inputs,
    signature: str,
    outputs: Sequence[str] | None,
    book: SignatureBook,
) -> Generator[Call, bytes, dict[str, Array]]:
    """One prediction. The caller throws the server's refusal in at the yield that it answers."""
    known_before = book.get(target) is not None
    try:
        return (yield from _predict_once(dialect, target, inputs, signature, outputs, book))
    except InvalidRequest:
        # Perhaps a newer version has other inputs than the ones remembered: look once more.
        if not (known_before and book.forget(target)):
            raise
    return (yield from _predict_once(dialect, target, inputs, signature, outputs, book))


def _predict_once(
    dialect: Dialect,
    target: Target,
    inputs: Inputs,
    signature: str,
    outputs: Sequence[str] | None,
    book: SignatureBook,
) -> Generator[Call, bytes, dict[str, Array]]:
    typed = isinstance(inputs, Mapping) and all(
        isinstance(v, np.ndarray | np.generic) for v in inputs.values()
    )
    spec: Signature | None = None
    if dialect is Dialect.HTTP or not typed:
        spec = choose((yield from describing(dialect, target, book)), signature, target.model)
    arrays = as_arrays(inputs, spec)
    if dialect is Dialect.GRPC:
        answer = yield grpc_call(target, arrays, signature, outputs)
        return grpc_answer(answer)
    assert spec is not None
    answer = yield http_call(target, arrays, signature)
    found = http_answer(answer, spec)
    missing = sorted(set(outputs or ()) - set(found))
    if missing:
        raise InvalidRequest(
            f"output tensor alias not found in signature: {missing[0]} Outputs expected to be in "
            f"the set {{{','.join(sorted(found))}}}.",
            reason="unknown_output",
        )
    return {name: found[name] for name in outputs} if outputs else found


# ---- arrays --------------------


def as_arrays(inputs: Inputs, spec: Signature | None) -> dict[str, Array]:
    """Arrays by name. A numpy array goes as it is; a list takes the type that the signature says.

    Raises:
        InvalidRequest: a lone array where there are several inputs, or values that are no array.
    """
    if not isinstance(inputs, Mapping):
        names = list(spec.inputs) if spec is not None else []
        if len(names) != 1:
            raise InvalidRequest(
                f"This signature has {len(names)} inputs ({', '.join(names)}): pass a mapping "
                "from input names to arrays",
                reason="unknown_input",
            )
        inputs = {names[0]: inputs}
    return {
        str(name): _as_array(str(name), value, spec.inputs.get(str(name)) if spec else None)
        for name, value in inputs.items()
    }


def _as_array(name: str, value: Any, spec: TensorSpec | None) -> Array:
    given = isinstance(value, np.ndarray | np.generic)
    try:
        if given or spec is None:
            array = np.asarray(value)
        elif spec.dtype is DType.STRING:
            array = np.asarray(value, dtype=object)
        else:
            array = np.asarray(value, dtype=tfs_tensors.numpy_dtype(spec.dtype))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(
            f"The value for input {name} makes no array: {error}", reason="bad_shape"
        ) from error
    if array.dtype.kind in "UO":
        flat = [v.encode() if isinstance(v, str) else v for v in array.ravel().tolist()]
        wrong = next((v for v in flat if not isinstance(v, bytes)), None)
        if wrong is not None:
            raise InvalidRequest(
                f"Input {name} holds {type(wrong).__name__} among its elements: a tensor holds "
                "numbers of one type, or strings",
                reason="bad_dtype",
            )
        strings = np.empty(len(flat), dtype=object)
        strings[:] = flat
        return strings.reshape(array.shape)
    return array


# ---- gRPC --------------------


def grpc_call(
    target: Target, arrays: Mapping[str, Array], signature: str, outputs: Sequence[str] | None
) -> Call:
    """PredictRequest."""
    request = tfs_pb2.PredictRequest(model_spec=target.spec(signature), output_filter=outputs or ())
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(tfs_tensors.to_proto(array, None))
    return Call(Method.PREDICT.path, request.SerializeToString())


def grpc_answer(body: bytes) -> dict[str, Array]:
    """Arrays of a PredictResponse."""
    answer = _message(tfs_pb2.PredictResponse, body)
    return {name: tfs_tensors.to_array(tensor) for name, tensor in answer.outputs.items()}


def _message(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise UpstreamFailed(
            f"The answer is no {kind.DESCRIPTOR.name}: {error}", reason="bad_answer", sent=True
        ) from error


# ---- HTTP --------------------


def http_call(target: Target, arrays: Mapping[str, Array], signature: str) -> Call:
    """A predict request in column form, which says every shape and implies no batch."""
    body = b'{"signature_name":%s,"inputs":{%s}}' % (
        json.dumps(signature or DEFAULT_SIGNATURE).encode(),
        b",".join(json.dumps(n).encode() + b":" + _json(a) for n, a in arrays.items()),
    )
    return Call(f"{target.path}:predict", body)


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


def http_answer(body: bytes, spec: Signature) -> dict[str, Array]:
    """Arrays of a column-form answer, typed by the signature's outputs."""
    try:
        try:
            value = orjson.loads(body)["outputs"]
        except orjson.JSONDecodeError:
            value = json.loads(body)["outputs"]  # NaN, Infinity
        if len(spec.outputs) == 1:
            value = {next(iter(spec.outputs)): value}
        return {n: _typed(v, spec.outputs[n]) for n, v in value.items() if n in spec.outputs}
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise UpstreamFailed(
            f"The answer is not what the signature promises: {error!r}",
            reason="bad_answer",
            sent=True,
        ) from error


def _typed(value: Any, spec: TensorSpec) -> Array:
    if spec.dtype is DType.STRING:
        return np.array(_map(value, _bytes), dtype=object)
    return np.asarray(value, dtype=tfs_tensors.numpy_dtype(spec.dtype))


def _metadata_of_json(body: bytes) -> tfs_pb2.GetModelMetadataResponse:
    """REST shows the same message as proto3 JSON, but for the Any, which it spells without type."""
    from google.protobuf import json_format

    try:
        shown = json.loads(body)
        signatures = json_format.ParseDict(
            shown["metadata"]["signature_def"],
            tfs_pb2.SignatureDefMap(),
            ignore_unknown_fields=True,
        )
    except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
        raise UpstreamFailed(
            f"The metadata cannot be read: {error}", reason="bad_answer", sent=True
        ) from error
    told = tfs_pb2.GetModelMetadataResponse()
    told.metadata["signature_def"].Pack(signatures)
    return told


def choose(signatures: Mapping[str, Signature], name: str, model: str) -> Signature:
    """The signature called `name`; raises NotFound with the ones there are."""
    found = signatures.get(name or DEFAULT_SIGNATURE)
    if found is None:
        raise NotFound(
            f'Serving signature name: "{name}" not found in signature def of model {model}, '
            f"which has: {', '.join(sorted(signatures)) or 'none'}",
            reason="signature_unknown",
        )
    return found
