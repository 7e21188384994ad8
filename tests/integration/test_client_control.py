"""The client and the command line against the real control API, over fakes of what is behind."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing

import pytest

from gateway.cli.waiting import PlainDisplay, WaitingFailed, wait_ready
from gateway.client.control import ControlClient
from gateway.control import ControlApi, EventLog, LookSettings, ModelsService
from gateway.domain import errors
from gateway.domain.models import VersionState
from gateway.domain.replicas import ReplicaState
from gateway.store import MemoryStore
from tests.parts.fakes_control import (
    FakeObserved,
    FakeScheduler,
    FakeSource,
    published,
    replica,
    view,
)

SOURCE = "s3://b/m"


class World:
    """A control API on a port of its own, with a lifecycle that the test plays."""

    def __init__(self) -> None:
        self.source, self.observed = FakeSource(), FakeObserved()
        self.scheduler, store = FakeScheduler(), MemoryStore()
        self.source.versions[SOURCE] = [published(1, "model.onnx")]
        self.events = EventLog(store)
        service = ModelsService(
            store,
            self.source,
            self.observed,
            self.scheduler,
            self.events,
            looking=LookSettings(timeout_s=1.0),
        )
        where = {"http": "127.0.0.1:1", "grpc": "127.0.0.1:2", "control": "127.0.0.1:3"}
        self.api = ControlApi(service, addresses=lambda: where)

    def ready(self, generation: int = 1) -> None:
        self.observed.show(
            view(
                "m",
                generation=generation,
                versions={1: VersionState.READY},
                replicas={"m-aaaaa": ReplicaState.READY},
                live=1,
                converged=True,
            )
        )


@pytest.fixture
async def world():
    made = World()
    async with made.api.listening("127.0.0.1", 0) as address:
        made.url = f"http://{address}"
        async with ControlClient(made.url) as made.control:
            yield made


async def test_every_call_of_the_client_is_understood(world) -> None:
    control = world.control
    assert (await control.health())["addresses"]["grpc"] == "127.0.0.1:2"
    assert await control.models() == []
    made = await control.deploy("m", {"source": SOURCE, "replicas": 1, "labels": {"golden": 1}})
    assert (made["name"], made["backend"], made["generation"]) == ("m", "onnx", 1)
    world.ready()
    assert [m["state"] for m in await control.models()] == ["ready"]
    assert [v["version"] for v in await control.versions("m")] == [1]
    assert [r["id"] for r in await control.replicas()] == ["m-aaaaa"]
    assert await control.rollouts("m") == []
    assert (await control.scale("m", 3))["replicas"] == 3
    assert (await control.refresh("m"))["name"] == "m"
    assert {e["model"] for e in await control.events(model="m", limit=5)} == {"m"}
    assert (await control.delete("m"))["state"] == "deleting"


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({"source": "s3://none/x"}, errors.NotFound),
        ({"source": SOURCE, "replicas": -1}, errors.InvalidRequest),
        ({"source": SOURCE, "colour": "red"}, errors.InvalidRequest),
        ({}, errors.InvalidRequest),
    ],
)
async def test_refusals_arrive_as_the_errors_they_were(world, request_, kind) -> None:
    with pytest.raises(kind) as caught:
        await world.control.deploy("m", request_)
    assert len(caught.value.message) > 20
    with pytest.raises(errors.NotFound):
        await world.control.model("unknown")


async def test_a_watch_begins_where_it_was_told_and_goes_on(world) -> None:
    for n in range(3):
        await world.events.emit("version.ready", "m", f"number {n}")
    first = (await world.control.events())[0]["seq"]
    seen = []
    async with aclosing(world.control.watch(after=first, model="m")) as events:
        async for event in events:
            seen.append(event["message"])
            if len(seen) == 2:
                await world.events.emit("version.ready", "other", "not mine")
                await world.events.emit("version.ready", "m", "number 3")
            if len(seen) == 3:
                break
    assert seen == ["number 1", "number 2", "number 3"]


async def test_waiting_ends_when_the_lifecycle_says_so(world, capsys) -> None:
    made = await world.control.deploy("m", {"source": SOURCE})

    async def play() -> None:
        await asyncio.sleep(0.05)
        world.observed.show(view("m", versions={1: VersionState.LOADING}))
        await world.events.emit("version.loading", "m", "loading")
        await asyncio.sleep(0.05)
        world.ready()
        await world.events.emit("version.ready", "m", "ready")

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        display = PlainDisplay("m")
        look = await wait_ready(world.control, "m", made["generation"], 10.0, display)
    assert look.model["live_version"] == 1
    assert capsys.readouterr().err.splitlines()[-1] == "m: ready 1/1"


@pytest.mark.slow
async def test_waiting_ends_when_nothing_can_answer(world) -> None:
    made = await world.control.deploy("m", {"source": SOURCE})
    world.observed.show(view("m", versions={1: VersionState.FAILED}, reason="bad magic"))
    with pytest.raises(WaitingFailed, match="m cannot answer: version 1: bad magic"):
        await wait_ready(world.control, "m", made["generation"], 10.0, PlainDisplay("m"))


@pytest.mark.slow
async def test_the_command_line_speaks_to_the_real_thing(world) -> None:
    async def gateway(*arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "--url", world.url, *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(30):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    line = ("deploy", "model", "m", "--source", SOURCE, "--memory", "8Gi", "--batch-delay-ms", "2")
    code, out, err = await gateway(*line, "--no-wait", "-o", "json")
    assert (code, err) == (0, "")
    spec = json.loads(out)["spec"]
    assert spec["batch_delay_ms"] == 2
    world.ready()
    code, out, _ = await gateway("get", "models", "-o", "json")
    assert [m["state"] for m in json.loads(out)] == ["ready"]
    world.scheduler.known = [replica("m-aaaaa")]
    world.scheduler.written["m-aaaaa"] = [b"hello\n"]
    code, out, err = await gateway("logs", "m")
    assert (code, out) == (0, "[m-aaaaa] hello\n"), err
    code, out, _ = await gateway("describe", "model", "m")
    assert "m-aaaaa" in out
    code, out, err = await gateway("deploy", "model", "n", "--source", "s3://none/x")
    assert (code, out) == (1, "")
    assert "s3://none/x" in err
