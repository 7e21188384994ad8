"""What `--help` says is part of the product: a change shows in tests/golden/cli_help.

To accept a change: UPDATE_GOLDEN=1 pytest tests/unit/cli/test_help_golden.py
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gateway.cli.root import cli

GOLDEN = Path(__file__).parents[2] / "golden" / "cli_help"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


@pytest.mark.parametrize("path", commands(cli), ids=lambda p: " ".join(p) or "gateway")
def test_help_reads_as_recorded(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = CliRunner().invoke(cli, [*path, "--help"], prog_name="gateway", terminal_width=80)
    assert ran.exit_code == 0
    assert max(map(len, ran.output.splitlines())) <= 80
    file = GOLDEN / f"{'-'.join(('gateway', *path))}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(ran.output)
    assert ran.output == file.read_text()


def test_commands_that_come_later_are_not_offered() -> None:
    assert set(cli.commands).isdisjoint({"keys", "tenants", "audit"})


@pytest.mark.slow
def test_help_comes_at_once() -> None:
    # By CPU time, as a busy machine would only show how busy it is.
    def used_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def once() -> float:
        before = used_s()
        subprocess.run([sys.executable, "-m", "gateway", "--help"], capture_output=True, check=True)
        return used_s() - before

    assert min(once() for _ in range(5)) < 0.25


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gateway.cli import root;"
        "print(sorted({'asyncio', 'aiohttp', 'rich', 'numpy', 'grpc', 'msgspec', 'yaml'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
