"""What h2load told, read; and what it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.h2load import (
    Request,
    WrongAnswers,
    check_length,
    command,
    data_bytes,
    latencies_of,
    seconds_of,
)

TOLD = """finished in 101.51ms, 985.14 req/s, 170.30KB/s
requests: 100 total, 100 started, 100 done, 100 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 100 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 17.29KB (17700) total, 3.22KB (3300) headers (space savings 0.00%), 10.74KB (11000) data
"""


def test_the_bytes_of_all_answers():
    assert data_bytes(TOLD) == 11000
    with pytest.raises(WrongAnswers, match="no traffic"):
        data_bytes("h2load: could not connect")


def test_latencies_are_micros_in_the_third_column():
    assert latencies_of("17001\t200\t350\n17002\t200\t1500\n", 2) == [0.00035, 0.0015]


@pytest.mark.parametrize(
    ("log", "words"),
    [("1\t503\t10\n1\t200\t10\n", "answered 503"), ("1\t200\t10\n", "1 answers to 2 requests")],
)
def test_an_error_is_no_figure(log, words):
    with pytest.raises(WrongAnswers, match=words):
        latencies_of(log, 2)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("finished in 101.51ms, 985.14 req/s", 0.10151),
        ("finished in 2.51s, 39.84 req/s", 2.51),
        ("finished in 730us, 1000 req/s", 0.00073),
    ],
)
def test_time_is_what_h2load_took_without_its_own_start(told, seconds):
    assert seconds_of(f"starting benchmark...\n{told}, 1KB/s\n") == pytest.approx(seconds)


def test_no_time_is_no_figure():
    with pytest.raises(WrongAnswers, match="no time"):
        seconds_of("h2load: could not connect")


def test_answers_have_the_length_that_they_must_have():
    exact = Request("/p", Path("b"), answer_bytes=100)
    check_length(exact, 100.0, 0.0)
    with pytest.raises(WrongAnswers, match=r"99\.9 bytes on average, not 100"):
        check_length(exact, 99.9, exact.answer_slack)
    check_length(exact, 104.0, 0.05)
    with pytest.raises(WrongAnswers):
        check_length(exact, 106.0, 0.05)
    check_length(Request("/p", Path("b")), 7.0, 0.0)  # its length is not known


def test_grpc_goes_over_http2_with_trailers():
    request = Request("/s/M", Path("body.grpc"), is_grpc=True, headers={"grpc-timeout": "5S"})
    line = command("h:1", request, 4, 2, requests=10)
    assert line[-1] == "http://h:1/s/M"
    assert "--h1" not in line
    assert line[line.index("-m") + 1] == "2"
    assert line[line.index("-n") + 1] == "10"
    headers = {line[i + 1] for i, part in enumerate(line) if part == "-H"}
    assert headers == {"content-type: application/grpc", "te: trailers", "grpc-timeout: 5S"}


def test_http_is_one_request_on_a_connection():
    request = Request("/p", Path("body.json"))
    line = command("h:1", request, 4, 2, seconds=1.5, log=Path("log"))
    assert "--h1" in line
    assert "-m" not in line
    assert "-n" not in line
    assert line[line.index("-D") + 1] == "1.5"
    assert line[line.index("--log-file") + 1] == "log"
    assert "content-type: application/json" in line
