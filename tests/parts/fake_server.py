"""`python -m tests.parts.fake_server`: a model server of the kit without a framework."""

from __future__ import annotations

import sys

from servers.kit.main import run
from tests.parts.fake_runtime import FakeRuntime

if __name__ == "__main__":
    sys.exit(run(lambda _: FakeRuntime(), "fake"))
