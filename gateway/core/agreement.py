"""Does the canary predict what the stable version predicts? Counted and judged from copies.

A request that the stable version has answered is copied to the canary (shadowed), and the two
answers are compared tensor by tensor (codecs.differences). What comes of one request is two
numbers from 0 to 1: the share of its predictions that differ by more than a tolerance, and the
share whose top-1 flips, each of its worst output. A request that the canary fails, or whose outputs
have other names, dtypes or shapes, is a 1 in both.

Where a bound is given ("1% may flip"), the null hypothesis is that this number's mean is no larger,
whatever came before, and the evidence against it is the same mixture of likelihood ratios as for
errors (core.evidence), which takes fractions. So a batch of 32 rows is one observation, however
alike its rows are, and the test may be looked at after every request. A bound of 0 is refuted by
one flip: nothing else is meant by it.

What it does not know: a caller who sends the same request again and again makes one disagreement
into many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gateway.core.evidence import evidence
from gateway.domain.agreement import (
    Agreement,
    AgreementTally,
    Difference,
    OutputAgreement,
    OutputTally,
)
from gateway.domain.models import ShadowPlan

MAX_OUTPUTS = 64
"""Outputs that are counted apart; a model with more has them in the sums only. Names come from
replicas, and would make a table without bound."""

_MAX_NAME = 128

_MOST_NEEDED = 100
"""Comparisons that a step waits for at most, however slow they are to come by: a hundred without a
difference leave less than 3% to differ (the rule of three)."""


# ---- counting --------------------


def count(tally: AgreementTally, differences: Sequence[Difference]) -> None:
    """One request that both have answered."""
    tally.compared += 1
    tally.differing += max((d.differing for d in differences), default=0.0)
    tally.flips += max((_flips(d) for d in differences), default=0.0)
    for difference in differences:
        name = difference.output[:_MAX_NAME]
        known = tally.outputs.get(name)
        if known is None:
            if len(tally.outputs) >= MAX_OUTPUTS:
                continue
            known = tally.outputs[name] = OutputTally()
        _count_output(known, difference)


def _flips(difference: Difference) -> float:
    return 1.0 if difference.mismatch else difference.flips or 0.0


def _count_output(known: OutputTally, difference: Difference) -> None:
    known.compared += 1
    known.differing += difference.differing
    if difference.mismatch:
        known.mismatched += 1
        known.mismatch = difference.mismatch
    if difference.flips is not None:
        known.classed += 1
        known.flips += difference.flips
    known.max_abs = max(known.max_abs, difference.abs_error)
    known.max_rel = max(known.max_rel, difference.rel_error)
    if difference.cosine is not None:
        known.cosines += 1
        known.cosine_sum += difference.cosine
        known.min_cosine = min(known.min_cosine, difference.cosine)


def count_failure(tally: AgreementTally, words: str) -> None:
    """One request that the stable version has answered, and the canary with an error."""
    tally.failed += 1
    tally.differing += 1.0
    tally.flips += 1.0
    tally.failure = words


def add(tally: AgreementTally, more: AgreementTally) -> None:
    """Add what another process has counted."""
    tally.compared += more.compared
    tally.failed += more.failed
    tally.skipped += more.skipped
    tally.dropped += more.dropped
    tally.differing += more.differing
    tally.flips += more.flips
    tally.failure = more.failure or tally.failure
    for name, other in more.outputs.items():
        known = tally.outputs.setdefault(name, OutputTally())
        known.compared += other.compared
        known.classed += other.classed
        known.mismatched += other.mismatched
        known.mismatch = other.mismatch or known.mismatch
        known.differing += other.differing
        known.flips += other.flips
        known.max_abs = max(known.max_abs, other.max_abs)
        known.max_rel = max(known.max_rel, other.max_rel)
        known.cosines += other.cosines
        known.cosine_sum += other.cosine_sum
        known.min_cosine = min(known.min_cosine, other.min_cosine)


# ---- judging --------------------


def agreement(tally: AgreementTally | None, plan: ShadowPlan, min_samples: int) -> Agreement:
    """What the tally shows, and the evidence against what `plan` allows. `min_samples` is what a
    step needs of answers: of comparisons it needs the share that is copied, within reason."""
    tally = tally or AgreementTally()
    judged = tally.compared + tally.failed
    bounds = [
        (hits, most)
        for hits, most in ((tally.differing, plan.max_differing), (tally.flips, plan.max_flips))
        if most is not None
    ]
    outputs = tuple(_output(name, tally.outputs[name]) for name in sorted(tally.outputs))
    return Agreement(
        tally.compared,
        tally.failed,
        tally.skipped,
        tally.dropped,
        tally.differing / judged if judged else 0.0,
        tally.flips / judged if judged else 0.0,
        outputs,
        max((_evidence(hits, judged, most) for hits, most in bounds), default=1.0),
        min(_MOST_NEEDED, max(1, math.ceil(plan.share * min_samples))) if bounds else 0,
        len(bounds),
        _words(tally, outputs, judged, plan),
    )


def _evidence(hits: float, judged: int, most: float) -> float:
    if most <= 0.0:
        return math.inf if hits > 0.0 else 1.0
    return evidence(hits, judged - hits, most)


def _output(name: str, tally: OutputTally) -> OutputAgreement:
    compared = max(1, tally.compared)
    return OutputAgreement(
        name,
        tally.compared,
        tally.mismatched,
        tally.mismatch,
        tally.differing / compared,
        tally.flips / tally.classed if tally.classed else None,
        tally.max_abs,
        tally.max_rel,
        tally.cosine_sum / tally.cosines if tally.cosines else None,
        tally.min_cosine if tally.cosines else None,
    )


def _words(
    tally: AgreementTally, outputs: Sequence[OutputAgreement], judged: int, plan: ShadowPlan
) -> str:
    """The worst of it, in a line."""
    if tally.failed * 2 > judged:
        return (
            f"it fails {tally.failed} of {judged} shadowed requests that the stable version "
            f"answers: {tally.failure}"
        )
    worst = max(outputs, key=lambda o: (o.mismatched, *_badness(o, plan)), default=None)
    if worst is None:
        return ""
    if worst.mismatched:
        return (
            f"output {worst.name} {worst.mismatch} in {worst.mismatched} of {worst.compared} "
            "shadowed requests"
        )
    return _numbers(worst, judged, plan)


def _badness(output: OutputAgreement, plan: ShadowPlan) -> tuple[float, float, float]:
    """Worse is larger: first by what is judged, as a multiple of what is allowed."""
    flips = (output.flips or 0.0) / max(plan.max_flips or 0.0, 1e-9)
    differing = output.differing / max(plan.max_differing or 0.0, 1e-9)
    is_judged = plan.max_flips is not None or plan.max_differing is not None
    of_flips = flips if plan.max_flips is not None or not is_judged else 0.0
    of_differing = differing if plan.max_differing is not None or not is_judged else 0.0
    return max(of_flips, of_differing), differing, output.max_rel_error


def _numbers(worst: OutputAgreement, judged: int, plan: ShadowPlan) -> str:
    parts = []
    if worst.flips:
        parts.append(f"{_percent(worst.flips)} flip top-1{_allowed(plan.max_flips)}")
    if worst.differing:
        allowed = _allowed(plan.max_differing)
        parts.append(f"{_percent(worst.differing)} differ by more than {plan.tolerance:g}{allowed}")
    if not parts:
        return ""
    return (
        f"output {worst.name}: of the predictions in {judged} shadowed requests "
        f"{' and '.join(parts)}; max abs error {worst.max_abs_error:.3g}"
    )


def _percent(share: float) -> str:
    return f"{share * 100:.3g}%"


def _allowed(most: float | None) -> str:
    return "" if most is None else f" ({_percent(most)} allowed)"
