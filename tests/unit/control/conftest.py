"""The service over fakes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.control import EventLog, LookSettings, ModelsService
from gateway.store import MemoryStore
from tests.parts.fakes_control import FakeObserved, FakeScheduler, FakeSource, published


@dataclass
class World:
    service: ModelsService
    store: MemoryStore
    source: FakeSource
    observed: FakeObserved
    scheduler: FakeScheduler
    events: EventLog


@pytest.fixture
async def world() -> World:
    store, source, observed, scheduler = (
        MemoryStore(),
        FakeSource(),
        FakeObserved(),
        FakeScheduler(),
    )
    source.versions["s3://b/m"] = [published(1, "model.onnx"), published(2, "model.onnx")]
    events = EventLog(store)
    service = ModelsService(
        store, source, observed, scheduler, events, looking=LookSettings(timeout_s=0.2)
    )
    return World(service, store, source, observed, scheduler, events)
