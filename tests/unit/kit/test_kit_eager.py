"""Answers at once, by a task where something has to be waited for, and none for who has left."""

from __future__ import annotations

import asyncio

import pytest

from gateway.wire.exchange import RequestHead
from gateway.wire.tasks import Tasks
from servers.kit import eager


class Scripted:
    """An exchange of which the test is both ends."""

    peer = "test:1"
    is_congested = False

    def __init__(self) -> None:
        self.head = RequestHead("POST", "/", ())
        self.sink = None
        self.answers: list[tuple[object, ...]] = []
        self.is_aborted = False

    def respond(self, *answer: object) -> None:
        self.answers.append(answer)

    def abort(self, is_overload: bool = False) -> None:
        self.is_aborted = True


@pytest.fixture
async def tasks():
    def on_bug(error: Exception) -> None:
        raise error

    async with Tasks(on_bug) as made:
        yield made


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_waits_for_nothing_is_answered_before_begin_returns(tasks):
    async def work():
        return 200, (), b"now", None

    exchange = Scripted()
    eager.answer(exchange, work(), tasks)
    assert exchange.answers == [(200, (), b"now", None)]
    assert len(tasks) == 0


async def test_what_waits_is_answered_by_a_task(tasks):
    first, second = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def work():
        await first.wait()
        return 200, (), await second, None

    exchange = Scripted()
    eager.answer(exchange, work(), tasks)
    await turns()
    assert not exchange.answers
    first.set()
    await turns()
    second.set_result(b"later")
    await turns()
    assert exchange.answers == [(200, (), b"later", None)]
    assert len(tasks) == 0


async def test_a_future_that_is_done_before_the_task_begins_is_no_loss(tasks):
    future = asyncio.get_running_loop().create_future()

    async def work():
        return 200, (), await future, None

    exchange = Scripted()
    eager.answer(exchange, work(), tasks)
    future.set_result(b"soon")
    await turns()
    assert exchange.answers == [(200, (), b"soon", None)]


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_caller_who_leaves_ends_the_work_and_its_clean_up_is_done(tasks, has_begun):
    cleaned = []

    async def work():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.append(True)

    exchange = Scripted()
    eager.answer(exchange, work(), tasks)
    if has_begun:
        await turns()
    exchange.sink.on_gone("reset")
    await turns()
    assert cleaned == [True]
    assert not exchange.answers
    assert len(tasks) == 0


async def test_an_error_that_is_waited_for_reaches_the_work(tasks):
    future = asyncio.get_running_loop().create_future()

    async def work():
        try:
            await future
        except ValueError as error:
            return 400, (), str(error).encode(), None

    exchange = Scripted()
    eager.answer(exchange, work(), tasks)
    await turns()
    future.set_exception(ValueError("no"))
    await turns()
    assert exchange.answers == [(400, (), b"no", None)]
