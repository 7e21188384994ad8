"""Figures from rounds."""

from __future__ import annotations

import json
import math

import pytest

from loadtests.picture import draw, share_of_goal
from loadtests.summary import (
    Line,
    Outcome,
    Spread,
    as_json,
    markdown,
    percentile,
    ratios,
    table,
    verdicts,
)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.5, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([float(i) for i in range(1, 101)], 0.99, 99.0),
        ([float(i) for i in range(1, 101)], 1.0, 100.0),
        ([float(i) for i in range(1, 101)], 0.0, 1.0),
    ],
)
def test_percentiles_are_nearest_ranks(values, share, expected):
    assert percentile(values, share) == expected


def test_nothing_has_no_percentile():
    assert math.isnan(percentile([], 0.5))


def test_a_spread_is_of_all_rounds():
    assert Spread.of([3, 1, 2, 10]) == Spread(2.5, 1, 10, 4)
    with pytest.raises(ValueError, match="no rounds"):
        Spread.of([])


def test_ratios_are_taken_within_a_round():
    # The second round was twice as slow for both: no ratio says so.
    assert ratios([1, 2, 1], [2, 4, 2]) == Spread(0.5, 0.5, 0.5, 3)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


@pytest.mark.parametrize(
    ("median", "at_most", "is_met"),
    [(0.5, True, True), (0.51, True, False), (0.5, False, True), (0.49, False, False)],
)
def test_the_median_meets_a_goal(median, at_most, is_met):
    line = Line("cost", "× Envoy", Spread(median, 0.1, 9, 5), 0.5, at_most)
    assert line.is_met is is_met
    assert line.cells()[3] == ("met" if is_met else "MISSED")
    assert (share_of_goal(line)[0] <= 1) is is_met


def test_both_ways_round_least_share_is_best():
    cost = Line("cost", "µs", Spread(50, 40, 80, 5), 100)
    speed = Line("speed", "× one", Spread(4, 2, 5, 5), 2, at_most=False)
    assert share_of_goal(cost) == (0.5, 0.4, 0.8)
    assert share_of_goal(speed) == (0.5, 0.4, 1.0)


OUTCOME = Outcome(
    "proxies",
    [
        Line("HTTP", "× Envoy", Spread(0.42, 0.4, 0.45, 5), 0.5),
        Line("lookup", "µs", Spread(123.4, 100, 200, 5), 50, note="p50 4 µs"),
    ],
    [
        {"payload": "a", "way": way, "cpu_per_request_s": cpu, "cpu_spread_s": [cpu, 2 * cpu]}
        for way, cpu in (("direct", 0.0), ("gateway", 5e-5), ("envoy", 1e-4))
    ],
    {"load": "h2load"},
)


def test_a_table_has_every_line_with_its_verdict():
    text = verdicts([OUTCOME])
    assert "0.42 (0.40–0.45) × Envoy" in text
    assert "123 (100–200) µs" in text
    assert text.splitlines()[2].split()[-1] == "met"
    assert "MISSED  p50 4 µs" in text.splitlines()[3]


def test_columns_are_as_wide_as_their_widest_cell():
    assert table(("a", "b"), [("long", "x"), ("y", "")]) == "a     b\n────  ─\nlong  x\ny"


def test_markdown_has_the_same_lines():
    assert (
        markdown([OUTCOME]).splitlines()[2] == "| HTTP | 0.42 (0.40–0.45) × Envoy | ≤ 0.5 | met |"
    )


def test_json_says_what_was_met():
    told = json.loads(json.dumps(as_json(OUTCOME)))
    assert [line["met"] for line in told["lines"]] == [True, False]
    assert told["lines"][0]["rounds"] == 5
    assert told["rows"][1]["way"] == "gateway"
    assert told["facts"] == {"load": "h2load"}


def test_the_picture_has_every_line_and_bar(tmp_path):
    path = tmp_path / "bench.svg"
    draw([OUTCOME], "commit abc, 2 cores", path)
    drawn = path.read_text()
    for text in ("commit abc, 2 cores", "HTTP", "lookup", "a · envoy", "0.42 (0.40–0.45)"):
        assert text in drawn
    assert "a · direct" not in drawn  # it costs no proxy anything
