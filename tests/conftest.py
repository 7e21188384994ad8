"""What every test needs, whatever its room."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.parts.need import need

if TYPE_CHECKING:
    from tests.parts.postgres import Postgres

pytest_plugins = ["tests.cluster.fixtures"]

# Hypothesis fails an example that takes 0.2 s, and data that come slowly: on a busy machine any do.
settings.register_profile(
    "any_machine",
    parent=settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any_machine")


@pytest.fixture(autouse=True, scope="session")
def _a_loop_to_restore() -> Iterator[None]:
    """pytest-asyncio asks for "the current loop" to restore it later; where there is none, Python
    3.11 makes one that nobody closes, and its ResourceWarning fails some later test."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for the whole run; `.database()` makes an empty database of one's own."""
    need(importlib.util.find_spec("psycopg") is not None, "pip install -e '.[postgres]'")
    from tests.parts.postgres import INSTALL, postgres_server, programs

    need(programs() is not None, INSTALL)
    with postgres_server() as server:
        yield server
