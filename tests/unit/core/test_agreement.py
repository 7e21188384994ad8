"""How much two versions agree: counted, put into words, and judged with the stated error rate."""

from __future__ import annotations

import math
from random import Random

import msgspec
import pytest

from gateway.core.agreement import MAX_OUTPUTS, add, agreement, count, count_failure
from gateway.core.analysis import AnalysisSettings, Blocks, analyse
from gateway.core.evidence import evidence
from gateway.domain.agreement import AgreementTally, Difference
from gateway.domain.models import ShadowPlan
from gateway.domain.rollouts import Finding, Verdict
from tests.unit.core.test_analysis import tally as answers

SETTINGS = AnalysisSettings()
FLIPS = ShadowPlan(0.1, max_flips=0.01)
DIFFERING = ShadowPlan(0.1, max_differing=0.01)
BOTH = ShadowPlan(0.1, max_differing=0.01, max_flips=0.01)
SHOWN = ShadowPlan(0.1)


def seen(*groups: tuple[int, Difference]) -> AgreementTally:
    """So many requests with this difference in their only output."""
    made = AgreementTally()
    for times, difference in groups:
        for _ in range(times):
            count(made, [difference])
    return made


def flipping(share: float = 1.0, **more: float) -> Difference:
    return Difference("scores", differing=1.0, flips=share, **more)


SAME = Difference("scores", flips=0.0, cosine=1.0)
OFF = Difference("scores", differing=1.0, flips=0.0, abs_error=0.3, rel_error=0.2, cosine=0.9)
GONE = Difference("scores", "is missing in the canary's answer", differing=1.0)


def found(tally: AgreementTally | None, plan: ShadowPlan, needed: int = 500) -> Finding:
    good = answers(2000)
    shown = agreement(tally, plan, needed)
    return analyse(good, good, Blocks(), 100, 3, SETTINGS, shown)


@pytest.mark.parametrize(
    ("tally", "plan", "verdict", "words"),
    [
        (None, FLIPS, Verdict.INCONCLUSIVE, "0 of 50 shadowed requests that are needed"),
        (seen((49, SAME)), FLIPS, Verdict.INCONCLUSIVE, "49 of 50 shadowed"),
        (AgreementTally(skipped=7, dropped=3), FLIPS, Verdict.INCONCLUSIVE, "7 could not be, 3 we"),
        (seen((50, SAME)), FLIPS, Verdict.PASS, "no worse"),
        (seen((1000, SAME), (10, flipping())), FLIPS, Verdict.PASS, "no worse"),
        (seen((100, SAME), (6, flipping())), FLIPS, Verdict.INCONCLUSIVE, "predictions may be wo"),
        (
            seen((114, SAME), (86, flipping(abs_error=0.8))),
            FLIPS,
            Verdict.FAIL,
            "its predictions differ: output scores: of the predictions in 200 shadowed requests "
            "43% flip top-1 (1% allowed) and 43% differ by more than 0.01; max abs error 0.8",
        ),
        (seen((0, SAME), (5, flipping())), FLIPS, Verdict.FAIL, "100% flip top-1"),
        (seen((60, SAME), (60, OFF)), FLIPS, Verdict.PASS, "no worse"),
        (seen((60, SAME), (60, OFF)), DIFFERING, Verdict.FAIL, "50% differ by more than 0.01 (1%"),
        (seen((60, SAME), (60, OFF)), BOTH, Verdict.FAIL, "max abs error 0.3"),
        (seen((20, GONE)), FLIPS, Verdict.FAIL, "scores is missing in the canary's answer in 20"),
        (seen((20, GONE)), DIFFERING, Verdict.FAIL, "is missing"),
        # Shown, and not judged: a new version is meant to predict something else.
        (seen((500, flipping())), SHOWN, Verdict.PASS, "no worse"),
        (seen((500, GONE)), SHOWN, Verdict.PASS, "no worse"),
        (None, SHOWN, Verdict.PASS, "no worse"),
    ],
)
def test_verdicts_by_numbers(tally, plan, verdict, words):
    finding = found(tally, plan)
    assert words in finding.reason
    assert finding.verdict is verdict


def test_a_canary_that_fails_what_the_stable_version_answers_says_why():
    made = seen((3, SAME))
    for _ in range(9):
        count_failure(made, "no such input: x")
    finding = found(made, FLIPS)
    assert finding.verdict is Verdict.FAIL
    assert "fails 9 of 12 shadowed requests" in finding.reason
    assert "no such input: x" in finding.reason


def test_a_bound_of_nothing_is_refuted_by_one_flip_and_by_nothing_else():
    plan = ShadowPlan(0.1, max_flips=0.0)
    assert found(seen((999, SAME), (1, OFF)), plan).verdict is Verdict.PASS
    finding = found(seen((999, SAME), (1, flipping(0.01))), plan)
    assert finding.verdict is Verdict.FAIL
    assert "(0% allowed)" in finding.reason


