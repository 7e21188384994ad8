"""The picture of cold starts and of a ramp: where the time went, and how replicas followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLORS = ("#c9d1da", "#b3402a", "#d98e4a", "#e3c46b", "#5d86b5", "#2a7f62")
_GREEN, _RED = "#2a7f62", "#b3402a"


def draw(
    rounds: Sequence[Mapping[str, Any]],
    ramped: Mapping[str, Any],
    step_s: float,
    steps_per_s: Sequence[float],
    path: Path,
) -> None:
    """Write an SVG: cold starts on the left, the ramp on the right."""
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 8, "svg.hashsalt": "cold-start"}):
        figure = Figure(figsize=(12, 5.5), layout="constrained")
        axes = figure.subplots(2, 2)
        _split(axes[0][0], rounds)
        _held(axes[1][0], rounds)
        _replicas(axes[0][1], ramped, step_s, steps_per_s)
        _latency(axes[1][1], ramped)
        for axis in axes.flat:
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})


def _split(axis: Axes, rounds: Sequence[Mapping[str, Any]]) -> None:
    left = [0.0] * len(rounds)
    for name, color in zip(rounds[0]["split"], _COLORS, strict=True):
        widths = [max(0.0, r["split"][name]) for r in rounds]
        axis.barh(range(len(rounds)), widths, left=left, color=color, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set_yticks(range(len(rounds)), [f"start {i + 1}" for i in range(len(rounds))])
    axis.set_xlabel("seconds from the first arrival to the first answer")
    axis.set_title("no replica, then the first request: where the time goes", loc="left")
    axis.legend(loc="upper left", bbox_to_anchor=(0.0, -0.2), ncols=3, frameon=False)


def _held(axis: Axes, rounds: Sequence[Mapping[str, Any]]) -> None:
    for one, color in zip(rounds, ("#2a7f62", "#5d86b5", "#d98e4a", *_COLORS), strict=False):
        due, took = zip(*one["each"], strict=True)
        axis.plot(due, took, ".", markersize=3, color=color)
    failed = sum(r["requests"] - r["in_time"] for r in rounds)
    total = sum(r["requests"] for r in rounds)
    axis.set_title(f"each request: {failed} of {total} refused or failed", loc="left")
    axis.set_xlabel("when it came, seconds")
    axis.set_ylabel("latency, s")
    axis.set_ylim(bottom=0)


def _replicas(
    axis: Axes, ramped: Mapping[str, Any], step_s: float, steps_per_s: Sequence[float]
) -> None:
    at = [r["at_s"] for r in ramped["replicas"]]
    axis.step(
        at, [r["wanted"] for r in ramped["replicas"]], color=_RED, where="post", label="wanted"
    )
    axis.step(
        at, [r["ready"] for r in ramped["replicas"]], color=_GREEN, where="post", label="ready"
    )
    axis.set_ylabel("replicas")
    axis.set_ylim(bottom=0)
    rates = axis.twinx()
    edges = [i * step_s for i in range(len(steps_per_s) + 1)]
    rates.stairs(steps_per_s, edges, color="black", alpha=0.15, fill=True)
    rates.set_ylabel("requests/s (grey)")
    rates.spines[["top"]].set_visible(False)
    axis.set_title("replicas by what is in flight", loc="left")
    axis.legend(loc="upper right", frameon=False)


def _latency(axis: Axes, ramped: Mapping[str, Any]) -> None:
    bins = ramped["over_time"]
    at = [b["at_s"] for b in bins]
    axis.plot(at, [b["p50_s"] for b in bins], color=_GREEN, linewidth=1, label="p50")
    axis.plot(at, [b["p99_s"] for b in bins], color=_RED, linewidth=1, label="p99")
    failed = ramped["requests"] - ramped["in_time"]
    axis.set_title(f"{failed} of {ramped['requests']} refused or failed", loc="left")
    axis.set_xlabel("seconds")
    axis.set_ylabel("latency of answers, s")
    axis.set_yscale("log")
    axis.legend(loc="upper right", frameon=False)
