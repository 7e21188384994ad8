"""A process that has used obstore is not taken down, only ended: see gateway/storage/leaving.py."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import atexit, os, sys
from gateway.storage.leaving import leave
atexit.register(os.abort)
sys.stdout.write("said")
sys.stderr.write("told")
leave(3)
"""


def test_all_is_written_and_nothing_runs_after_it():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"said", b"told")


def test_the_command_ends_so_where_it_has_used_object_storage(tmp_path):
    """An exit handler that aborts stands for what obstore's threads do now and then."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"x" * 1000)
    script = (
        "import atexit, os, sys; atexit.register(os.abort); from gateway.__main__ import main; "
        f"sys.argv = ['gateway', 'publish', {str(tmp_path / 'model')!r}, "
        f"'file://{tmp_path}/repository', '--version', '1']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert b"Version 1 is at" in done.stdout + done.stderr
