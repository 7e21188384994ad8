"""The analysis in simulated rollouts: what it finds, and how often it is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.analysis import (
    BOUNDS_S,
    LATENCY_MARGIN,
    AnalysisSettings,
    Blocks,
    add,
    analyse,
    count,
    empty,
    folded,
    quantile,
)
from gateway.core.evidence import evidence
from gateway.domain.rollouts import Finding, Verdict

SETTINGS = AnalysisSettings()
STEPS = (0.05, 0.25, 0.5)
NEEDED = 500


def tally(answers: int, failed: int = 0, took_s: float = 0.01) -> list[int]:
    made = empty()
    for _ in range(answers):
        count(made, took_s, failed=False)
    made[0] = failed
    return made


def found(stable, canary, blocks: Blocks = Blocks()) -> Finding:  # noqa: B008 - frozen
    return analyse(stable, canary, blocks, 100, 3, SETTINGS)


def test_buckets_line_up_with_the_margin_and_hold_every_time():
    made = empty()
    for took_s in (0.0, 1e-9, *BOUNDS_S, 1e9):
        count(made, took_s, failed=False)
    assert sum(made) == len(BOUNDS_S) + 3
    for low, high in pairwise(BOUNDS_S):
        assert high / low == pytest.approx(LATENCY_MARGIN)


def test_failed_answers_do_not_make_a_version_look_fast():
    made = empty()
    count(made, 0.00001, failed=True)
    count(made, 0.1, failed=False)
    assert made[0] == 1
    assert quantile(made, 0.5) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(
    ("stable", "canary", "verdict", "words"),
    [
        (tally(2000), tally(99), Verdict.INCONCLUSIVE, "canary has answered 99 of 100"),
        (tally(99), tally(2000), Verdict.INCONCLUSIVE, "stable version has answered 99 of 100"),
        (tally(2000), tally(105), Verdict.PASS, "no worse"),
        (tally(2000, 20), tally(105, 1), Verdict.PASS, "no worse"),
        (tally(2000), tally(103, 2), Verdict.INCONCLUSIVE, "errors may be worse"),
        (tally(2000), tally(100, 5), Verdict.FAIL, "5 of 105 (4.76%), against 0 of 2000"),
        (tally(60), tally(0, 10), Verdict.FAIL, "fails more often"),
        (empty(), tally(0, 10), Verdict.INCONCLUSIVE, "has answered 10 of 100"),
        (empty(), empty(), Verdict.INCONCLUSIVE, "0 of 100"),
    ],
)
def test_verdicts_by_numbers(stable, canary, verdict, words):
    finding = found(stable, canary)
    assert finding.verdict is verdict
    assert words in finding.reason


def test_slowness_needs_block_after_block_and_only_holds_in_one():
    stable, slow = tally(2000), tally(200, took_s=0.03)
    assert found(stable, slow).verdict is Verdict.INCONCLUSIVE
    finding = found(stable, slow, Blocks(slower=12))
    assert finding.verdict is Verdict.FAIL
    assert "p50" in finding.reason


def test_a_canary_within_the_margin_is_not_slower():
    stable = tally(2000, took_s=0.01)
    assert found(stable, tally(200, took_s=0.01 * 1.15), Blocks(slower=99)).verdict is Verdict.PASS


def test_blocks_wait_for_time_and_answers_and_survive_counts_that_shrink():
    blocks = folded(Blocks(), empty(), empty(), 0.0, SETTINGS)
    assert folded(blocks, tally(50), tally(7), 5.0, SETTINGS) == blocks
    assert folded(blocks, tally(50), tally(50), 0.5, SETTINGS) == blocks
    slower = folded(blocks, tally(50), tally(8, took_s=0.1), 1.0, SETTINGS)
    assert (slower.slower, slower.others) == (1, 0)
    after = folded(slower, tally(10), tally(2), 2.0, SETTINGS)
    assert (after.slower, after.others, after.since) == (1, 0, 2.0)


@given(st.integers(0, 10**6), st.integers(0, 10**9), st.floats(0.0, 1.0))
def test_evidence_is_a_positive_number(canary, stable, share):
    assert 0.0 <= evidence(canary, stable, share) < math.inf


@given(st.floats(0.02, 0.98), st.integers(1, 40))
def test_evidence_is_fair_when_nothing_is_wrong(share, events):
    """Its mean under the null hypothesis is 1 after any number of events: a martingale."""
    mean = (
        sum(
            math.comb(events, k)
            * share**k
            * (1 - share) ** (events - k)
            * evidence(k, events - k, share)
            for k in range(1, events + 1)
        )
        + (1 - share) ** events
    )
    without_canary_events = evidence(1, events, share) / evidence(1, 0, share)
    assert mean <= 1.0 + (1 - share) ** events * max(0.0, 1 - without_canary_events) + 1e-9


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_tallies_add_up(parts):
    total = empty()
    for n in parts:
        add(total, tally(n, n))
    assert (sum(total), total[0]) == (2 * sum(parts), sum(parts))


@dataclass(frozen=True, slots=True)
class Version:
    failing: float = 0.0
    slower: float = 1.0
    spread: float = 0.5


def rolled_out(
    rng: Random, canary: Version, stable: Version, per_s: int = 150
) -> tuple[str, float]:
    """One rollout, looked at four times a second: how it ends, at which weight."""
    for weight in STEPS:
        tallies, blocks, now = {True: empty(), False: empty()}, Blocks(), 0.0
        while True:
            now += 0.25
            for _ in range(per_s // 4):
                side = rng.random() < weight
                version = canary if side else stable
                took_s = 0.005 * version.slower * math.exp(version.spread * rng.gauss(0, 1))
                count(tallies[side], took_s, failed=rng.random() < version.failing)
            blocks = folded(blocks, tallies[False], tallies[True], now, SETTINGS)
            finding = analyse(tallies[False], tallies[True], blocks, NEEDED, 3, SETTINGS)
            if finding.verdict is Verdict.FAIL:
                return "failed", weight
            if finding.verdict is Verdict.PASS:
                break
            if now > 300.0:
                return "held", weight
    return "passed", weight


@pytest.mark.slow
@pytest.mark.parametrize(
    "version", [Version(), Version(failing=0.01), Version(spread=1.0)], ids=str
)
def test_false_alarms_are_as_rare_as_stated(version):
    rng, rollouts = Random(2), 200
    ends = [rolled_out(rng, version, version)[0] for _ in range(rollouts)]
    assert ends.count("failed") <= SETTINGS.false_alarm_ratio * rollouts
    assert ends.count("passed") >= 0.97 * rollouts


@pytest.mark.slow
@pytest.mark.parametrize(
    "bad",
    [
        Version(failing=0.02),
        Version(failing=0.2),
        Version(slower=2.0),
        Version(slower=1.6, spread=0.3),
        Version(failing=0.02, slower=0.5),
    ],
    ids=str,
)
def test_bad_versions_are_found_in_their_first_step(bad):
    rng, rollouts = Random(3), 40
    ends = [rolled_out(rng, bad, Version()) for _ in range(rollouts)]
    assert ends.count(("failed", STEPS[0])) >= 0.95 * rollouts
    assert "passed" not in {end for end, _ in ends}
