"""An event loop without sockets whose time is told to it, for one test case after another.

A loop of asyncio's costs more to make than most cases cost to run, and swallows what callbacks
raise. This one runs a callback when it is told to, and lets everything it raises through.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_MOST_TURNS = 20_000
"""Callbacks run in one go; more are an endless loop."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """What protocols ask of a loop: time, callbacks, tasks."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0

    # ---- asyncio.AbstractEventLoop --------------------

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **kwargs)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context.get("exception") or AssertionError(context["message"])

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    # ---- for the test --------------------

    def run_ready(self) -> None:
        """Run callbacks until none is left. What one raises comes out here."""
        for _ in range(_MOST_TURNS):
            if not self._ready:
                return
            self._call(self._ready.popleft())
        raise AssertionError("callbacks that never stop calling for more")

    def advance(self, seconds: float) -> None:
        """Let time pass; timers run at their times."""
        end = self.now + seconds
        self.run_ready()
        while self._timers and self._timers[0][0] <= end:
            when, _, handle = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            self._call(handle)
            self.run_ready()
        self.now = end

    def _call(self, handle: asyncio.Handle) -> None:
        if not handle.cancelled():
            handle._callback(*handle._args)  # type: ignore[attr-defined]


@contextmanager
def virtual_loop() -> Iterator[VirtualLoop]:
    """The running loop, within."""
    loop = VirtualLoop()  # type: ignore[abstract]
    before = events._get_running_loop()
    events._set_running_loop(loop)
    try:
        yield loop
    finally:
        events._set_running_loop(before)
