"""The picture of latencies over time, with the spans in which something was done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from loadtests.traffic import Sample

if TYPE_CHECKING:
    from loadtests.swap import Swap

_P50, _P99, _SWAP, _KILL = "#2a7f62", "#7a8799", "#f0c05a", "#b3402a"
_BIN_S = 0.5


def draw(samples: Sequence[Sample], swaps: Sequence[Swap], caption: str, path: Path) -> None:
    """Write an SVG: p50 and p99 of each half second; swaps and kills shaded."""
    spans = [(s.began_s, s.settled_s, s.killed) for s in swaps]
    draw_spans(samples, spans, ("swap", "swap and SIGKILL"), caption, path)


def draw_spans(
    samples: Sequence[Sample],
    spans: Sequence[tuple[float, float, bool]],
    names: tuple[str, str],
    caption: str,
    path: Path,
) -> None:
    """`spans` are begin, end, and which of the two `names` it is."""
    due = np.array([s.due_s for s in samples])
    took = np.array([s.latency_s for s in samples])
    begin = due.min()
    which = ((due - begin) / _BIN_S).astype(int)
    order = np.argsort(which, kind="stable")
    numbers, starts = np.unique(which[order], return_index=True)
    parts = np.split(took[order], starts[1:])
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 8, "svg.hashsalt": "spans"}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        axis = figure.subplots()
        axis.set_title(caption, loc="left")
        at = numbers * _BIN_S
        for share, colour, name in ((0.99, _P99, "p99"), (0.5, _P50, "p50")):
            values = [1e3 * float(np.quantile(p, share)) for p in parts]
            axis.plot(at, values, color=colour, linewidth=0.9, label=f"{name} of half a second")
        named = set()
        for first, last, is_second in spans:
            name = names[is_second]
            label = None if name in named else name
            named.add(name)
            colour = _KILL if is_second else _SWAP
            axis.axvspan(first - begin, last - begin, color=colour, alpha=0.4, label=label)
        axis.set_yscale("log")
        axis.set_ylabel("latency, ms (log)")
        axis.set_xlabel("seconds")
        axis.legend(loc="upper right", frameon=False, ncols=4)
        axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
