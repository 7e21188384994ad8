"""A gateway that does not lead any more writes nothing, whatever it had begun."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from aiohttp import web

from gateway.core.placement import template_of
from gateway.domain.errors import Unavailable
from gateway.domain.models import Backend, ModelSpec
from gateway.domain.replicas import ReplicaSet
from gateway.ports import SharedScheduler
from gateway.schedulers import LocalScheduler
from gateway.schedulers.kubernetes import applying
from gateway.schedulers.kubernetes.api import BUDGETS, DEPLOYMENTS, PODS, Api
from gateway.schedulers.kubernetes.applying import KINDS, Applier, Seen
from gateway.schedulers.kubernetes.scheduler import KubernetesScheduler
from gateway.schedulers.kubernetes.settings import KubernetesSettings
from tests.parts.scripted_api import PlainAccess, serving

pytestmark = pytest.mark.slow

SETTINGS = KubernetesSettings(images={"onnx": "onnx:1"}, call_s=5.0)
MANIFEST = {"metadata": {"name": "m"}}

Write = Callable[[Api], Awaitable[object]]
WRITES: dict[str, Write] = {
    "apply": lambda api: api.apply(DEPLOYMENTS, MANIFEST, is_ours=True),
    "annotate": lambda api: api.annotate("pod-1", {"a": None}),
    "delete": lambda api: api.delete(BUDGETS, "m", "uid"),
}


class Server:
    """Takes every write; keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.has_all = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.method)
        if len(self.asked) == len(KINDS):
            self.has_all.set()
        if request.method == "PATCH":
            return web.json_response(await request.json(), status=self.status)
        return web.json_response({"metadata": {"resourceVersion": "1"}}, status=self.status)


@asynccontextmanager
async def reached(server: Server) -> AsyncIterator[Api]:
    async with serving(server.answer) as host, Api(PlainAccess(host), SETTINGS) as api:
        yield api


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_every_write_is_for_who_leads_and_looking_is_for_all(write: Write) -> None:
    server = Server()
    async with reached(server) as api:
        await write(api)
        assert len(server.asked) == 1
        api.may_write = lambda: False
        with pytest.raises(Unavailable) as refused:
            await write(api)
        assert refused.value.reason == "not_leader"
        assert len(server.asked) == 1
        await api.list(PODS, {})
        assert server.asked[1:] == ["GET"]


async def test_the_lead_that_is_lost_while_credentials_are_renewed_is_lost() -> None:
    server = Server()
    server.status = 401
    async with reached(server) as api:
        api.may_write = lambda: not server.asked
        with pytest.raises(Unavailable):
            await WRITES["apply"](api)
        assert server.asked == ["PATCH"]


async def test_what_was_held_back_is_no_trouble_of_the_model_and_done_when_the_lead_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(applying, "_UNREADY_S", 0.001)
    server, asked = Server(), 0
    is_held = asyncio.Event()

    def may_write() -> bool:
        nonlocal asked
        asked += 1
        if asked == 5:
            is_held.set()
        return asked > 5

    told: list[str] = []
    spec = ModelSpec("m", "s3://models/m", Backend.ONNX, replicas=2)
    async with reached(server) as api:
        api.may_write = may_write
        seen = Seen(lambda model: (), {kind: {} for kind in KINDS}, {})
        applier = Applier(
            api, seen, lambda: True, lambda: told.append("trouble"), SETTINGS, Random(1)
        )
        applier.want([ReplicaSet(spec, template_of(spec), 2)])
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(applier.run())
            await is_held.wait()
            assert (server.asked, applier.troubles) == ([], {})
            await server.has_all.wait()
            running.cancel()
    assert server.asked == ["PATCH"] * len(KINDS)
    assert told == []


def test_the_scheduler_on_pods_is_one_that_several_gateways_share_and_local_processes_are_not(
    tmp_path: Path,
) -> None:
    assert isinstance(KubernetesScheduler(SETTINGS), SharedScheduler)
    assert not isinstance(LocalScheduler(tmp_path, environ={}), SharedScheduler)
