"""Choose which replica answers next.

Two replicas are drawn at random and the less loaded one wins (power of two choices, P2C;
Mitzenmacher 2001). Load is a latency estimate times the requests that the replica would then hold.
The estimate jumps at once to a slow answer, moves gradually towards fast ones, and fades while
nothing is heard, so a replica that turned slow is shunned within one answer and forgiven in time.
After Finagle's PeakEwma.

Pure: `now` is monotonic seconds and `rng` belongs to the caller, so any choice can be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """How the latency estimate behaves."""

    decay_s: float = 10.0
    """How fast the estimate forgets: after this long, 37% of a past slowness is left. Ten seconds,
    as in Finagle: longer than one slow batch, shorter than a person's patience."""

    failure_latency_s: float = 5.0
    """What a failed call counts as. Far above usual latencies, so that one failure shuns a replica;
    faded to 50 ms in less than a minute, so that one which came back is tried again soon."""

    unknown_latency_s: float = 1.0
    """What a replica counts as while its first answer is awaited. It gets one request at once and
    more only when it has answered, or when all others are as loaded as this."""


_UNKNOWN_BELOW_S = 50e-6
"""An estimate that has faded to this says nothing any more: no model answers faster."""


@dataclass(frozen=True, slots=True)
class PeakEwma:
    """A latency estimate, last touched at `at_s`."""

    latency_s: float = 0.0
    at_s: float = 0.0

    def estimate(self, now: float, decay_s: float) -> float:
        """The latency to expect in seconds; 0.0 when nothing is known."""
        faded = self.latency_s * math.exp(-max(0.0, now - self.at_s) / decay_s)
        return faded if faded >= _UNKNOWN_BELOW_S else 0.0

    def observe(self, latency_s: float, now: float, decay_s: float) -> PeakEwma:
        """Fold in one answer: a slower one replaces the estimate, a faster one draws it nearer, the
        more so the longer ago the last one was."""
        if latency_s >= self.latency_s:
            return PeakEwma(latency_s, now)
        kept = math.exp(-max(0.0, now - self.at_s) / decay_s)
        return PeakEwma(latency_s + (self.latency_s - latency_s) * kept, now)


def load(ewma: PeakEwma, in_flight: int, now: float, settings: BalanceSettings) -> float:
    """What one more request would cost on this replica; smaller is better."""
    latency_s = ewma.estimate(now, settings.decay_s)
    if latency_s == 0.0:
        return 0.0 if in_flight == 0 else settings.unknown_latency_s * (in_flight + 1)
    return latency_s * (in_flight + 1)


def choose(candidates: Sequence[T], load_of: Callable[[T], float], rng: Random) -> T | None:
    """Pick by P2C; `None` only when there is nothing to pick from. Only the two that were drawn are
    asked for their load."""
    count = len(candidates)
    if count < 2:
        return candidates[0] if candidates else None
    first = rng.randrange(count)
    second = rng.randrange(count - 1)
    if second >= first:
        second += 1
    a, b = candidates[first], candidates[second]
    return a if load_of(a) <= load_of(b) else b
