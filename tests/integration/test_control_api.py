"""The control API over real HTTP: every route, every refusal, the event stream and the logs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from gateway import __version__
from gateway.control import (
    ControlApi,
    ControlSettings,
    EventLog,
    EventSettings,
    LookSettings,
    ModelsService,
    StreamSettings,
)
from gateway.control.operations import OPERATIONS
from gateway.domain.errors import Forbidden, Unavailable
from gateway.domain.models import PROTOCOLS, VersionState
from gateway.domain.replicas import ReplicaState
from gateway.domain.tensors import DType, Signature, TensorSpec
from gateway.store import open_store
from tests.parts.fakes_control import (
    FakeObserved,
    FakeScheduler,
    FakeSource,
    published,
    replica,
    view,
)

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


@pytest.fixture
async def api(tmp_path) -> AsyncIterator[Api]:
    async with running(tmp_path) as made:
        yield made


async def test_a_models_own_document_comes_from_its_live_version(api):
    path = "/api/v1/models/m/openapi.json"
    status, told, _ = await api.call("GET", path)
    assert (status, told["error"]["reason"]) == (404, "model_unknown")
    await api.call("PUT", "/api/v1/models/m", {"source": S})
    status, told, headers = await api.call("GET", path)
    assert (status, told["error"]["reason"]) == (503, "version_loading")
    assert headers["Retry-After"] == "1"
    api.observed.show(view(versions={1: VersionState.READY, 2: VersionState.READY}, live=2))
    status, told, _ = await api.call("GET", path)
    assert (status, told["info"]["title"], told["info"]["version"]) == (200, "Model m", "2")
    # It listens on every address, so it is reached where we reached the control API.
    assert told["servers"] == [{"url": "http://127.0.0.1:1"}]
    assert "/v2/models/m/infer" in told["paths"]
    api.observed.show(view(versions={1: VersionState.READY}, live=1))
    status, told, _ = await api.call("GET", path)
    assert (status, told["error"]["reason"]) == (503, "no_selectable_replica")


async def test_the_life_of_a_model_over_the_api(api):
    path = "/api/v1/models/m"
    status, model, _ = await api.call("PUT", path, {"source": S, "replicas": 2})
    assert (status, model["state"], model["replicas"]) == (201, "pending", 2)
    assert (model["reason"], model["source_reason"]) == (
        "its source has not been looked at yet",
        None,
    )
    api.observed.show(
        view(
            versions={2: VersionState.READY},
            replicas={"m-a": ReplicaState.READY, "m-b": ReplicaState.READY},
            live=2,
            converged=True,
        )
    )
    status, model, _ = await api.call("GET", path)
    assert (status, model["state"], model["live_version"]) == (200, "ready", 2)
    assert (await api.call("PUT", path, model["spec"]))[0] == 200
    status, model, _ = await api.call("POST", path + ":scale", {"replicas": 3})
    assert (status, model["replicas"], model["generation"]) == (200, 3, 2)
    status, _, _ = await api.call("POST", path + ":refresh")
    assert status == 202
    for kind in ("versions", "replicas", "rollouts"):
        one, every, filtered = [
            (await api.call("GET", p))[1]["items"]
            for p in (f"{path}/{kind}", f"/api/v1/{kind}", f"/api/v1/{kind}?model=m")
        ]
        assert one == every == filtered
        assert len(one) == {"versions": 1, "replicas": 2, "rollouts": 0}[kind]
    assert [m["name"] for m in (await api.call("GET", "/api/v1/models"))[1]["items"]] == ["m"]
    status, model, _ = await api.call("DELETE", path)
    assert (status, model["state"]) == (202, "deleting")
    api.observed.show(None, "m")
    assert (await api.call("GET", path))[0] == 404
    status, events, _ = await api.call("GET", "/api/v1/events")
    types = [e["type"] for e in events["items"]]
    assert types == ["model.deployed", "model.scaled", "model.deleting"]
    keys = {"seq", "at", "type", "model", "version", "replica", "message", "fields"}
    assert set(events["items"][0]) == keys


P = "/api/v1/models/m"
LONG = b'{"source":"' + b"x" * 20_000 + b'"}'
ERRORS = [
    ("PUT", P, {"source": "s3://b/none"}, 404, "source_not_found"),
    ("PUT", P, {"source": "s3://b/denied"}, 403, "source_denied"),
    ("PUT", P, {"source": "s3://b/down"}, 503, "source_unreachable"),
    ("PUT", P, {"source": "s3://b/empty"}, 400, "source_empty"),
    ("PUT", P, {"source": "s3://b/odd"}, 400, "backend_unknown"),
    ("PUT", P, {"source": S, "versions": "7"}, 400, "version_not_in_source"),
    ("PUT", P, {"source": S, "require_manifest": True}, 400, "manifest_missing"),
    ("PUT", P, {"source": S, "replicas": -1}, 400, "bad_replicas"),
    ("PUT", P, {"source": S, "canary": "5", "shadow": "0%"}, 400, "bad_shadow"),
    ("PUT", P, {"source": S, "canary": "50,5"}, 400, "bad_canary"),
    ("POST", f"{P}/rollout", {"action": "explode"}, 400, "bad_action"),
    ("POST", f"{P}/rollout", {"action": "pause", "version": 3}, 400, "bad_version"),
    ("POST", f"{P}/rollout", {"action": "pause"}, 404, "model_unknown"),
    ("POST", f"{P}/rollout", {"act": "pause"}, 400, "unknown_key"),
    ("PUT", P, {"source": S, "nope": 1}, 400, "unknown_key"),
    ("PUT", P, {"source": 1}, 400, "bad_body"),
    ("PUT", P, b"{", 400, "bad_json"),
    ("PUT", P, b"", 400, "bad_json"),
    ("PUT", P, LONG, 413, "too_large"),
    ("PUT", "/api/v1/models/a%20b", {"source": S}, 400, "bad_model_name"),
    ("PUT", "/api/v1/models/old", {"source": "s3://b/tf"}, 409, "backend_conflict"),
    ("PUT", "/api/v1/models/old", {"replicas": 2, "generation": 7}, 409, "stale_generation"),
    ("GET", P, None, 404, "model_unknown"),
    ("DELETE", P, None, 404, "model_unknown"),
    ("POST", P + ":scale", {"replicas": 1}, 404, "model_unknown"),
    ("POST", P + ":scale", {}, 400, "bad_body"),
    ("POST", P + ":scale", {"replicas": 0}, 400, "bad_replicas"),
    ("POST", P + ":refresh", None, 404, "model_unknown"),
    ("GET", P + "/versions", None, 404, "model_unknown"),
    ("GET", P + "/logs", None, 404, "model_unknown"),
    ("GET", "/api/v1/models/old/logs?replica=old-zzzzz", None, 404, "replica_unknown"),
    ("GET", "/api/v1/models/old/logs?replica=else-zzzzz", None, 404, "replica_unknown"),
    ("GET", "/api/v1/models/old/logs?follow=maybe", None, 400, "bad_query"),
    ("GET", "/api/v1/replicas?model=m", None, 404, "model_unknown"),
    ("GET", "/api/v1/events?after=x", None, 400, "bad_query"),
    ("GET", "/api/v1/events?limit=0", None, 400, "bad_query"),
    ("GET", "/api/v1/nothing", None, 404, "path_unknown"),
    ("GET", "/", None, 404, "path_unknown"),
    ("PATCH", P, None, 405, "method_not_allowed"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    ERRORS,
    ids=[f"{e[0]} {e[1]} {e[4]}" for e in ERRORS],
)
async def test_every_refusal_has_its_status_its_reason_and_words(
    api, method, path, body, status, reason
):
    await api.service.deploy("old", _source())
    api.source.versions |= {
        "s3://b/denied": Forbidden("The key is wrong.", reason="source_denied"),
        "s3://b/down": Unavailable("No answer.", reason="source_unreachable", retry_after_s=2.5),
        "s3://b/empty": [],
        "s3://b/odd": [published(1, "x")],
        "s3://b/tf": [published(1, "saved_model.pb")],
    }
    got, value, headers = await api.call(method, path, body)
    assert (got, value["error"]["reason"]) == (status, reason)
    assert set(value) == {"error"}
    assert len(value["error"]["message"]) > 8
    assert headers["x-gateway-reason"] == reason
    if status == 503:
        assert headers["Retry-After"] == "3"
    if status == 405:
        assert headers["Allow"] == "DELETE, GET, PUT"
    assert [m.name for m in await api.service.models()] == ["old"]


def _source():
    from gateway.control.schema import DeployRequest

    return DeployRequest(source=S)


async def test_if_match_names_the_generation(api):
    await api.service.deploy("m", _source())
    for text, status in (('"1"', 200), ("1", 409), ("*", 200), ("abc", 400)):
        got, _, _ = await api.call("POST", P + ":scale", {"replicas": 2}, **{"If-Match": text})
        assert got == status


async def test_about_itself(api):
    status, health, _ = await api.call("GET", "/api/v1/health")
    assert (status, health["status"], health["version"]) == (200, "ok", __version__)
    assert health["addresses"] == {"http": "0.0.0.0:1", "grpc": "127.0.0.1:2", "control": None}
    assert (await api.call("GET", "/healthz"))[1] == b"ok"
    status, metrics, headers = await api.call("GET", "/metrics")
    assert metrics == b"gateway_up 1\n"
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    _, document, _ = await api.call("GET", "/api/v1/openapi.json")
    assert document["openapi"] == "3.1.0"


async def test_every_route_is_in_the_document_and_the_other_way_round(api):
    routed = {(r.method, r.resource.canonical) for r in api.control.application().router.routes()}
    assert routed == {(o.method, o.path) for o in OPERATIONS}


async def test_a_bug_is_answered_and_not_told(api, monkeypatch, caplog):
    async def broken():
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(api.service, "models", broken)
    status, value, _ = await api.call("GET", "/api/v1/models")
    assert (status, value["error"]["reason"]) == (500, "bug")
    assert "secret" not in str(value)
    assert "ZeroDivisionError" in caplog.text


async def test_pages_of_others_can_neither_change_nor_rebind(api):
    evil = {"Origin": "http://evil.example"}
    status, value, headers = await api.call("PUT", P, {"source": S}, **evil)
    assert (status, value["error"]["reason"]) == (403, "cross_origin")
    assert not [h for h in headers if h.lower().startswith("access-control")]
    assert (await api.call("GET", "/api/v1/models", Host="evil.example"))[0] == 403
    assert (await api.call("GET", "/api/v1/models", Host="gateway.lan"))[0] == 200
    assert (await api.call("OPTIONS", P, **evil))[0] == 405
    assert list(await api.service.models()) == []


async def test_an_address_in_use_says_so(api):
    port = int(api.url.rsplit(":", 1)[1])
    with pytest.raises(Unavailable, match=r"cannot listen on 127\.0\.0\.1:") as caught:
        async with api.control.listening("127.0.0.1", port):
            pass
    assert caught.value.reason == "address_in_use"


# ---- the event stream --------------------


@dataclass
class Stream:
    """A small reader of server-sent events."""

    answer: aiohttp.ClientResponse
    comments: int = 0
    rest: list[str] = field(default_factory=list)

    async def event(self) -> tuple[str | None, str, dict]:
        fields: dict[str, str] = {}
        while True:
            line = (await self.answer.content.readline()).decode()
            if not line:
                raise EOFError
            line = line.rstrip("\n")
            if not line:
                if "data" in fields:
                    return fields.get("id"), fields["event"], json.loads(fields["data"])
                fields = {}
            elif line.startswith(":"):
                self.comments += 1
            else:
                name, _, value = line.partition(": ")
                fields[name] = value


async def all_streams_ended(api: Api) -> None:
    async with asyncio.timeout(30):
        while api.control._streams.open:  # noqa: ASYNC110 - seen from outside, as a person would
            await asyncio.sleep(0.05)


@asynccontextmanager
async def watching(api: Api, query: str = "watch=1", **headers) -> AsyncIterator[Stream]:
    async with api.http.get(f"{api.url}/api/v1/events?{query}", headers=headers) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        yield Stream(answer)


async def test_a_watcher_sees_what_happens_from_now_on(api):
    await api.events.emit("t", "m", "before")
    async with watching(api) as stream:
        await api.events.emit("version.ready", "m", "é\nline", version=3, replica="m-a")
        got, kind, event = await stream.event()
    assert (got, kind, event["seq"]) == ("2", "version.ready", 2)
    assert (event["message"], event["version"], event["replica"]) == ("é\nline", 3, "m-a")


async def test_a_watcher_that_comes_back_misses_nothing_and_sees_nothing_twice(api):
    seen: list[int] = []
    emitted = 0
    for _ in range(5):
        last = {"Last-Event-ID": str(seen[-1])} if seen else {}
        async with watching(api, "watch=1&after=0", **last) as stream:
            for _ in range(4):
                await api.events.emit("t", "m", "x")
                emitted += 1
            while len(seen) < emitted - 1:  # leave one unread
                seen.append(int((await stream.event())[0] or 0))
        await api.events.emit("t", "m", "while away")
        emitted += 1
    async with watching(api, Accept="text/event-stream", **{"Last-Event-ID": str(seen[-1])}) as s:
        while len(seen) < emitted:
            seen.append(int((await s.event())[0] or 0))
    assert seen == list(range(1, emitted + 1))


async def test_a_watcher_of_one_model_sees_only_that(api):
    async with watching(api, "watch=1&model=b") as stream:
        for name in "aabab":
            await api.events.emit("t", name, "x")
        assert [(await stream.event())[0] for _ in range(2)] == ["3", "5"]


async def test_a_silent_stream_beats(api):
    async with watching(api) as stream:
        await asyncio.sleep(0.5)
        await api.events.emit("t", "m", "x")
        await stream.event()
        assert stream.comments >= 1


async def test_events_that_were_dropped_are_told(tmp_path):
    async with running(tmp_path, recent=4) as api:
        api.service._store._settings = type(api.service._store._settings)(max_events=10)
        for _ in range(30):
            await api.events.emit("t", "m", "x")
        async with watching(api, **{"Last-Event-ID": "5"}) as stream:
            got, kind, event = await stream.event()
            assert (got, kind, event["seq"]) == (None, "stream.gap", 5)
            assert "6 to 20" in event["message"]
            assert (await stream.event())[0] == "21"


async def test_a_position_of_another_database_begins_now(api):
    await api.events.emit("t", "m", "x")
    async with watching(api, **{"Last-Event-ID": "999999"}) as stream:
        await api.events.emit("t", "m", "y")
        assert (await stream.event())[0] == "2"


async def test_there_are_only_so_many_streams(api):
    async with watching(api), watching(api), watching(api):
        status, value, headers = await api.call("GET", "/api/v1/events?watch=1")
        assert (status, value["error"]["reason"]) == (429, "too_many_streams")
        assert "Retry-After" in headers
    await all_streams_ended(api)


async def test_a_reader_that_stops_reading_is_cut_and_may_come_back(tmp_path):
    async with running(tmp_path, recent=8) as api:
        host, port = api.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(f"GET /api/v1/events?watch=1 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await reader.readuntil(b"retry: 1000\n\n")
        big = "x" * 500_000
        for _ in range(40):
            await api.events.emit("t", "m", big)
        await all_streams_ended(api)
        writer.close()
        async with watching(api, **{"Last-Event-ID": "38"}) as stream:
            assert [(await stream.event())[0] for _ in range(2)] == ["39", "40"]


async def test_stopping_ends_the_streams_at_once(tmp_path):
    async with running(tmp_path) as api:
        api.scheduler.known = [replica("m-a")]
        api.scheduler.written["m-a"] = [b"hello\n"]
        await api.service.deploy("m", _source())
        began = asyncio.get_running_loop().time()
        async with (
            api.http.get(f"{api.url}{P}/logs?follow=1") as logs,
            api.http.get(f"{api.url}/api/v1/events?watch=1") as stream,
        ):
            api.control._streams.close()
            assert await stream.content.read() == b"retry: 1000\n\n"
            assert await logs.content.read() == b"[m-a] hello\n"
        assert asyncio.get_running_loop().time() - began < 20


# ---- logs --------------------


async def test_logs_of_all_replicas_are_prefixed_and_of_one_are_not(api):
    await api.service.deploy("m", _source())
    api.scheduler.known = [replica("m-a"), replica("m-b"), replica("other-c", "other")]
    api.scheduler.written = {"m-a": [b"one\ntw", b"o\n"], "m-b": [b"three"], "m-old": [b"old\n"]}
    status, text, headers = await api.call("GET", P + "/logs")
    assert status == 200
    assert text == b"[m-a] one\n[m-a] two\n[m-b] three\n"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert (await api.call("GET", P + "/logs?replica=m-a"))[1] == b"one\ntwo\n"
    assert (await api.call("GET", P + "/logs?replica=m-old"))[1] == b"old\n"


async def test_following_logs_goes_on_until_the_replicas_end(api):
    await api.service.deploy("m", _source())
    api.scheduler.known = [replica("m-a"), replica("m-b")]
    api.scheduler.written = {"m-a": [b"a\n"], "m-b": [b"b\n"]}
    async with api.http.get(f"{api.url}{P}/logs?follow=1") as answer:
        lines = {await answer.content.readline() for _ in range(2)}
        assert lines == {b"[m-a] a\n", b"[m-b] b\n"}
        api.scheduler.more.set()
        lines = {await answer.content.readline() for _ in range(2)}
        assert lines == {b"[m-a] the end\n", b"[m-b] the end\n"}
        assert await answer.content.read() == b""


async def test_a_reader_of_quiet_logs_that_leaves_is_noticed(api):
    await api.service.deploy("m", _source())
    api.scheduler.known = [replica("m-a")]
    api.scheduler.written = {"m-a": [b"a\n"]}
    async with api.http.get(f"{api.url}{P}/logs?follow=1&replica=m-a") as answer:
        await answer.content.readline()
        assert api.control._streams.open == 1
    await all_streams_ended(api)


@pytest.mark.parametrize("query", ["follow=1", "follow=1&replica=m-a", ""])
async def test_logs_that_break_off_say_so(api, query):
    await api.service.deploy("m", _source())
    api.scheduler.known = [replica("m-a")]
    api.scheduler.written = {"m-a": [b"a\n"]}
    read = api.scheduler.logs

    async def broken(replica_id, *, follow):
        async for chunk in read(replica_id, follow=False):
            yield chunk
        raise Unavailable("The disk is gone.", reason="disk")

    api.scheduler.logs = broken
    status, text, _ = await api.call("GET", f"{P}/logs?{query}")
    assert status == 200
    assert text.endswith(b"a\n[gateway] the log breaks off: The disk is gone.\n")


async def test_a_store_that_fails_cuts_the_stream_with_its_reason(api, monkeypatch):
    async with watching(api) as stream:
        await api.events.emit("t", "m", "x")
        await stream.event()

        async def broken(*_, **__):
            raise Unavailable("The disk is full.", reason="store_full")

        monkeypatch.setattr(api.events, "read", broken)
        api.events.wake()
        got, kind, event = await stream.event()
    assert (got, kind, event["message"]) == (None, "stream.cut", "The disk is full.")
