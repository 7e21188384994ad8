"""Answer a request at once where nothing has to be waited for, and without a task.

Handlers are coroutines because some wait: for the rest of a body, for a thread, for other rows. A
prediction of a small model waits for nothing. So a handler is stepped once where the request came
in; where that was its last step its answer goes out in the same turn of the loop, and where it was
not, a task takes over from there. asyncio's own eager tasks (Python 3.12) still make a task each.

Before its first wait a handler has no task, so it may not use `asyncio.timeout` there.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Sequence
from typing import Any

from gateway.wire.exchange import Data, ServerExchange
from gateway.wire.fields import Fields
from gateway.wire.tasks import Awaited, Tasks

Reply = tuple[int, Sequence[Fields], Data, Sequence[Fields] | None]
"""An answer: status, fields, body, trailers."""


def answer(exchange: ServerExchange, work: Coroutine[Any, Any, Reply], tasks: Tasks) -> None:
    """Answer a request, whose body is here, with what `work` returns; it may not raise. Where it
    waits, a caller who leaves cancels it."""
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        exchange.respond(*done.value)
        return
    task = tasks.run(exchange, b"", _Rest(work, waits_for).respond).task
    if task is not None:
        # A task that is cancelled before its first step does not get to what it was to finish.
        task.add_done_callback(lambda _: work.close())


class _Rest:
    """A coroutine that has been stepped once, from there on."""

    __slots__ = ("_waits_for", "_work")

    def __init__(self, work: Coroutine[Any, Any, Reply], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    async def respond(self, awaited: Awaited) -> None:
        awaited.respond(*await self)

    def __await__(self) -> Generator[Any, Any, Reply]:
        # As `yield from`, but what the first step yielded is yielded again, to the task. A future
        # says of itself that it is waited for, so it does not matter who was told first.
        work, waits_for = self._work, self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:  # noqa: BLE001  handed on, as `yield from` does
                    waits_for = work.throw(error)
                else:
                    waits_for = work.send(sent)
        except StopIteration as done:
            made: Reply = done.value
            return made
