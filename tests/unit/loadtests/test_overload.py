from __future__ import annotations

import json

import pytest

from loadtests.crowd import Request
from loadtests.overload import Load, doubt, figures, over_time, verdict
from loadtests.overload_picture import draw

LOAD = Load(run_s=0.1, threads=1, phase_s=(10.0, 10.0, 10.0))


def request(due_s: float, outcome: str, took_s: float = 0.1) -> Request:
    return Request(due_s, due_s, due_s + took_s, outcome)


REQUESTS = [
    *[request(n / 5, "in_time") for n in range(50)],
    *[request(10 + n / 10, "in_time", 0.3) for n in range(96)],
    *[request(10 + n / 10, "refused:too_late", 0.001) for n in range(200)],
    *[request(12.0, "late", 0.5) for _ in range(4)],
    request(13.0, "left"),
    request(20.5, "refused:too_late"),
    request(25.0, "in_time"),
]


def test_figures_count_what_was_accepted_and_what_was_in_time():
    found = figures(REQUESTS, LOAD, runs=160, answers=152)
    assert found["accepted"] == 151
    assert found["accepted_in_time_ratio"] == pytest.approx(147 / 151)
    assert found["wasted_work_ratio"] == 0.05
    assert found["useful_ratio_at_overload"] == pytest.approx(0.96)
    assert found["recovered_after_s"] == pytest.approx(0.5, abs=10)  # refused at 10 to 30 s
    assert found["refused_at_half_load"] == 0
    assert found["outcomes"]["left"] == 1


def test_goals_that_are_missed_are_named():
    found = figures(REQUESTS, LOAD, runs=160, answers=152)
    missed = verdict({"gateway": {**found, "metrics_after": {"gateway_requests_queued": 1.0}}})
    assert any("2 %" in words for words in missed)
    assert any("stays counted" in words for words in missed)
    assert not any("95 %" in words for words in missed)


def test_a_client_that_was_late_itself_is_said():
    assert doubt({"gateway": {"client_late_p99_s": 0.01}}, LOAD) == ""
    assert "too busy" in doubt({"gateway": {"client_late_p99_s": 0.5}}, LOAD)


def test_results_are_json_and_a_picture(tmp_path):
    way = {**figures(REQUESTS, LOAD, 10, 10), "over_time": over_time(REQUESTS)}
    json.dumps(way, allow_nan=False)
    assert figures([], LOAD, 0, 0)["p50_at_overload_s"] is None
    path = tmp_path / "overload.svg"
    draw({"gateway": way, "direct": way}, LOAD.phase_s, 0.5, 10.0, path)
    assert "through the gateway" in path.read_text()
