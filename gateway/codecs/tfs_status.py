"""Model status and model configuration between TensorFlow Serving's messages and the domain.

A replica is told what to hold by ReloadConfigRequest and says what it holds by
GetModelStatusResponse. The protocol knows no fetching: a version being fetched is START ("tracked,
nothing done yet"), because LOADING promises that its resources have been granted. FAILED and GONE
are both END; the error code tells them apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES
from gateway.domain.errors import InvalidRequest
from gateway.domain.models import All, Latest, Specific, VersionPolicy, VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.replicas import Told

_UNKNOWN_ERROR = 2  # gRPC UNKNOWN: a failure that came without a code is still no success

TFS_STATE: dict[VersionState, tfs_pb2.ModelVersionStatus.State] = {
    VersionState.NEW: tfs_pb2.ModelVersionStatus.START,
    VersionState.FETCHING: tfs_pb2.ModelVersionStatus.START,
    VersionState.LOADING: tfs_pb2.ModelVersionStatus.LOADING,
    VersionState.READY: tfs_pb2.ModelVersionStatus.AVAILABLE,
    VersionState.DRAINING: tfs_pb2.ModelVersionStatus.UNLOADING,
    VersionState.GONE: tfs_pb2.ModelVersionStatus.END,
    VersionState.FAILED: tfs_pb2.ModelVersionStatus.END,
}
"""ModelVersionStatus.State for a state of ours."""

_STATE_OF_TFS: dict[int, VersionState] = {
    tfs_pb2.ModelVersionStatus.UNKNOWN: VersionState.NEW,
    tfs_pb2.ModelVersionStatus.START: VersionState.NEW,
    tfs_pb2.ModelVersionStatus.LOADING: VersionState.LOADING,
    tfs_pb2.ModelVersionStatus.AVAILABLE: VersionState.READY,
    tfs_pb2.ModelVersionStatus.UNLOADING: VersionState.DRAINING,
    tfs_pb2.ModelVersionStatus.END: VersionState.GONE,
}


@dataclass(frozen=True, slots=True)
class ConfiguredModel:
    """One model of a ReloadConfigRequest."""

    name: str
    base_path: str
    """Where its versions are; for our own servers a source URI."""
    platform: str = ""
    policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, Version] = field(default_factory=dict)


def _error(status: VersionStatus) -> tuple[int, str]:
    if status.state is VersionState.FAILED:
        return status.error_code or _UNKNOWN_ERROR, status.reason
    return status.error_code, status.reason if status.error_code else ""


def status_proto(statuses: Sequence[VersionStatus]) -> tfs_pb2.GetModelStatusResponse:
    """The gRPC answer, in the given order."""
    answer = tfs_pb2.GetModelStatusResponse()
    for status in statuses:
        code, message = _error(status)
        one = answer.model_version_status.add()
        one.version = status.version
        one.state = TFS_STATE[status.state]
        one.status.error_code = code
        one.status.error_message = message
    return answer


def status_json(statuses: Sequence[VersionStatus]) -> bytes:
    """The REST answer: every field printed, the version a string (protobuf's JSON for int64)."""
    items = []
    for status in statuses:
        code, message = _error(status)
        name = GRPC_CODE_NAMES[code] if 0 <= code < len(GRPC_CODE_NAMES) else code
        state = tfs_pb2.ModelVersionStatus.State.Name(TFS_STATE[status.state])
        items.append(
            {
                "version": str(status.version),
                "state": state,
                "status": {"error_code": name, "error_message": message},
            }
        )
    text = json.dumps({"model_version_status": items}, indent=1, ensure_ascii=False)
    return text.encode("utf-8", errors="replace") + b"\n"


def statuses_from_proto(answer: tfs_pb2.GetModelStatusResponse) -> list[VersionStatus]:
    """What a replica said of its versions, in its order. END with an error code is FAILED."""
    statuses = []
    for one in answer.model_version_status:
        code = one.status.error_code
        state = _STATE_OF_TFS.get(one.state, VersionState.NEW)
        if state is VersionState.GONE and code:
            state = VersionState.FAILED
        statuses.append(
            VersionStatus(one.version, state, reason=one.status.error_message, error_code=code)
        )
    return statuses


def reload_request(told: Told, platform: str) -> tfs_pb2.ReloadConfigRequest:
    """Tell a replica to hold exactly these versions of one model, and no other model."""
    request = tfs_pb2.ReloadConfigRequest()
    config = request.config.model_config_list.config.add()
    config.name = told.model
    config.base_path = told.source
    config.model_platform = platform
    # Set even when empty: "these versions: none" is not the default policy, "the latest".
    config.model_version_policy.specific.SetInParent()
    config.model_version_policy.specific.versions.extend(told.versions)
    for label, version in told.labels.items():
        config.version_labels[label] = version
    return request


def model_configs(request: tfs_pb2.ReloadConfigRequest) -> list[ConfiguredModel]:
    """The whole configuration that a ReloadConfigRequest puts in place of the old one.

    Raises:
        InvalidRequest: it holds something else than a model_config_list (`bad_config`), a model
            without name or base path, or one model twice.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise InvalidRequest(
            "Only a model_config_list can be reloaded; set config.model_config_list",
            reason="bad_config",
        )
    models: dict[str, ConfiguredModel] = {}
    for config in request.config.model_config_list.config:
        if not config.name or not config.base_path:
            raise InvalidRequest(
                f"Every model needs a name and a base_path; got name {config.name!r} and base_path "
                f"{config.base_path!r}",
                reason="bad_config",
            )
        if config.name in models:
            raise InvalidRequest(
                f"Model {config.name} is configured twice; name it once with all of its versions",
                reason="bad_config",
            )
        models[config.name] = ConfiguredModel(
            config.name,
            config.base_path,
            config.model_platform,
            _policy(config.model_version_policy),
            dict(config.version_labels),
        )
    return list(models.values())


def _policy(
    policy: tfs_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy,
) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(tuple(dict.fromkeys(policy.specific.versions)))
        case "latest":
            return Latest(max(1, policy.latest.num_versions))
        case _:
            return Latest()