def test_each_bound_has_its_part_of_the_error_rate():
    limits = [found(None, plan).limit for plan in (SHOWN, FLIPS, DIFFERING, BOTH)]
    assert limits == [600.0, 900.0, 900.0, 1200.0]


def test_the_worst_output_of_a_request_counts_and_each_is_shown():
    made = AgreementTally()
    count(made, [Difference("a", differing=0.25, flips=0.5), Difference("b", differing=1.0)])
    count(made, [Difference("a", flips=0.0, cosine=0.5), Difference("b", cosine=1.0)])
    shown = agreement(made, SHOWN, 1)
    assert (shown.differing, shown.flips) == (0.5, 0.25)
    a, b = shown.outputs
    assert (a.name, a.differing, a.flips, a.mean_cosine) == ("a", 0.125, 0.25, 0.5)
    assert (b.name, b.differing, b.flips, b.min_cosine) == ("b", 0.5, None, 1.0)
    assert shown.reason.startswith("output b: ")


def test_what_is_judged_names_the_output():
    made = AgreementTally()
    for _ in range(50):
        count(made, [Difference("a", differing=1.0, flips=0.0), Difference("b", flips=0.1)])
    assert agreement(made, FLIPS, 1).reason.startswith("output b: ")
    assert agreement(made, DIFFERING, 1).reason.startswith("output a: ")


def test_a_model_with_endless_outputs_makes_no_endless_table():
    made = AgreementTally()
    many = [Difference(f"output{i:05}" + "x" * 9999, flips=0.0) for i in range(500)]
    count(made, [*many, flipping()])
    assert len(made.outputs) == MAX_OUTPUTS
    assert max(map(len, made.outputs)) <= 128
    assert made.flips == 1.0
    assert len(msgspec.json.encode(made)) < 50_000


def test_tallies_go_from_process_to_process():
    made = seen((3, SAME), (2, GONE))
    count_failure(made, "why")
    again = msgspec.json.decode(msgspec.json.encode(made), type=AgreementTally)
    assert again == made
    add(again, made)
    assert agreement(again, SHOWN, 1).compared == 10


@pytest.mark.parametrize(
    ("share", "min_samples", "needed"),
    [(0.1, 500, 50), (1.0, 500, 100), (0.001, 500, 1), (0.1, 0, 1), (0.5, 41, 21)],
)
def test_as_many_are_needed_as_are_copied_of_what_a_step_needs(share, min_samples, needed):
    assert agreement(None, ShadowPlan(share, max_flips=0.01), min_samples).needed == needed


# ---- the stated error rate --------------------


def _ever(rng: Random, draw, limit: float, requests: int) -> bool:
    """Whether the evidence against a share of 1% ever reaches the limit; looked at each time."""
    hits = 0.0
    for n in range(1, requests + 1):
        x = draw(rng)
        hits += x
        if x and evidence(hits, n - hits, 0.01) >= limit:
            return True
    return False


def _rows(rng: Random) -> float:
    """A batch whose rows are all alike, or not: 1% of them flip in the mean."""
    if rng.random() < 0.5:
        return 1.0 if rng.random() < 0.01 else 0.0
    return sum(rng.random() < 0.01 for _ in range(32)) / 32


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [lambda rng: float(rng.random() < 0.01), _rows, lambda rng: 0.02 * rng.random()],
    ids=["one row each", "batches", "a little in each"],
)
def test_of_versions_that_differ_as_much_as_is_allowed_few_are_turned_down(draw):
    """Right at the bound: with a limit of 45, one stream in 45 may ever reach it; with that of a
    rollout of three steps, 2 rollouts in 200."""
    rng = Random(20261129)
    alarms = sum(_ever(rng, draw, 45.0, 300) for _ in range(2000))
    assert alarms <= 2000 / 45
    rollouts = sum(any(_ever(rng, draw, 900.0, 300) for _step in range(3)) for _ in range(200))
    assert rollouts <= 2


@pytest.mark.parametrize(("share", "most"), [(1.0, 6), (0.43, 30), (0.1, 200), (0.05, 700)])
def test_a_version_that_differs_is_found_soon(share, most):
    """Within what a first step of 5% with 500 samples copies at 10%, 950 requests."""
    rng = Random(7)
    needed = []
    for _ in range(40):
        hits = n = 0
        while evidence(hits, n - hits, 0.01) < 900.0:
            n += 1
            hits += rng.random() < share
            assert n < 5000
        needed.append(n)
    assert sorted(needed)[20] <= most


def test_evidence_of_fractions_is_less_than_that_of_what_they_may_add_up_to():
    """A hundred requests with a hundredth of a hit each are no evidence; one whole hit is some."""
    assert evidence(1.0, 99.0, 0.01) < 1.5
    assert evidence(1.0, 0.0, 0.01) > 5.0
    for hits in (0.0, 0.5, 3.25):
        assert evidence(hits, 0.0, 0.01) <= evidence(hits + 0.5, 0.0, 0.01)
    assert math.isfinite(evidence(1e9, 0.0, 0.5))
