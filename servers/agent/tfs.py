"""The TensorFlow Serving that the agent stands beside, over its own ModelService.

Blocking calls, made from threads: the kit loads and unloads on threads of its own anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.codecs.tfs_status import statuses_from_proto
from gateway.domain.errors import Unavailable
from gateway.domain.models import VersionStatus

STATUS_TIMEOUT_S = 2.0
"""A server that takes longer to say what it holds is as good as gone for whoever asks."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the server is to hold of one model."""

    base_path: str
    versions: frozenset[int]
    labels: Mapping[str, int] = field(default_factory=dict)


class Tfs:
    """ModelService of one TensorFlow Serving. Safe for threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(
            address,
            # A server that restarts is back in seconds; gRPC's own backoff would grow to minutes.
            options=[("grpc.max_reconnect_backoff_ms", 1000)],
        )
        self._status = self._channel.unary_unary(Method.GET_MODEL_STATUS.path, bytes, bytes)
        self._reload = self._channel.unary_unary(Method.HANDLE_RELOAD_CONFIG.path, bytes, bytes)

    def statuses(self, model: str) -> dict[int, VersionStatus]:
        """What it says of a model's versions; empty when it knows no such model.

        Raises:
            Unavailable: it does not answer, or not with a status.
        """
        request = tfs_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            answer = self._status(request.SerializeToString(), timeout=STATUS_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise self._silent(error) from error
        return {
            status.version: status
            for status in statuses_from_proto(tfs_pb2.GetModelStatusResponse.FromString(answer))
        }

    def reload(self, models: Mapping[str, Held], timeout_s: float) -> str:
        """Replace its whole configuration. Returns what it objected to, or an empty string.

        It answers only once models that are new to it are available or have failed, so this may
        take as long as loading does.

        Raises:
            Unavailable: it does not answer.
        """
        request = tfs_pb2.ReloadConfigRequest()
        # Set even when there is no model: an unset list means "no change" to TensorFlow Serving.
        configs = request.config.model_config_list
        configs.SetInParent()
        for name, held in models.items():
            config = configs.config.add(
                name=name, base_path=held.base_path, model_platform="tensorflow"
            )
            config.model_version_policy.specific.versions.extend(sorted(held.versions))
            for label, version in held.labels.items():
                config.version_labels[label] = version
        try:
            answer = self._reload(request.SerializeToString(), timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise self._silent(error) from error
            return str(error.details())
        said = tfs_pb2.ReloadConfigResponse.FromString(answer).status
        return said.error_message if said.error_code else ""

    def close(self) -> None:
        """End the channel."""
        self._channel.close()

    def _silent(self, error: grpc.RpcError) -> Unavailable:
        return Unavailable(
            f"TensorFlow Serving at {self.address} does not answer its ModelService "
            f"({error.code().name}: {error.details()})",
            reason="tfs_silent",
            retry_after_s=1.0,
        )
