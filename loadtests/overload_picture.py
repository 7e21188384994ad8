"""The picture of an overload: what became of requests, and how long answers took, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_IN_TIME, _LATE, _REFUSED = "#2a7f62", "#b3402a", "#c9d1da"
_TITLES = {"gateway": "through the gateway", "direct": "straight to the replica"}


def draw(
    ways: Mapping[str, Any],
    phase_s: Sequence[float],
    deadline_s: float,
    capacity_per_s: float,
    path: Path,
) -> None:
    """Write an SVG: a column for each way, rates above and latencies below."""
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 8, "svg.hashsalt": "overload"}):
        figure = Figure(figsize=(11, 5), layout="constrained")
        axes = figure.subplots(2, len(ways), sharex=True, sharey="row", squeeze=False)
        for column, (name, way) in enumerate(ways.items()):
            bins = way["over_time"]
            at = [b["at_s"] for b in bins]
            rates, took = axes[0][column], axes[1][column]
            ratio, wasted = way["accepted_in_time_ratio"], way["wasted_work_ratio"]
            rates.set_title(
                f"{_TITLES.get(name, name)}: {ratio:.1%} of what was accepted in time, "
                f"{wasted:.1%} of work wasted",
                loc="left",
            )
            kinds = ("in_time_per_s", "late_per_s", "refused_per_s")
            rates.stackplot(
                at,
                *[[b[kind] for b in bins] for kind in kinds],
                colors=(_IN_TIME, _LATE, _REFUSED),
                labels=("in time", "late or failed", "refused"),
            )
            rates.axhline(capacity_per_s, color="black", linewidth=0.8, linestyle=":")
            took.plot(at, [b["p50_s"] for b in bins], color=_IN_TIME, linewidth=1, label="p50")
            took.plot(at, [b["p99_s"] for b in bins], color=_LATE, linewidth=1, label="p99")
            took.axhline(deadline_s, color="black", linewidth=0.8, linestyle=":")
            took.set_xlabel("seconds")
            for axis in (rates, took):
                axis.axvspan(phase_s[0], phase_s[0] + phase_s[1], color="black", alpha=0.04)
                axis.spines[["top", "right"]].set_visible(False)
                axis.set_ylim(bottom=0)
        axes[0][0].set_ylabel("requests/s (dotted: capacity)")
        axes[1][0].set_ylabel("latency of answers, s (dotted: deadline)")
        axes[0][0].legend(loc="upper right", frameon=False)
        axes[1][0].legend(loc="upper right", frameon=False)
        figure.savefig(path, metadata={"Date": None})
