"""The TensorFlow Serving that the agent stands beside, over its own ModelService.

Calls are made on the loop that the `Tfs` was made in. The kit loads and unloads on threads of its
own; for them there is `on_thread`, which waits there for what is done here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.codecs.tfs_status import statuses_from_proto
from gateway.domain.errors import Unavailable
from gateway.domain.models import VersionStatus
from gateway.wire.exchange import WireError
from gateway.wire.grpc_client import GrpcAnswer, unary
from gateway.wire.grpc_text import Code, code_name
from gateway.wire.h2_client import Http2Client

_T = TypeVar("_T")

_MAX_MESSAGE = 16 * 1024 * 1024
STATUS_TIMEOUT_S = 2.0
"""A server that takes longer to say what it holds is as good as gone for whoever asks."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the server is to hold of one model."""

    base_path: str
    versions: frozenset[int]
    labels: Mapping[str, int] = field(default_factory=dict)


class Tfs:
    """ModelService of one TensorFlow Serving."""

    def __init__(self, address: str) -> None:
        """Within a running loop."""
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._client = Http2Client()

    def on_thread(self, call: Coroutine[Any, Any, _T]) -> _T:
        """Wait, on a thread that is not the loop's, for one of the calls below.

        Raises:
            Unavailable: the loop has ended, and with it the agent.
        """
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop).result()
        except (RuntimeError, CancelledError) as error:
            call.close()
            raise Unavailable("the agent is shutting down", reason="draining") from error

    async def _call(self, method: Method, message: bytes, timeout_s: float) -> GrpcAnswer:
        """One call; that no answer came is an answer, too."""
        until = self._loop.time() + timeout_s
        try:
            return await unary(
                self._client,
                self.address,
                method.path,
                message,
                deadline_at=until,
                timeout_s=timeout_s,
                max_bytes=_MAX_MESSAGE,
            )
        except WireError as error:
            return GrpcAnswer(Code.UNAVAILABLE, error.message, b"", ())
        except TimeoutError:
            return GrpcAnswer(Code.DEADLINE_EXCEEDED, f"after {timeout_s:g} s", b"", ())

    async def statuses(self, model: str) -> dict[int, VersionStatus]:
        """What it says of a model's versions; empty when it knows no such model.

        Raises:
            Unavailable: it does not answer, or not with a status.
        """
        request = tfs_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        said = await self._call(
            Method.GET_MODEL_STATUS, request.SerializeToString(), STATUS_TIMEOUT_S
        )
        if said.code == Code.NOT_FOUND:
            return {}
        if said.code:
            raise self._silent(said)
        answer = tfs_pb2.GetModelStatusResponse.FromString(said.message)
        return {status.version: status for status in statuses_from_proto(answer)}

    async def reload(self, models: Mapping[str, Held], timeout_s: float) -> str:
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
        said = await self._call(Method.HANDLE_RELOAD_CONFIG, request.SerializeToString(), timeout_s)
        if said.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
            raise self._silent(said)
        if said.code:
            return said.details
        status = tfs_pb2.ReloadConfigResponse.FromString(said.message).status
        return status.error_message if status.error_code else ""

    async def aclose(self) -> None:
        """End its connections."""
        await self._client.aclose()

    def _silent(self, said: GrpcAnswer) -> Unavailable:
        return Unavailable(
            f"TensorFlow Serving at {self.address} does not answer its ModelService "
            f"({code_name(said.code)}: {said.details})",
            reason="tfs_silent",
            retry_after_s=1.0,
        )
