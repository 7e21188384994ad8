"""What the Open Inference Protocol says about servers and models, in JSON and in protos.

Domain values go in; nothing here asks anybody. Triton's shapes lead; where KServe answers a body
and Triton none (health and readiness), the flavour decides. Sources: triton-inference-server/server
docs/protocol (extension_{model_configuration,statistics,model_repository}.md), KServe's
open_inference_rest.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.codecs.json_text import parse_object
from gateway.codecs.oip_dtypes import config_type, shown_datatype
from gateway.codecs.oip_errors import Flavour, error_body
from gateway.codecs.oip_stats import ModelStats as ModelStats
from gateway.codecs.oip_stats import statistics_json as statistics_json
from gateway.codecs.oip_stats import statistics_proto as statistics_proto
from gateway.codecs.pb import oip_pb2
from gateway.domain.errors import InvalidRequest
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.tensors import Signature, TensorSpec

EXTENSIONS: tuple[str, ...] = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
"""What we offer beyond the protocol's core, by Triton's names. Shared memory and sequences are
refused, so they are not in here."""


def _json(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


# ---- health ------------------------------------------------------------------------------


def live_answer(flavour: Flavour, live: bool) -> tuple[int, bytes]:
    """Status and body of `GET /v2/health/live`; Triton has no body."""
    body = b"" if flavour is Flavour.TRITON else _json({"live": live})
    return (200 if live else _not_ready_status(flavour)), body


def ready_answer(flavour: Flavour, ready: bool) -> tuple[int, bytes]:
    """Status and body of `GET /v2/health/ready`: 400 and nothing, or 503 and KServe's words."""
    if flavour is Flavour.TRITON:
        return (200 if ready else 400), b""
    return (200, _json({"ready": True})) if ready else (503, error_body("Server is not ready."))


def model_ready_answer(flavour: Flavour, name: str, ready: bool) -> tuple[int, bytes]:
    """Status and body of `GET /v2/models/NAME/ready` for a model that exists."""
    if flavour is Flavour.TRITON:
        return (200, b"") if ready else (400, error_body("Model version not ready"))
    if ready:
        return 200, _json({"name": name, "ready": True})
    return 503, error_body(f"Model with name {name} is not ready.")


def _not_ready_status(flavour: Flavour) -> int:
    return 400 if flavour is Flavour.TRITON else 503


# ---- metadata ----------------------------------------------------------------------------


def server_metadata_json(name: str, version: str, extensions: Sequence[str] = EXTENSIONS) -> bytes:
    """`GET /v2`."""
    return _json({"name": name, "version": version, "extensions": list(extensions)})


def server_metadata_proto(
    name: str, version: str, extensions: Sequence[str] = EXTENSIONS
) -> oip_pb2.ServerMetadataResponse:
    """ServerMetadata."""
    return oip_pb2.ServerMetadataResponse(name=name, version=version, extensions=extensions)


def model_metadata_json(
    name: str, versions: Iterable[Version], platform: str, signature: Signature
) -> bytes:
    """`GET /v2/models/NAME`. A dynamic dimension is -1; a tensor of unknown rank is shown as
    `[-1]`, because the protocol cannot say so."""
    return _json(
        {
            "name": name,
            "versions": [str(version) for version in versions],
            "platform": platform,
            "inputs": [_tensor(spec) for spec in signature.inputs.values()],
            "outputs": [_tensor(spec) for spec in signature.outputs.values()],
        }
    )


def model_metadata_proto(
    name: str, versions: Iterable[Version], platform: str, signature: Signature
) -> oip_pb2.ModelMetadataResponse:
    """ModelMetadata; see `model_metadata_json`."""
    answer = oip_pb2.ModelMetadataResponse(
        name=name, versions=[str(version) for version in versions], platform=platform
    )
    answer.inputs.extend(_tensor_proto(spec) for spec in signature.inputs.values())
    answer.outputs.extend(_tensor_proto(spec) for spec in signature.outputs.values())
    return answer


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": shown_datatype(spec.dtype),
        "shape": list(_shape(spec)),
    }


def _tensor_proto(spec: TensorSpec) -> oip_pb2.ModelMetadataResponse.TensorMetadata:
    return oip_pb2.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=shown_datatype(spec.dtype), shape=_shape(spec)
    )


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return (-1,) if spec.shape is None else spec.shape


# ---- configuration -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OipConfig:
    """What a model configuration of ours says."""

    name: str
    platform: str = ""
    """Triton's names: `onnxruntime_onnx`, `tensorflow_savedmodel`; others as they are."""
    backend: str = ""
    versions: tuple[Version, ...] = ()
    """Served ones; empty shows the policy "latest 1"."""
    max_batch_size: int = 0
    """0 where rows are not joined. Else every shape is shown without its first dimension."""
    delay_s: float = 0.0
    """How long a row waits for company."""
    parameters: Mapping[str, str] = field(default_factory=dict)


