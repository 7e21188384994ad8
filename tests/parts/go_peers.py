"""The Go programs in tests/peers: built when a test first needs them, into the cache."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.parts.need import need

_ROOT = Path(__file__).parents[2]
_SOURCES = _ROOT / "tests" / "peers"
_BINARIES = _ROOT / ".cache" / "bin"


def go_peer(name: str) -> str:
    """The path of `client` or `server`, built if a source is newer. Needs Go 1.18 or newer."""
    binary = _BINARIES / f"peer-{name}"
    sources = [*(_SOURCES / name).glob("*.go"), _SOURCES / "go.mod", _SOURCES / "go.sum"]
    if binary.exists() and all(s.stat().st_mtime <= binary.stat().st_mtime for s in sources):
        return str(binary)
    need(shutil.which("go") is not None, "apt-get install golang-go")
    _BINARIES.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        ["go", "build", "-o", str(binary), f"./{name}"],
        cwd=_SOURCES,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.fail(f"go build ./{name}: {built.stderr}", pytrace=False)
    return str(binary)
