"""Waiting for what has no event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until `condition()` holds; fails when it does not in time."""
    loop = asyncio.get_running_loop()
    end_at = loop.time() + seconds
    while not condition():
        assert loop.time() < end_at, "it did not happen in time"
        await asyncio.sleep(0.01)
