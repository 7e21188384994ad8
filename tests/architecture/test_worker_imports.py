"""What a worker process loads decides how fast it is there and how much memory N of them take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

LOADED = """
import contextlib, io, sys
from gateway.__main__ import worker
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    worker(["--help"])
assert "gateway.upstream" in sys.modules and "gateway.dataplane.front" in sys.modules
print(*sorted({name.partition(".")[0] for name in sys.modules}))
print(*sorted(name for name in sys.modules if name.startswith("gateway.")))
"""

NEVER = {"aiohttp", "grpc", "numpy", "sqlalchemy", "obstore", "click", "rich", "yaml"}
"""The control API's, the SDK's, the store's, the command line's; numpy is there for translation,
when it is first needed."""

ROOMS = {"codecs", "core", "dataplane", "domain", "ports", "telemetry", "upstream", "wire"}


def test_a_worker_loads_no_foreign_transport_and_no_room_that_it_does_not_need() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, cwd=ROOT, check=True
    )
    packages, modules = (set(line.split()) for line in ran.stdout.splitlines())
    assert packages & NEVER == set()
    assert {name.split(".")[1] for name in modules} - {"__main__"} == ROOMS
