"""The two small Go programs beside this file: built once, into the cache that git ignores."""

from __future__ import annotations

import subprocess
from pathlib import Path

from loadtests.machine import ROOT, need

_SOURCES = Path(__file__).parent
_BINARIES = ROOT / ".cache" / "bin"


def program(name: str) -> Path:
    """The binary of `loadtests/NAME`, built when a source is newer than it. Needs Go 1.18."""
    binary = _BINARIES / name
    sources = [*(_SOURCES / name).glob("*.go"), _SOURCES / "go.mod", _SOURCES / "go.sum"]
    if binary.exists() and all(s.stat().st_mtime <= binary.stat().st_mtime for s in sources):
        return binary
    need("go")
    _BINARIES.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        ["go", "build", "-o", str(binary), f"./{name}"],
        cwd=_SOURCES,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise SystemExit(f"go build ./{name} failed:\n{built.stderr}")
    return binary
