"""Likelihood ratios that may be looked at after every event (analysis.py says why and after whom).

An e-value: under the null hypothesis its mean is 1 at most at every time one stops, so that it
exceeds 1/alpha ever with probability alpha at most (Ville's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

ODDS = (1.5, 2.0, 3.0, 6.0, 15.0, 50.0)
"""The alternatives: from what is worth a rollback to "stable never fails and the canary does". To
average over six costs a factor of 6 in evidence at most, that is an error or two more; what lies
between two of them is found by both."""

_MOST_LOG = 600.0


def evidence(
    hits: float, misses: float, share: float, alternatives: Sequence[float] = ODDS
) -> float:
    """How much likelier it is that `hits` of all events are hits if their odds are several times
    those of `share` than if their share is `share` at most; never infinite or NaN.

    An event may be a fraction x of a hit and 1 - x of a miss: odds^x is below 1 + (odds - 1) x, so
    that the mean of its factor stays 1 at most where the mean of x is `share` at most.
    """
    if not hits or not 0.0 < share < 1.0:
        return 1.0
    total = 0.0
    for odds in alternatives:
        norm = 1.0 + (odds - 1.0) * share
        # The share of hits becomes odds x share / norm, that of misses (1 - share) / norm.
        log_ratio = hits * math.log(odds / norm) - misses * math.log(norm)
        total += math.exp(min(log_ratio, _MOST_LOG))
    return total / len(alternatives)
