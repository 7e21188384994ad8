"""One gateway for each test module that asks for it; each test uses model names of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.gateway_process import GatewayProcess, gateway_process


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    # One second instead of ten and five: the rules are the same, the tests are not slower for it.
    state = tmp_path_factory.mktemp("gateway") / "state"
    with gateway_process(state, "--poll-s", "0.5", "--settle-s", "1") as running:
        yield running


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder for this test's model sources."""
    return tmp_path / "models"
