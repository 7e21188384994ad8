"""An event loop of asyncio's own whose time jumps to the next timer instead of passing.

For coroutines without sockets and threads: minutes of windows and delays cost milliseconds, and a
busy machine changes nothing.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """Nothing is waited for: whoever would have to wait finds that it is later."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise AssertionError("everybody waits, and nothing will ever happen")
            self.now += timeout
        return found


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its time starts at 1000 s."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        # Timers are due within the clock's resolution: without any, a jump would end just before.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._jumping.now


def run_jumping(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end in a loop of its own."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)
