"""What every test needs, whatever its room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _a_loop_to_restore() -> Iterator[None]:
    """pytest-asyncio asks for "the current loop" to restore it later; where there is none, Python
    3.11 makes one that nobody closes, and its ResourceWarning fails some later test."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
