"""Is the canary worse than the stable version? Looked at again and again, with a stated error rate.

Both answer at the same time, and which of them a request gets is decided by a hash, so whatever
else changes (load, callers, the network) changes for both. Under the null hypothesis "the canary
is no worse", a request that goes wrong is therefore one of the canary's with probability `share` at
most, its share of the requests, however the rate of errors itself moves. Each of them is one toss
of a coin whose bias is known, and the evidence against the null hypothesis is the likelihood ratio
of "the canary's odds are theta times as high", averaged over several theta: a mixture sequential
probability ratio test (Robbins 1970, "Statistical methods related to the law of the iterated
logarithm"; used as here by Johari, Koomen, Pekelis, Walsh 2022, "Always valid inference",
Operations Research 70(3)). By Ville's inequality it exceeds 1/alpha ever with probability alpha at
most: one may look after every request and stop when one likes, which a p-value does not allow.

Latency is compared the same way, by "took longer than x": the canary's share of the slow answers,
for every x of the histogram, where the canary is given a margin of one bucket (1.2 times). The
average over all x is again a valid test; it finds a median that moved and a tail that grew alike,
and assumes nothing about the distribution. But latencies are not tossed one by one: versions have
queues of their own in a replica, and one bad second there is many slow answers. So a canary is
called slow only if it is so in one block of time after the other too (`Blocks`), tested the same
way with the block as the toss. What is slow in one long episode only holds the step.

Predictions are compared where requests are shadowed and a bound is given (agreement.py).

What it does not know: requests of one sticky key share a side, so a single caller who makes a large
part of the traffic can make the two sides differ by what it sends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.core.evidence import evidence
from gateway.domain.agreement import Agreement
from gateway.domain.rollouts import Finding, Side, Verdict

LATENCY_MARGIN = 1.2
"""A canary may be slower by this factor. Less cannot be told from where its requests happen to fall
on a busy machine; it is the width of a bucket, so that the two histograms line up."""

_FASTEST_S = 50e-6
_COUNT = 81
BOUNDS_S = tuple(_FASTEST_S * LATENCY_MARGIN**i for i in range(_COUNT - 1))
"""Upper bounds of the latency buckets: 50 microseconds to 90 s; the last bucket has none."""

Tally = list[int]
"""What one version answered: `[failed, answers by latency bucket…]`. Lists, as the request path
counts into them and processes send them to each other."""


def empty() -> Tally:
    """Of nothing."""
    return [0] * (1 + _COUNT)


def count(tally: Tally, took_s: float, *, failed: bool) -> None:
    """One answer. A failed one is in no bucket: errors are often quick, and would make a version
    that fails look fast."""
    if failed:
        tally[0] += 1
    else:
        tally[1 + bisect_left(BOUNDS_S, took_s)] += 1


def add(tally: Tally, more: Sequence[int]) -> None:
    """Add what another process has counted."""
    for i, n in enumerate(more):
        tally[i] += n


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    """How sure one wants to be."""

    false_alarm_ratio: float = 0.01
    """Of rollouts of a version that is no worse, at most so many are rolled back all the same. One
    in a hundred: who rolls out daily loses a good version to chance once in four months at most."""

    block_s: float = 1.0
    """Shortest block of time. Queues of a replica that is not overloaded empty within less."""

    block_samples: int = 8
    """Answers of either version that a block needs, to have a middle."""

    hold_evidence: float = 8.0
    """Evidence from which a step does not pass but waits for more, either way. In a step of 5%, one
    error where the stable version has none is below it and two are above. A version that is no
    worse gets there in one step of eight at most (Ville), and leaves again."""


def _is_slower(stable: Sequence[int], canary: Sequence[int]) -> bool:
    """Whether an answer of the canary, drawn at random, more often takes longer than one of the
    stable version and the margin than less long (the Mann-Whitney statistic against a half)."""
    more = less = 0
    faster = 0  # of the stable version's, below the bucket that the margin moves to here
    total = sum(stable[1:])
    for i in range(1, _COUNT + 1):
        moved = stable[i - 1] if i > 1 else 0
        more += canary[i] * faster
        less += canary[i] * (total - faster - moved)
        faster += moved
    return more > less


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of time in one window, and in how many of them the canary was the slower one."""

    slower: int = 0
    others: int = 0
    stable_before: tuple[int, ...] = ()
    canary_before: tuple[int, ...] = ()
    """Tallies when the block under way began."""
    since: float = 0.0

    @property
    def evidence(self) -> float:
        """How much likelier these blocks are if the canary is slower in most of them than if it is
        in half of them at most, as one that is no worse would be."""
        return evidence(self.slower, self.others, 0.5, _BLOCK_ODDS)


_BLOCK_ODDS = (2.0, 5.0, 20.0, 100.0)


def folded(
    blocks: Blocks,
    stable: Sequence[int],
    canary: Sequence[int],
    now: float,
    settings: AnalysisSettings,
) -> Blocks:
    """The blocks with what was counted since the last look; `now` is monotonic seconds."""
    if not blocks.stable_before:
        return replace(blocks, stable_before=tuple(stable), canary_before=tuple(canary), since=now)
    here = [n - m for n, m in zip(stable, blocks.stable_before, strict=True)]
    there = [n - m for n, m in zip(canary, blocks.canary_before, strict=True)]
    if min(*here, *there) < 0:  # a process has died before it told its last counts
        return Blocks(blocks.slower, blocks.others, tuple(stable), tuple(canary), now)
    enough = min(sum(here[1:]), sum(there[1:])) >= settings.block_samples
    if not enough or now - blocks.since < settings.block_s:
        return blocks
    is_slower = _is_slower(here, there)
    return Blocks(
        blocks.slower + is_slower,
        blocks.others + (not is_slower),
        tuple(stable),
        tuple(canary),
        now,
    )


