"""Freed memory stays with the process, so that it is not fetched anew for each large read."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, resource
from gateway.wire.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
held = [bytes(256_000)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    held.append(b"x" * 256_000)
    held.pop()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's knobs")
def test_buffers_are_not_faulted_in_again_and_again():
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", SCRIPT, how], capture_output=True, check=True, timeout=60
            ).stdout
        )
        for how in ("keep", "give")
    }
    assert faults["keep"] < 500  # 200 buffers of 63 pages are 12,600
    assert faults["keep"] <= faults["give"]
