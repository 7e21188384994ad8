"""One picture of a bench: how far each figure is from its goal, and what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.summary import Line, Outcome

_MET, _MISSED, _OTHERS = "#2a7f62", "#b3402a", "#7a8799"
_COLOURS = {"direct": "#c9d1da", "gateway": _MET, "envoy": _OTHERS}
_ROW_INCHES = 0.24


def draw(outcomes: Sequence[Outcome], caption: str, path: Path) -> None:
    """Write an SVG (or what the suffix says). `caption` says commit and machine."""
    lines = [line for outcome in outcomes for line in outcome.lines]
    by_name = {outcome.name: outcome for outcome in outcomes}
    bars = [by_name[name] for name in ("proxies", "peers") if name in by_name]
    heights = [len(lines) * _ROW_INCHES, *(len(o.rows) * _ROW_INCHES * 0.7 for o in bars)]
    # Text stays text, so the file is small, can be searched, and two runs can be compared.
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 8, "svg.hashsalt": "bench"}):
        figure = Figure(figsize=(11, sum(heights) + 1.6 * (1 + len(bars))), layout="constrained")
        figure.suptitle(caption, fontsize=9, x=0.01, ha="left")
        axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _goals(axes[0], lines)
        for axis, outcome in zip(axes[1:], bars, strict=True):
            _cpu(axis, outcome)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def share_of_goal(line: Line) -> tuple[float, float, float]:
    """Median, least and most as a share of what is allowed: below 1 is met, both ways round."""
    figure, goal = line.figure, line.goal
    if line.at_most:
        return figure.median / goal, figure.least / goal, figure.most / goal
    return goal / figure.median, goal / figure.most, goal / figure.least


def _goals(axis: Axes, lines: Sequence[Line]) -> None:
    axis.set_title("Goals: left of the line is met (whiskers: all rounds)", loc="left")
    for i, line in enumerate(lines):
        mid, low, high = share_of_goal(line)
        colour = _MET if line.is_met else _MISSED
        axis.plot([max(low, 1e-3), max(high, 1e-3)], [i, i], color=colour, linewidth=1)
        axis.plot([max(mid, 1e-3)], [i], "o", color=colour, markersize=4)
        _, figure, goal, *_ = line.cells()
        axis.annotate(
            f"{figure}   goal {goal}", (1.01, i), xycoords=("axes fraction", "data"), va="center"
        )
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xscale("log")
    axis.set_xlabel("share of what the goal allows (log)")
    axis.set_yticks(range(len(lines)), [line.what for line in lines])
    axis.set_ylim(len(lines) - 0.5, -0.5)
    _plain(axis)


def _cpu(axis: Axes, outcome: Outcome) -> None:
    rows = [row for row in outcome.rows if row["cpu_per_request_s"] > 0]
    axis.set_title(f"{outcome.name}: CPU per request, µs (log; whiskers: all rounds)", loc="left")
    for i, row in enumerate(rows):
        low, high = (1e6 * v for v in row["cpu_spread_s"])
        mid = 1e6 * row["cpu_per_request_s"]
        colour = _COLOURS.get(_who(row), _OTHERS)
        axis.plot([low, high], [i, i], color=colour, linewidth=1)
        axis.plot([mid], [i], "o", color=colour, markersize=5)
        axis.annotate(
            f"{mid:.0f}", (high, i), xytext=(6, 0), textcoords="offset points", va="center"
        )
    axis.set_xscale("log")  # hence dots: a bar's length would say nothing on it
    axis.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    _plain(axis)


def _who(row: dict[str, Any] | Any) -> str:
    if "way" in row:
        return str(row["way"])
    return "gateway" if str(row["server"]).startswith("gateway") else "other"


def _label(row: dict[str, Any] | Any) -> str:
    if "way" in row:
        return f"{row['payload']} · {row['way']}"
    return f"{row['protocol']}, {row['at_once']} at once · {row['server']}"


def _plain(axis: Axes) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.3)
