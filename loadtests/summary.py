"""From rounds to figures: percentiles, medians with their spread, lines judged by a goal. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile; nan of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and the smallest and largest of them."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Raises ValueError of nothing."""
        found = list(values)
        if not found:
            raise ValueError("no rounds")
        return cls(statistics.median(found), min(found), max(found), len(found))

    def shown(self, scale: float = 1.0, digits: int = 2) -> str:
        """`0.42 (0.40–0.45)`, in units of `1 / scale`."""
        m, lo, hi = (f"{v * scale:.{digits}f}" for v in (self.median, self.least, self.most))
        return f"{m} ({lo}–{hi})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs, round by round: a noisy minute hits both of a pair."""
    return Spread.of(a / b if b else math.inf for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table of goals."""

    what: str
    unit: str
    """Of the figure as shown: `× Envoy`, `ms`, `µs`."""
    figure: Spread
    """In the unit shown."""
    goal: float
    at_most: bool = True
    """Whether the figure is to stay below the goal, or to reach it."""
    note: str = ""

    @property
    def is_met(self) -> bool:
        if self.at_most:
            return self.figure.median <= self.goal
        return self.figure.median >= self.goal

    def cells(self) -> list[str]:
        """What, figure with spread, goal, verdict."""
        digits = 0 if abs(self.figure.median) >= 100 else 2
        sign = "≤" if self.at_most else "≥"
        verdict = "met" if self.is_met else "MISSED"
        return [
            self.what,
            self.figure.shown(digits=digits) + f" {self.unit}",
            f"{sign} {self.goal:g}",
            verdict,
            self.note,
        ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one scenario found."""

    name: str
    lines: Sequence[Line]
    rows: Sequence[Mapping[str, Any]] = ()
    """Figures that the lines are drawn from, one mapping for each case; same keys in all."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was measured."""


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Plain values, for a file."""
    return {
        "lines": [
            {
                "what": line.what,
                "unit": line.unit,
                "median": line.figure.median,
                "least": line.figure.least,
                "most": line.figure.most,
                "rounds": line.figure.rounds,
                "goal": line.goal,
                "at_most": line.at_most,
                "met": line.is_met,
                "note": line.note,
            }
            for line in outcome.lines
        ],
        "rows": [dict(row) for row in outcome.rows],
        "facts": dict(outcome.facts),
    }


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text under a header; the first is to the left, as are words."""
    shown = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(header))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in shown
    ]
    return "\n".join([lines[0], "  ".join("─" * w for w in widths), *lines[1:]])


def verdicts(outcomes: Iterable[Outcome]) -> str:
    """The table of goals."""
    header = ("what", "measured: median (least–most of the rounds)", "goal", "", "")
    return table(header, (line.cells() for o in outcomes for line in o.lines))


def markdown(outcomes: Iterable[Outcome]) -> str:
    """The same, for a README."""
    rows = ["| what | median (spread) | goal | |", "|---|---|---|---|"]
    for outcome in outcomes:
        for line in outcome.lines:
            what, figure, goal, verdict, note = line.cells()
            rows.append(f"| {what}{f' ({note})' if note else ''} | {figure} | {goal} | {verdict} |")
    return "\n".join(rows)
