"""Bad versions are rolled back by themselves, and a good one is promoted, under real load."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from loadtests import canary_bad
from tests.parts.gateway_process import gateway_process

pytestmark = pytest.mark.e2e


def _outcomes(tmp_path: Path, moods: list[str], workers: int, samples: int) -> None:
    flags = ("--poll-s", "1", "--settle-s", "0", "--workers", str(workers))
    with gateway_process(tmp_path / "state", *flags) as gateway:
        outcomes = asyncio.run(
            canary_bad.run(
                gateway,
                tmp_path,
                moods=moods,
                rate_per_s=50.0,
                samples=samples,
                step_s=1.0,
                say=print,
                delay_s=0.06,  # twice of it is well above what others on the machine add
            )
        )
        assert [o for o in outcomes if not canary_bad.is_as_promised(o)] == []
        # What people see of it afterwards.
        drawn = gateway.cli("rollout", "status", "moody").stdout
        assert re.search("gateway rollout (undo|start) moody", drawn)
        shown = json.loads(gateway.cli("rollout", "status", "moody", "-o", "json").stdout)
        assert shown["phase"] == outcomes[-1].phase


@pytest.mark.timeout(300)
def test_a_slow_version_is_rolled_back_by_itself(tmp_path: Path) -> None:
    _outcomes(tmp_path, ["slow"], workers=1, samples=300)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_bad_versions_are_rolled_back_and_a_good_one_is_promoted(tmp_path: Path) -> None:
    _outcomes(tmp_path, ["failing", "slow", "wrong", "good"], workers=2, samples=500)
