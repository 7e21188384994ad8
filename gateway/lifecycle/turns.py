"""Long work of the event loop in short pieces, so that requests do not wait for all of it."""

from __future__ import annotations

import asyncio
from time import perf_counter

PIECE_S = 0.001
"""As long as a request may wait for one piece: about what it takes itself."""


class Turns:
    """Of one piece of work. Between two steps of it, `await next()`."""

    def __init__(self) -> None:
        self._since = perf_counter()

    async def next(self) -> None:
        """Let others go on, if this has taken long enough."""
        if perf_counter() - self._since >= PIECE_S:
            await asyncio.sleep(0)
            self._since = perf_counter()
