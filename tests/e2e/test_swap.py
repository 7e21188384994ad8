"""Twenty version swaps under load, a replica killed in five of them: nobody notices."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadtests import swap
from tests.parts.gateway_process import gateway_process

pytestmark = pytest.mark.e2e


def _run(tmp_path: Path, swaps: int, kills: int, workers: int = 1) -> swap.Result:
    flags = ("--poll-s", "1", "--workers", str(workers))
    with gateway_process(tmp_path / "state", *flags) as gateway:
        result = asyncio.run(
            swap.run(
                gateway,
                tmp_path / "models" / "swapper",
                swaps=swaps,
                kills=kills,
                rate_per_s=40.0,
                say=print,
                overlap_s=0.0 if workers == 1 else 0.25,
            )
        )
    print(result)
    return result


def _nobody_noticed(result: swap.Result) -> None:
    assert result.wrong == []
    for part in (result.before, result.during, result.after):
        assert part.errors == ()
        assert part.failed == 0
        assert part.requests > 0


@pytest.mark.timeout(300)
def test_two_swaps_with_a_kill_cost_no_request(tmp_path: Path) -> None:
    _nobody_noticed(_run(tmp_path, swaps=2, kills=1))


@pytest.mark.timeout(300)
def test_two_workers_swap_with_a_kill_and_cost_no_request(tmp_path: Path) -> None:
    _nobody_noticed(_run(tmp_path, swaps=2, kills=1, workers=2))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_twenty_swaps_with_five_kills_cost_no_request(tmp_path: Path) -> None:
    _nobody_noticed(_run(tmp_path, swaps=20, kills=5))
