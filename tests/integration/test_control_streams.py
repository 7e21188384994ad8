"""The control API's event stream and logs, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import aiohttp
import pytest

from gateway.domain.errors import Unavailable
from tests.parts.fakes_control import replica
from tests.parts.running_control import Api, a_request, running

P = "/api/v1/models/m"


@pytest.fixture
async def api(tmp_path) -> AsyncIterator[Api]:
    async with running(tmp_path) as made:
        yield made


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


@pytest.mark.parametrize("headers", [{}, {"Accept": "*/*"}, {"Accept": "text/event-stream"}])
async def test_who_does_not_ask_for_a_list_watches(api, headers):
    async with watching(api, "", **headers) as stream:
        await api.events.emit("t", "m", "x")
        assert (await stream.event())[1] == "t"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?limit=5", {}),
        ("?watch=0", {}),
        ("?watch=0&after=0", {"Accept": "*/*"}),
        ("", {"Accept": "application/json"}),
    ],
)
async def test_who_asks_for_a_list_gets_one(api, query, headers):
    await api.events.emit("t", "m", "x")
    status, value, _ = await api.call("GET", f"/api/v1/events{query}", **headers)
    assert (status, [e["type"] for e in value["items"]]) == (200, ["t"])


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
        await api.service.deploy("m", a_request())
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
    await api.service.deploy("m", a_request())
    api.scheduler.known = [replica("m-a"), replica("m-b"), replica("other-c", "other")]
    api.scheduler.written = {"m-a": [b"one\ntw", b"o\n"], "m-b": [b"three"], "m-old": [b"old\n"]}
    status, text, headers = await api.call("GET", P + "/logs")
    assert status == 200
    assert text == b"[m-a] one\n[m-a] two\n[m-b] three\n"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert (await api.call("GET", P + "/logs?replica=m-a"))[1] == b"one\ntwo\n"
    assert (await api.call("GET", P + "/logs?replica=m-old"))[1] == b"old\n"


async def test_a_replica_of_several_outputs_says_whose_each_line_is(api):
    await api.service.deploy("m", a_request())
    api.scheduler.known = [replace(replica("m-a"), outputs=("agent", "server"))]
    api.scheduler.written = {
        "m-a": [b"1\n2\n"],
        "m-a/agent": [b"1\n"],
        "m-a/server": [b"2\n"],
    }
    for query in ("", "?replica=m-a"):
        _, text, _ = await api.call("GET", f"{P}/logs{query}")
        assert text == b"[m-a/agent] 1\n[m-a/server] 2\n"
    assert (await api.call("GET", P + "/logs?replica=m-a/agent"))[1] == b"1\n"
    assert (await api.call("GET", P + "/logs?replica=m-a/none"))[0] == 404


async def test_following_logs_goes_on_until_the_replicas_end(api):
    await api.service.deploy("m", a_request())
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
    await api.service.deploy("m", a_request())
    api.scheduler.known = [replica("m-a")]
    api.scheduler.written = {"m-a": [b"a\n"]}
    async with api.http.get(f"{api.url}{P}/logs?follow=1&replica=m-a") as answer:
        await answer.content.readline()
        assert api.control._streams.open == 1
    await all_streams_ended(api)


@pytest.mark.parametrize("query", ["follow=1", "follow=1&replica=m-a", ""])
async def test_logs_that_break_off_say_so(api, query):
    await api.service.deploy("m", a_request())
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
