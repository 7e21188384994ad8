"""What a watch makes of cut streams, 410, silence and refusals.

The server is a script of answers, as no real one can be made to give them on demand; what a real
one gives is shown in tests/cluster/.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from aiohttp import web

from gateway.domain.errors import Forbidden, Unauthorized, Unavailable
from gateway.schedulers.kubernetes.api import PODS, Api, lines
from gateway.schedulers.kubernetes.settings import KubernetesSettings
from gateway.schedulers.kubernetes.watching import Watched
from tests.parts.scripted_api import PlainAccess, serving

pytestmark = pytest.mark.slow

SETTINGS = KubernetesSettings(first_retry_s=0.001, last_retry_s=0.01, quiet_s=5.0, call_s=5.0)
HANG = "hang"
CUT = "cut"


def pod(name: str, version: int, mark: str = "") -> dict:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "mark": mark}


def event(kind: str, shown: dict) -> str:
    return json.dumps({"type": kind, "object": shown}) + "\n"


def bookmark(version: int) -> str:
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


GONE = event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


class Script:
    """Answers lists and watches one after the other; the last watch hangs for ever."""

    def __init__(self, lists: Sequence[list[dict]], watches: Sequence[Sequence[str] | int]) -> None:
        self.lists = list(lists)
        self.watches = list(watches)
        self.asked: list[tuple[str, str]] = []
        self.done = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.asked.append(("list", ""))
            items = self.lists.pop(0)
            version = max((int(i["metadata"]["resourceVersion"]) for i in items), default=0)
            return web.json_response(
                {"metadata": {"resourceVersion": str(version)}, "items": items}
            )
        self.asked.append(("watch", request.query["resourceVersion"]))
        steps = self.watches.pop(0) if self.watches else [HANG]
        if isinstance(steps, int):
            return web.json_response({"code": steps, "message": "refused"}, status=steps)
        stream = web.StreamResponse()
        await stream.prepare(request)
        for step in steps:
            if step == HANG:
                self.done.set()
                await asyncio.Event().wait()
            if step == CUT:
                request.transport.abort()
                return stream
            await stream.write(step.encode())
        return stream


@dataclass
class Followed:
    """A watch, and what it told of changes."""

    changes: list = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    kept: Watched | None = None

    def tell(self, name, before, now) -> None:
        self.changes.append((name, before, now))
        self.news.set()

    async def knows(self, known: dict) -> None:
        async with asyncio.timeout(30):
            while self.kept.known != known:
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def watching(script: Script, settings=SETTINGS):
    """A watch that has gone through the script."""
    followed = Followed()
    async with serving(script.answer) as host, Api(PlainAccess(host), settings) as api:
        kept = Watched(
            api,
            PODS,
            {"labelSelector": "a=b"},
            lambda shown: shown["mark"],
            followed.tell,
            settings,
            Random(1),
        )
        followed.kept = kept
        await kept.start()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(kept.run())
            await script.done.wait()
            yield followed
            task.cancel()


async def test_it_keeps_what_a_list_and_a_watch_say():
    script = Script(
        [[pod("a", 1, "old"), pod("b", 2)]],
        [
            [
                event("MODIFIED", pod("a", 3, "new")),
                event("DELETED", pod("b", 4)),
                event("ADDED", pod("c", 5)),
                HANG,
            ]
        ],
    )
    async with watching(script) as seen:
        await seen.knows({"a": "new", "c": ""})
    assert seen.changes[-3:] == [("a", "old", "new"), ("b", "", None), ("c", None, "")]
    assert script.asked == [("list", ""), ("watch", "2")]


@pytest.mark.parametrize("end", [[], [CUT]], ids=["ended by the server", "cut"])
async def test_it_resumes_where_it_left_off(end):
    script = Script(
        [[pod("a", 1)]], [[event("MODIFIED", pod("a", 7, "x")), *end], [bookmark(9), *end], [HANG]]
    )
    async with watching(script) as seen:
        await seen.knows({"a": "x"})
    assert script.asked == [("list", ""), ("watch", "1"), ("watch", "7"), ("watch", "9")]


async def test_half_an_event_is_no_event():
    whole = event("MODIFIED", pod("a", 7, "x"))
    script = Script([[pod("a", 1)]], [[whole[:-20], CUT], [whole, HANG]])
    async with watching(script) as seen:
        await seen.knows({"a": "x"})
    assert seen.changes == [("a", None, ""), ("a", "", "x")]
    assert script.asked[-1] == ("watch", "1")


@pytest.mark.parametrize("refusal", [[GONE], 410], ids=["in the stream", "as the answer"])
async def test_410_lists_anew_and_drops_what_has_gone_meanwhile(refusal):
    script = Script([[pod("a", 1), pod("b", 1)], [pod("a", 8, "x")]], [refusal, [HANG]])
    async with watching(script) as seen:
        await seen.knows({"a": "x"})
    assert ("b", "", None) in seen.changes
    assert script.asked == [("list", ""), ("watch", "1"), ("list", ""), ("watch", "8")]


async def test_a_server_that_only_says_410_is_not_flooded():
    slow = replace(SETTINGS, first_retry_s=0.05, last_retry_s=0.05)
    script = Script([[pod("a", 1)]] * 8, [410] * 5 + [[HANG]])
    async with watching(script, slow) as seen:
        await seen.knows({"a": ""})
    assert Counter(kind for kind, _ in script.asked)["list"] == 6


async def test_while_it_is_refused_what_was_known_stays_known():
    script = Script([[pod("a", 1)]], [500, 503, 403, [event("ADDED", pod("b", 2)), HANG]])
    async with watching(script) as seen:
        await seen.knows({"a": "", "b": ""})
        assert seen.kept.trouble == ""
    assert seen.changes == [("a", None, ""), ("b", None, "")]
    assert script.asked == [("list", ""), *[("watch", "1")] * 4]


async def test_refused_from_one_version_for_long_it_lists_anew():
    script = Script([[pod("a", 9)], [pod("a", 3, "restored")]], [504] * 5 + [[HANG]])
    async with watching(script) as seen:
        await seen.knows({"a": "restored"})
    assert script.asked[-2:] == [("list", ""), ("watch", "3")]


async def test_silence_is_taken_for_a_dead_connection():
    quiet = replace(SETTINGS, quiet_s=0.05)
    asked = []

    async def silent(request: web.Request) -> web.StreamResponse:
        asked.append(request.query.get("resourceVersion"))
        stream = web.StreamResponse()
        await stream.prepare(request)
        await asyncio.Event().wait()
        return stream

    async with serving(silent) as host, Api(PlainAccess(host), quiet) as api:
        async with asyncio.timeout(30):
            assert [e async for e in api.watch(PODS, {}, "4")] == []
    assert asked == ["4"]


async def test_lists_come_in_pages():
    pages = {"": ([pod("a", 1)], "more"), "more": ([pod("b", 2)], "")}

    async def paged(request: web.Request) -> web.Response:
        items, more = pages[request.query.get("continue", "")]
        return web.json_response(
            {"metadata": {"resourceVersion": "5", "continue": more}, "items": items}
        )

    async with serving(paged) as host, Api(PlainAccess(host), SETTINGS) as api:
        found, version = await api.list(PODS, {})
    assert [f["metadata"]["name"] for f in found] == ["a", "b"]
    assert version == "5"


async def test_an_expired_token_is_read_again_once():
    async def guarded(request: web.Request) -> web.Response:
        if request.headers["authorization"] == "token-0":
            return web.json_response({"message": "Unauthorized"}, status=401)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    async with serving(guarded) as host, Api(PlainAccess(host), SETTINGS) as api:
        assert await api.list(PODS, {}) == ([], "1")


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, Unauthorized, "does not take these credentials"),
        (403, Forbidden, "cannot list resource.*role lacks this right"),
        (500, Unavailable, "answers 500"),
    ],
)
async def test_refusals_say_what_is_wrong(status, kind, words):
    said = 'pods is forbidden: User "x" cannot list resource "pods" in API group ""'

    async def refusing(request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": said}, status=status)

    async with serving(refusing) as host, Api(PlainAccess(host), SETTINGS) as api:
        with pytest.raises(kind, match=words):
            await api.list(PODS, {})


async def test_lines_are_whole_however_they_come():
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"a"', b":1}\n{", b'"b":2}\n\n{"c"'):
            yield piece

    assert [line async for line in lines(pieces())] == [b'{"a":1}', b'{"b":2}']