def config_proto(config: OipConfig, signature: Signature) -> oip_pb2.ModelConfigResponse:
    """ModelConfig."""
    answer = oip_pb2.ModelConfigResponse()
    made = answer.config
    made.name, made.platform, made.backend = config.name, config.platform, config.backend
    made.max_batch_size = config.max_batch_size
    if config.versions:
        made.version_policy.specific.versions.extend(config.versions)
    else:
        made.version_policy.latest.num_versions = 1
    skip = 1 if config.max_batch_size else 0
    for spec in signature.inputs.values():
        made.input.add(
            name=spec.name,
            data_type=config_type(spec.dtype),
            dims=_shape(spec)[skip:],
            optional=spec.default is not None,
        )
    for spec in signature.outputs.values():
        made.output.add(
            name=spec.name,
            data_type=config_type(spec.dtype),
            dims=_shape(spec)[skip:],
        )
    if config.max_batch_size:
        made.dynamic_batching.preferred_batch_size.append(config.max_batch_size)
        made.dynamic_batching.max_queue_delay_microseconds = round(config.delay_s * 1e6)
    for key, value in config.parameters.items():
        made.parameters[key].string_value = value
    made.model_transaction_policy.decoupled = False
    return answer


def config_json(config: OipConfig, signature: Signature) -> bytes:
    """`GET /v2/models/NAME/config`: the fields of ModelConfig that we have, by proto names."""
    made = config_proto(config, signature).config
    policy: dict[str, Any] = {"latest": {"num_versions": 1}}
    if config.versions:
        policy = {"specific": {"versions": list(config.versions)}}
    body: dict[str, Any] = {
        "name": made.name,
        "platform": made.platform,
        "backend": made.backend,
        "version_policy": policy,
        "max_batch_size": made.max_batch_size,
        "input": [{**_config_tensor(one), "optional": one.optional} for one in made.input],
        "output": [_config_tensor(one) for one in made.output],
    }
    if config.max_batch_size:
        body["dynamic_batching"] = {
            "preferred_batch_size": list(made.dynamic_batching.preferred_batch_size),
            "max_queue_delay_microseconds": made.dynamic_batching.max_queue_delay_microseconds,
        }
    body["parameters"] = {k: {"string_value": v} for k, v in config.parameters.items()}
    body["model_transaction_policy"] = {"decoupled": False}
    return _json(body)


def _config_tensor(one: oip_pb2.ModelInput | oip_pb2.ModelOutput) -> dict[str, Any]:
    return {
        "name": one.name,
        "data_type": oip_pb2.DataType.Name(one.data_type),
        "dims": list(one.dims),
    }


# ---- repository --------------------------------------------------------------------------

_INDEX_STATE: dict[VersionState, str] = {
    VersionState.NEW: "LOADING",
    VersionState.FETCHING: "LOADING",
    VersionState.LOADING: "LOADING",
    VersionState.READY: "READY",
    VersionState.DRAINING: "UNLOADING",
    VersionState.GONE: "UNAVAILABLE",
    VersionState.FAILED: "UNAVAILABLE",
}


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version in the repository's index, or a model that has none."""

    name: str
    version: Version | None = None
    state: str = ""
    reason: str = ""


def index_entries(
    models: Mapping[str, Sequence[VersionStatus]], *, only_ready: bool = False
) -> list[IndexEntry]:
    """The index of these models. With `only_ready`, just what can answer."""
    entries = []
    for name, statuses in models.items():
        if not statuses and not only_ready:
            entries.append(IndexEntry(name, state="UNAVAILABLE", reason="no versions"))
        for status in statuses:
            if only_ready and status.state is not VersionState.READY:
                continue
            reason = "unloaded" if status.state is VersionState.GONE else status.reason
            state = _INDEX_STATE[status.state]
            entries.append(IndexEntry(name, status.version, state, reason))
    return entries


def repository_index_json(entries: Iterable[IndexEntry]) -> bytes:
    """`POST /v2/repository/index`."""
    return _json(
        [
            {
                "name": entry.name,
                **({} if entry.version is None else {"version": str(entry.version)}),
                "state": entry.state,
                "reason": entry.reason,
            }
            for entry in entries
        ]
    )


def repository_index_proto(entries: Iterable[IndexEntry]) -> oip_pb2.RepositoryIndexResponse:
    """RepositoryIndex."""
    answer = oip_pb2.RepositoryIndexResponse()
    for entry in entries:
        answer.models.add(
            name=entry.name,
            version="" if entry.version is None else str(entry.version),
            state=entry.state,
            reason=entry.reason,
        )
    return answer


def index_only_ready(body: bytes) -> bool:
    """What the body of `POST /v2/repository/index` asks: `{"ready"?: bool}` or nothing.

    Raises:
        InvalidRequest: no JSON object, or `ready` is no boolean (`bad_json`).
    """
    ready = parse_object(body).get("ready", False) if body else False
    if not isinstance(ready, bool):
        raise InvalidRequest("Invalid value for 'ready': expected a boolean", reason="bad_json")
    return ready


def control_parameters(body: bytes) -> dict[str, Any]:
    """The `parameters` in the body of a load or unload; none where there is no body.

    Raises:
        InvalidRequest: no JSON object, or `parameters` is none (`bad_json`).
    """
    parameters = parse_object(body).get("parameters", {}) if body else {}
    if not isinstance(parameters, dict):
        raise InvalidRequest(
            "Unable to parse 'parameters': attempt to access JSON non-object as object",
            reason="bad_json",
        )
    return parameters


def control_answer(flavour: Flavour, name: str, done: str) -> bytes:
    """The body of a successful load or unload (`done` is which): nothing, or KServe's."""
    return b"" if flavour is Flavour.TRITON else _json({"name": name, done: True})


def models_json(names: Iterable[str]) -> bytes:
    """KServe's `GET /v2/models`."""
    return _json({"models": list(names)})
