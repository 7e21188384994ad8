"""Taste, guarded by machines: imports, exported names, sizes, and what must not be written down."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = sorted(p.parent.name for p in (ROOT / "gateway").glob("*/__init__.py"))
SOURCES = sorted(
    p
    for top in ("gateway", "servers")
    for p in (ROOT / top).rglob("*.py")
    if "pb" not in p.parts[-2:]
)


def _tracked() -> list[Path]:
    out = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / line for line in out.splitlines()]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_exports_at_most_ten_names(room: str) -> None:
    module = importlib.import_module(f"gateway.{room}")
    assert len(getattr(module, "__all__", [])) <= 10


@pytest.mark.parametrize("room", ROOMS)
def test_every_exported_name_exists(room: str) -> None:
    module = importlib.import_module(f"gateway.{room}")
    assert [n for n in getattr(module, "__all__", []) if not hasattr(module, n)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500, "split it by noun"
    long = [
        f"{n.name}: {(n.end_lineno or n.lineno) - n.lineno + 1} lines"
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        and (n.end_lineno or n.lineno) - n.lineno + 1 > 60
    ]
    assert long == []


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils.py", "helpers.py", "common.py", "base.py"}
    assert [p for p in SOURCES if p.name in vague] == []


def test_tracked_files_name_no_machine() -> None:
    leak = re.compile(r"/wor[k]/[a-z.]|index[-]url|GOPROX[Y]=http")
    found = [
        f"{p.relative_to(ROOT)}:{i}"
        for p in _tracked()
        if p.is_file() and p.stat().st_size < 1_000_000 and p.suffix not in {".png", ".onnx", ".pb"}
        for i, line in enumerate(p.read_text("utf-8", errors="ignore").splitlines(), 1)
        if leak.search(line)
    ]
    assert found == []


def test_the_gateway_process_imports_no_framework() -> None:
    code = (
        "import sys, gateway.app, gateway.dataplane.worker;"
        "print(sorted({'numpy','tensorflow','tensorflow_serving','onnxruntime','cv2','rich','servers'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_room_has_a_readme_of_at_most_60_lines() -> None:
    missing, long = [], []
    for directory in [*(ROOT / "gateway" / r for r in ROOMS), *(ROOT / "servers").glob("*/")]:
        if not (directory / "__init__.py").exists():
            continue
        readme = directory / "README.md"
        if not readme.exists():
            missing.append(str(directory.relative_to(ROOT)))
        elif len(readme.read_text().splitlines()) > 60:
            long.append(str(readme.relative_to(ROOT)))
    assert (missing, long) == ([], [])
