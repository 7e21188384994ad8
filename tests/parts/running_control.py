"""The control API over real HTTP, with fakes behind its service."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from gateway.control import (
    ControlApi,
    ControlSettings,
    EventLog,
    EventSettings,
    LookSettings,
    ModelsService,
    StreamSettings,
)
from gateway.control.schema import DeployRequest
from gateway.domain.errors import Unavailable
from gateway.domain.models import PROTOCOLS
from gateway.domain.tensors import DType, Signature, TensorSpec
from gateway.store import open_store
from tests.parts.fakes_control import FakeObserved, FakeScheduler, FakeSource, published

S = "s3://b/m"
SETTINGS = ControlSettings(
    max_body_bytes=10_000,
    known_hosts=("gateway.lan",),
    streams=StreamSettings(max_streams=3, heartbeat_s=0.2, stall_s=0.5),
)


@dataclass
class Api:
    url: str
    http: aiohttp.ClientSession
    service: ModelsService
    source: FakeSource
    observed: FakeObserved
    scheduler: FakeScheduler
    events: EventLog
    control: ControlApi

    async def call(self, method: str, path: str, body=None, **headers):
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        async with self.http.request(method, self.url + path, data=data, headers=headers) as answer:
            text = await answer.read()
            value = json.loads(text) if answer.content_type == "application/json" else text
            return answer.status, value, answer.headers


class FakeSignatures:
    """ports.Signatures: x in, y out."""

    async def of(self, model: str, version: int, speaks) -> dict[str, Signature]:
        assert speaks == PROTOCOLS
        if version == 1:
            raise Unavailable("No replica could say", reason="no_selectable_replica")
        x, y = (TensorSpec(n, DType.FLOAT, (-1, 2)) for n in "xy")
        return {"serving_default": Signature({"x": x}, {"y": y})}


@asynccontextmanager
async def running(tmp_path, settings=SETTINGS, recent=1024) -> AsyncIterator[Api]:
    store = await open_store(tmp_path)
    source, observed, scheduler = FakeSource(), FakeObserved(), FakeScheduler()
    source.versions[S] = [published(1, "model.onnx"), published(2, "model.onnx")]
    events = EventLog(store, EventSettings(recent=recent))
    service = ModelsService(
        store,
        source,
        observed,
        scheduler,
        events,
        looking=LookSettings(timeout_s=0.2),
        signatures=FakeSignatures(),
    )
    control = ControlApi(
        service,
        addresses=lambda: {"http": "0.0.0.0:1", "grpc": "127.0.0.1:2"},
        metrics=lambda: b"gateway_up 1\n",
        settings=settings,
    )
    async with (
        control.listening("127.0.0.1", 0) as address,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http,
    ):
        yield Api(f"http://{address}", http, service, source, observed, scheduler, events, control)
    await store.aclose()


def a_request() -> DeployRequest:
    """What deploys a model from `S`."""
    return DeployRequest(source=S)
