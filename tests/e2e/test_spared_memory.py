"""What the start made is spared from garbage collections, in every process of ours."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from loadtests.models import write_adder
from loadtests.processes import workers
from tests.parts.gateway_process import gateway_process

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(180)]

_NOTED = """
import gc, os, pathlib
_freeze = gc.freeze
def freeze():
    _freeze()
    count = gc.get_freeze_count()
    pathlib.Path(os.environ["NOTES"], str(os.getpid())).write_text(str(count))
gc.freeze = freeze
"""


def test_a_collection_looks_at_nothing_that_the_start_made(tmp_path: Path) -> None:
    notes, site = tmp_path / "notes", tmp_path / "site"
    notes.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(_NOTED)
    write_adder(tmp_path / "m" / "1", 1.0)
    env = {"PYTHONPATH": f"{site}:{Path(__file__).parents[2]}", "NOTES": str(notes)}
    flags = ("--workers", "2", "--settle-s", "0")
    with gateway_process(tmp_path / "state", *flags, env=env) as gateway:
        gateway.cli("deploy", "model", "m", "--source", str(tmp_path / "m"))
        (replica,) = gateway.get("replicas", "m")
        ours = [psutil.Process(replica["pid"]), *workers(gateway)]
        assert gateway.process is not None
        pids = {gateway.process.pid, *(process.pid for process in ours)}
        spared = {int(note.name): int(note.read_text()) for note in notes.iterdir()}
        assert len(pids) == 4
        assert pids <= spared.keys()
        # Modules alone are tens of thousands of objects.
        assert all(spared[pid] > 10_000 for pid in pids)
