"""A model server of the kit in this process, with HTTP and gRPC clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import numpy as np

from gateway.codecs import tfs_tensors
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import NotFound
from gateway.domain.models import VersionState
from servers.kit.runtime import Runtime
from servers.kit.server import Running, serving
from servers.kit.settings import ServerSettings


async def eventually(condition: Callable[[], bool], longest_s: float = 20) -> None:
    """Wait until something is true that nobody announces."""
    async with asyncio.timeout(longest_s):
        while not condition():  # noqa: ASYNC110 - looking is the point of a test
            await asyncio.sleep(0.01)


@dataclass
class Kit:
    running: Running
    channel: grpc.aio.Channel
    session: aiohttp.ClientSession

    async def call(self, method: Method, request: Any, timeout_s: float = 30) -> bytes:
        return await self.channel.unary_unary(method.path)(
            request.SerializeToString(), timeout=timeout_s
        )

    async def predict(
        self,
        name: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        outputs: tuple[str, ...] = (),
        timeout_s: float = 30,
    ) -> dict[str, np.ndarray]:
        answer = await self.predict_raw(
            name, inputs, version=version, outputs=outputs, timeout_s=timeout_s
        )
        return {n: tfs_tensors.to_array(t) for n, t in answer.outputs.items()}

    async def predict_raw(
        self,
        name: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        outputs: tuple[str, ...] = (),
        timeout_s: float = 30,
    ) -> tfs_pb2.PredictResponse:
        request = tfs_pb2.PredictRequest()
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        for alias, array in inputs.items():
            request.inputs[alias].CopyFrom(tfs_tensors.to_proto(array))
        request.output_filter.extend(outputs)
        return tfs_pb2.PredictResponse.FromString(
            await self.call(Method.PREDICT, request, timeout_s)
        )

    async def reload(self, **models: tuple[str, tuple[int, ...]]) -> None:
        """name=(base path, specific versions)"""
        await self.call(Method.HANDLE_RELOAD_CONFIG, reload_request(**models))

    async def post(
        self, path: str, body: bytes | str, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        url = f"http://{self.running.http}{path}"
        async with self.session.post(url, data=body, headers=headers) as answer:
            return answer.status, await answer.text()

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(f"http://{self.running.http}{path}") as answer:
            return answer.status, await answer.text()

    def state(self, name: str, version: int) -> VersionState | None:
        try:
            return self.running.manager.statuses(name, version)[0].state
        except NotFound:
            return None

    async def until(self, name: str, version: int, state: VersionState, longest_s: float = 20):
        await eventually(lambda: self.state(name, version) is state, longest_s)


def reload_request(**models: tuple[str, tuple[int, ...]]) -> tfs_pb2.ReloadConfigRequest:
    request = tfs_pb2.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    for name, (path, versions) in models.items():
        config = request.config.model_config_list.config.add()
        config.name, config.base_path = name, path
        config.model_version_policy.specific.SetInParent()
        config.model_version_policy.specific.versions.extend(versions)
    return request


@asynccontextmanager
async def kit(
    runtime: Runtime, settings: ServerSettings | None = None, **models: str
) -> AsyncIterator[Kit]:
    """Serve `name=folder` models; ready once each has been tried."""
    settings = settings or ServerSettings()
    async with serving(runtime, settings) as running:
        if models:
            from gateway.codecs.tfs_status import ConfiguredModel

            running.manager.configure([ConfiguredModel(n, p) for n, p in models.items()])
            await running.manager.tried(frozenset(models))
        async with (
            grpc.aio.insecure_channel(
                running.grpc, options=[("grpc.max_receive_message_length", -1)]
            ) as channel,
            aiohttp.ClientSession() as session,
        ):
            yield Kit(running, channel, session)
