"""Coroutines over an exchange: reading, answering, leaving."""

from __future__ import annotations

import asyncio

import pytest

from gateway.domain.errors import DeadlineExceeded, TooLarge
from gateway.wire.exchange import RequestHead
from gateway.wire.fields import Fields
from gateway.wire.tasks import Tasks
from tests.parts.scripted_exchange import ScriptedExchange


def exchange(length: int | None = None) -> ScriptedExchange:
    return ScriptedExchange(RequestHead("POST", "/x", (), content_length=length))


@pytest.fixture
def bugs():
    return []


@pytest.fixture
async def tasks(bugs):
    async with Tasks(bugs.append) as made:
        yield made
    assert len(made) == 0


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def soon() -> float:
    return asyncio.get_running_loop().time() + 60


async def echo(awaited) -> None:
    body = await awaited.body(1000, soon())
    awaited.respond(200, (Fields((("x-a", "b"),)),), body)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_whole_body_is_there_at_once(tasks, kind):
    made = exchange(3)
    tasks.run(made, kind(b"abc"), echo)
    await settle()
    assert (made.status, made.fields, made.body) == (200, (("x-a", "b"),), b"abc")
    assert made.deeds == []


async def test_a_body_in_pieces_is_accepted_when_it_is_asked_for(tasks):
    made = exchange()
    awaited = tasks.run(made, None, echo)
    assert made.deeds == []
    await settle()
    assert made.deeds == ["accept"]
    awaited.on_data(memoryview(b"ab"))
    await settle()
    awaited.on_data(b"cd")
    awaited.on_end((("t", "1"),))
    await settle()
    assert made.body == b"abcd"
    assert awaited.trailers == (("t", "1"),)


async def test_a_body_said_to_be_too_large_is_not_accepted(tasks):
    made, seen = exchange(1001), []

    async def handler(awaited):
        with pytest.raises(TooLarge) as raised:
            await awaited.body(1000, soon())
        seen.append(raised.value.reason)
        awaited.respond(413, (), b"")

    tasks.run(made, None, handler)
    await settle()
    assert seen == ["too_large"]
    assert made.deeds == []


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_body_that_becomes_too_large_is_refused(tasks, is_whole):
    made, seen = exchange(), []

    async def handler(awaited):
        try:
            await awaited.body(2, soon())
        except TooLarge as error:
            seen.append(error.reason)
        awaited.respond(413, (), b"")

    awaited = tasks.run(made, b"abc" if is_whole else None, handler)
    if not is_whole:
        awaited.on_data(b"abc")
    await settle()
    assert seen == ["too_large"]


async def test_a_body_that_does_not_come_in_time(tasks):
    made, seen = exchange(), []

    async def handler(awaited):
        try:
            await awaited.body(10, asyncio.get_running_loop().time())
        except DeadlineExceeded as error:
            seen.append(error.reason)
        awaited.respond(408, (), b"")

    tasks.run(made, None, handler)
    while not seen:  # noqa: ASYNC110  within two turns of the loop
        await asyncio.sleep(0)
    assert seen == ["receive"]


async def test_a_fast_sender_is_held_back_until_its_pieces_are_read(tasks):
    made, sizes, go = exchange(), [], asyncio.Event()

    async def handler(awaited):
        async for piece in awaited.chunks():
            sizes.append(len(piece))
            await go.wait()
        awaited.respond(200, (), b"")

    awaited = tasks.run(made, None, handler)
    await settle()
    for _ in range(4):
        awaited.on_data(bytes(1 << 19))
    await settle()
    assert made.deeds == ["accept", "pause"]
    go.set()
    await settle()
    assert made.deeds == ["accept", "pause", "resume"]
    awaited.on_end(())
    await settle()
    assert sizes == [1 << 19] * 4
    assert made.is_complete


async def test_writing_waits_while_the_caller_is_slow(tasks):
    made = exchange()

    async def handler(awaited):
        awaited.start(200, ())
        await awaited.write(b"a")
        made.is_congested = True
        await awaited.write(b"b")
        awaited.end((Fields((("t", "1"),)),))

    awaited = tasks.run(made, b"", handler)
    await settle()
    assert made.body == b"a"
    made.is_congested = False
    awaited.on_writable()
    await settle()
    assert (made.body, made.trailers) == (b"ab", (("t", "1"),))


async def test_a_caller_who_leaves_cancels_the_handler(tasks):
    made, ended = exchange(), []

    async def handler(awaited):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    awaited = tasks.run(made, b"", handler)
    await settle()
    awaited.on_gone("reset")
    await settle()
    assert ended == [True]
    assert not made.is_aborted
    assert len(tasks) == 0


async def test_a_caller_who_leaves_after_the_answer_does_not(tasks):
    ended = []

    async def handler(awaited):
        awaited.respond(200, (), b"")
        await asyncio.sleep(0)
        ended.append(True)

    awaited = tasks.run(exchange(), b"", handler)
    await asyncio.sleep(0)
    awaited.on_gone("closed")
    await settle()
    assert ended == [True]


async def test_a_handler_that_raises_is_a_bug(tasks, bugs):
    made, error = exchange(), RuntimeError("x")

    async def handler(awaited):
        raise error

    tasks.run(made, b"", handler)
    await settle()
    assert bugs == [error]
    assert made.status == 500


async def test_a_handler_that_raises_half_way_breaks_its_answer_off(tasks, bugs):
    made = exchange()

    async def handler(awaited):
        awaited.start(200, ())
        raise RuntimeError("x")

    tasks.run(made, b"", handler)
    await settle()
    assert len(bugs) == 1
    assert made.is_aborted


async def test_a_handler_that_forgets_to_answer_is_a_bug(tasks, bugs):
    made = exchange()

    async def handler(awaited):
        pass

    tasks.run(made, b"", handler)
    await settle()
    assert "has not answered" in str(bugs[0])
    assert made.status == 500


async def test_leaving_cancels_what_runs_and_breaks_its_answers_off(bugs):
    made, ended = exchange(), []

    async def handler(awaited):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async with Tasks(bugs.append) as tasks:
        tasks.run(made, b"", handler)
        await settle()
    assert ended == [True]
    assert made.is_aborted
    assert bugs == []


async def test_reading_and_writing_at_once(tasks):
    made, read = exchange(), []

    async def handler(awaited):
        awaited.start(200, ())
        async with asyncio.TaskGroup() as both:
            both.create_task(reading(awaited))
            made.is_congested = True
            await awaited.write(b"x")
        awaited.end()

    async def reading(awaited):
        async for piece in awaited.chunks():
            read.append(bytes(piece))

    awaited = tasks.run(made, None, handler)
    await settle()
    awaited.on_data(b"a")
    await settle()
    made.is_congested = False
    awaited.on_writable()
    awaited.on_end(())
    await settle()
    assert (read, made.body, made.is_complete) == ([b"a"], b"x", True)
