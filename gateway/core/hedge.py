"""When a second replica is asked the same, because the first one takes long.

After the latency that a share of the model's requests stays below (p95, say) has passed without an
answer (Dean and Barroso, "The tail at scale", 2013): so one request in twenty is asked twice, and
the slowest twentieth has two chances. The retry budget bounds it where everything is slow.
"""

from __future__ import annotations

import re

from gateway.domain.errors import InvalidRequest

_SHARE = re.compile(r"p([0-9]{2})(?:\.([0-9]))?")
_LEAST = 20
"""Answers before anything is hedged: fewer say nothing of a tail."""
_STEP = 0.05
"""How far an answer moves the estimate, in its own size. For p95 that is 4.8% up and 0.25% down: a
model that turned slow is followed within some dozen answers, one that turned fast in hundreds."""


def share_of(text: str) -> float:
    """`p95` is 0.95; empty or `off` is 0.0, never.

    Raises:
        InvalidRequest: it is none of p50 to p99.9 (`bad_hedge`).
    """
    if text in ("", "off"):
        return 0.0
    found = _SHARE.fullmatch(text)
    if found is None or int(found[1]) < 50:
        raise InvalidRequest(
            f"hedge (--hedge) must be off, or a percentile from p50 to p99.9 such as p95; got "
            f"{text[:40]!r}.",
            reason="bad_hedge",
        )
    return float(f"0.{found[1]}{found[2] or ''}")


class Tail:
    """A quantile of one model's latencies, followed answer by answer (Robbins and Monro 1951)."""

    __slots__ = ("_count", "latency_s", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self._count = 0
        self.latency_s = 0.0

    def __repr__(self) -> str:
        return f"Tail(p{self.share * 100:g} is {self.latency_s * 1e3:.3g} ms, {self._count} seen)"

    def observe(self, latency_s: float) -> None:
        """One answer; of a call that was given up for a faster one, the time until then."""
        self._count += 1
        if self._count == 1:
            self.latency_s = latency_s
        elif latency_s > self.latency_s:
            # Never beyond what was seen, while little was.
            grown = self.latency_s * (1.0 + _STEP * self.share)
            self.latency_s = max(grown, latency_s) if self._count < _LEAST else grown
        else:
            self.latency_s *= 1.0 - _STEP * (1.0 - self.share)

    def wait_s(self) -> float | None:
        """How long to wait before a second replica is asked; None while that is not known."""
        return self.latency_s if self._count >= _LEAST else None