def analyse(
    stable: Sequence[int],
    canary: Sequence[int],
    blocks: Blocks,
    min_samples: int,
    steps: int,
    settings: AnalysisSettings,
    agreement: Agreement | None = None,
) -> Finding:
    """Compare one window's tallies. `steps` is how many windows the whole rollout has.

    Each step makes two tests with fresh counts (of another weight, so that counts of different
    steps cannot be added up: Simpson's paradox), and one more for each bound on how much the
    predictions may differ; each test gets its part of the stated error rate. A failure is found at
    any number of samples; a pass needs `min_samples` of the canary, as many of the stable version,
    and what `agreement` needs.
    """
    tests = 2 + (agreement.tests if agreement is not None else 0)
    limit = tests * max(1, steps) / settings.false_alarm_ratio
    sides = _side(stable), _side(canary)
    errors, latency = _error_evidence(stable, canary), _latency_evidence(stable, canary)
    if blocks.evidence * settings.false_alarm_ratio < 1.0:
        latency = min(latency, limit * 0.99)
    verdict, reason = _judge(*sides, errors, latency, agreement, limit, min_samples, settings)
    return Finding(verdict, reason, *sides, errors, latency, limit, agreement)


def _judge(
    stable: Side,
    canary: Side,
    errors: float,
    latency: float,
    agreement: Agreement | None,
    limit: float,
    min_samples: int,
    settings: AnalysisSettings,
) -> tuple[Verdict, str]:
    if errors >= limit:
        return Verdict.FAIL, (
            f"it fails more often: {_rate(canary)}, against {_rate(stable)} of the stable version"
        )
    if latency >= limit:
        return Verdict.FAIL, (
            f"it is slower: p50 {_ms(canary.p50_s)}, p99 {_ms(canary.p99_s)}, against "
            f"{_ms(stable.p50_s)} and {_ms(stable.p99_s)} of the stable version"
        )
    if agreement is not None and agreement.evidence >= limit:
        return Verdict.FAIL, f"its predictions differ: {agreement.reason}"
    for side, who in ((canary, "the canary"), (stable, "the stable version")):
        if side.requests < min_samples:
            return Verdict.INCONCLUSIVE, (
                f"{who} has answered {side.requests} of {min_samples} requests that are needed"
            )
    if agreement is not None and agreement.judged < agreement.needed:
        return Verdict.INCONCLUSIVE, (
            f"{agreement.judged} of {agreement.needed} shadowed requests that are needed have been "
            f"compared ({agreement.skipped} could not be, {agreement.dropped} were dropped)"
        )
    doubts = {"errors": errors, "latency": latency}
    if agreement is not None:
        doubts["predictions"] = agreement.evidence
    what = max(doubts, key=lambda name: doubts[name])
    if doubts[what] >= settings.hold_evidence:
        return Verdict.INCONCLUSIVE, (
            f"its {what} may be worse (evidence {doubts[what]:.3g}, failing at {limit:g}); waiting "
            "for more requests"
        )
    return Verdict.PASS, "it is no worse"


def _rate(side: Side) -> str:
    return f"{side.failed} of {side.requests} ({side.failed / max(1, side.requests):.2%})"


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1e3:.3g} ms"


# ---- evidence --------------------


def _share(canary: int, stable: int) -> float:
    """The canary's share of the requests, estimated with one request more on its side: too high
    while there are few, which is the careful way."""
    return (canary + 1) / (canary + stable + 2)


def _error_evidence(stable: Sequence[int], canary: Sequence[int]) -> float:
    return evidence(canary[0], stable[0], _share(sum(canary), sum(stable)))


def _latency_evidence(stable: Sequence[int], canary: Sequence[int]) -> float:
    """The average over all x of the evidence that the canary takes longer than margin times x more
    often than the stable version takes longer than x."""
    answered, of_stable = sum(canary[1:]), sum(stable[1:])
    if not answered or not of_stable:
        return 1.0
    share = _share(answered, of_stable)
    # slow_canary: above bound i + 1, which is the margin times bound i; slow_stable: above bound i.
    slow_canary, slow_stable, total = answered - canary[1], of_stable, 0.0
    for i in range(_COUNT - 2):
        slow_canary -= canary[2 + i]
        slow_stable -= stable[1 + i]
        total += evidence(slow_canary, slow_stable, share)
    return total / (_COUNT - 2)


# ---- numbers for people --------------------


def _side(tally: Sequence[int]) -> Side:
    return Side(sum(tally), tally[0], p50_s=quantile(tally, 0.5), p99_s=quantile(tally, 0.99))


def quantile(tally: Sequence[int], q: float) -> float | None:
    """The bound that a share `q` of the answers that did not fail kept; None for none."""
    answered = sum(tally[1:])
    if not answered:
        return None
    left = q * answered
    for bound, n in zip(BOUNDS_S, tally[1:], strict=False):
        left -= n
        if left <= 0:
            return bound
    return BOUNDS_S[-1]
