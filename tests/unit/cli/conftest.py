"""Run the command line in this process, as `main` does."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.cli.root import run
from tests.parts.fake_control_api import FakeControlApi


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def _a_loop_to_restore() -> Iterator[None]:
    """Plugins ask for "the current loop" to restore it later; where there is none, Python 3.11
    makes one that nobody closes, and its ResourceWarning fails some later test."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeControlApi]:
    with FakeControlApi() as fake:
        monkeypatch.setenv("GATEWAY_URL", fake.url)
        yield fake


@pytest.fixture
def gateway(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> Callable[..., Ran]:
    """`gateway("get", "models")` → exit code, stdout, stderr. No terminal, no config file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.delenv("GATEWAY_DEBUG", raising=False)

    def call(*arguments: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        # In a thread, so that asyncio.run does not unset an event loop of this thread that pytest
        # plugins hold (they would leave it unclosed, and warnings are errors).
        with ThreadPoolExecutor(1) as one:
            code = one.submit(run, arguments).result()
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode(), err.decode())

    return call
