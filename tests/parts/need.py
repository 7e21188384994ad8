"""Skip a test whose part is missing, with the command that installs it; in CI that is a failure."""

from __future__ import annotations

import os

import pytest


def need(present: bool, install: str) -> None:
    """Go on if `present`; else skip and say how to get the part (fail where CI is set)."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(f"a part is missing in CI: {install}", pytrace=False)
    pytest.skip(f"a part is missing; install it with: {install}", allow_module_level=True)
