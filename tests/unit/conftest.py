"""What unit tests may ask for: a time that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.parts.jumping_loop import JumpingLoop


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The marker `virtual_time`: without sockets and threads nothing has to be waited for, and
    what "shortly after" means is the same on a machine that stands still for a moment."""
    if item.get_closest_marker("virtual_time"):
        return {"jumping": JumpingLoop}
    return {"asyncio": asyncio.new_event_loop}
