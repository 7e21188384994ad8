from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from typing import Any

import pytest

from gateway.cli.rates import quantile, rates
from gateway.cli.top import cells

BOUNDS = [0.01, 0.1, 1.0]


def version(number: int | None, requests: int, errors: int = 0, counts=(0, 0, 0, 0)) -> dict:
    return {
        "version": number, "requests": requests, "errors": errors, "latency_counts": list(counts),
    }  # fmt: skip


def look(at_s: float, *versions: dict, shed: int = 0, model: str = "m") -> dict[str, Any]:
    item = {
        "model": model, "in_flight": 3, "queued": 1, "limit": 8, "shed": shed,
        "versions": list(versions),
    }  # fmt: skip
    return {"at_s": at_s, "bounds_s": BOUNDS, "items": [item]}


def test_rates_are_what_lies_between_two_looks():
    before = look(10.0, version(1, 100, 1, (50, 50, 0, 0)), shed=4)
    after = look(12.0, version(1, 300, 5, (50, 250, 0, 0)), shed=10)
    (row,) = rates(before, after)
    assert row == {
        "model": "m", "version": 1, "requests_per_s": 100.0, "errors_per_s": 2.0,
        "p50_s": pytest.approx(0.055), "p99_s": pytest.approx(0.0991),
        "shed_per_s": 3.0, "in_flight": 3, "queued": 1, "limit": 8, "replicas": 0,
        "trusted_replicas": 0,
    }  # fmt: skip


def test_a_version_that_is_new_counts_from_nothing():
    before = look(0.0, version(1, 100, counts=(100, 0, 0, 0)))
    after = look(1.0, version(2, 5, counts=(5, 0, 0, 0)), version(1, 100, counts=(100, 0, 0, 0)))
    old, new = rates(before, after)
    assert (old["version"], old["requests_per_s"], old["p50_s"]) == (1, 0.0, None)
    assert (new["version"], new["requests_per_s"]) == (2, 5.0)


def test_a_gateway_that_was_started_anew_counts_from_nothing():
    (row,) = rates(look(500.0, version(1, 9000)), look(2.0, version(1, 4)))
    assert row["requests_per_s"] == 2.0
    (row,) = rates(look(1.0, version(1, 9000)), look(2.0, version(1, 4)))
    assert row["requests_per_s"] == 4.0


def test_requests_without_a_version_have_a_row_while_there_are_some():
    known = version(1, 10, counts=(10, 0, 0, 0))
    before = look(0.0, known, version(None, 5, counts=(5, 0, 0, 0)))
    assert len(rates(before, before | {"at_s": 1.0})) == 1
    after = look(1.0, known, version(None, 7, counts=(7, 0, 0, 0)))
    assert [r["version"] for r in rates(before, after)] == [1, None]


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        ((0, 0, 0, 0), 0.5, None),
        ((10, 0, 0, 0), 0.5, 0.005),
        ((0, 10, 0, 0), 1.0, 0.1),
        ((5, 5, 0, 0), 0.5, 0.01),
        ((0, 0, 0, 4), 0.99, 1.0),
    ],
)
def test_quantiles(counts, share, seconds):
    assert quantile(counts, BOUNDS, share) == pytest.approx(seconds)


def test_what_is_of_the_model_stands_once():
    rows = rates(look(0.0), look(1.0, version(1, 3), version(2, 40)))
    assert cells(rows) == [
        ("m", 1, "3.0", "0", "0", "", "", 3, 1, 8, "0"),
        (" ", 2, "40", "0", " ", "", "", " ", " ", " ", " "),
    ]


def test_replicas_count_that_are_ready_and_trusted():
    def one(state: str, model: str = "m", **more: str) -> dict[str, Any]:
        return {"model": model, "state": state, **more}

    after = look(1.0, version(1, 3))
    for replicas, shown in (
        ([one("ready", standing="good"), one("ready")], "2"),
        ([one("ready", standing="good"), one("ready", standing="ejected")], "1/2"),
        ([one("ready", standing="suspect"), one("loading", standing="good")], "0/2"),
        ([one("ready", standing="good"), one("ready", model="other", standing="ejected")], "1"),
    ):
        assert cells(rates(look(0.0), after, replicas))[0][-1] == shown


def test_json_is_one_look(api, gateway):
    api.traffic = look(1.0, version(1, 3))
    ran = gateway("top", "-n", "0.2", "-o", "json")
    assert ran.code == 0
    (row,) = json.loads(ran.out)
    assert (row["model"], row["version"], row["limit"]) == ("m", 1, 8)


def test_a_table_without_a_terminal_is_one_look(api, gateway):
    api.traffic = look(1.0, version(1, 3))
    ran = gateway("top", "-n", "0.2")
    assert ran.code == 0
    head, row = ran.out.splitlines()
    assert head.split() == [
        "MODEL", "VER", "REQ/S", "ERR/S", "SHED/S", "P50", "P99", "FLIGHT", "QUEUE", "LIMIT",
        "REPL",
    ]  # fmt: skip
    assert row.split() == ["m", "1", "0", "0", "0", "-", "-", "3", "1", "8", "0"]


def test_nobody_has_asked(api, gateway):
    api.traffic = {"at_s": 1.0, "bounds_s": BOUNDS, "items": []}
    ran = gateway("top", "-n", "0.2")
    assert (ran.code, ran.out) == (0, "")
    assert "Nobody has asked" in ran.err


def test_an_unknown_model_is_an_error(api, gateway):
    assert gateway("top", "nowhere", "-n", "0.2").code == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_on_a_terminal_it_is_drawn_anew_until_ctrl_c(api):
    import pty

    api.traffic = look(1.0, version(1, 3))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "top", "-n", "0.2"],
        env={**os.environ, "GATEWAY_URL": api.url, "TERM": "xterm", "COLUMNS": "90"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = read(ours, lambda text: text.count("LIMIT") >= 3)
    process.send_signal(signal.SIGINT)
    shown += read(ours, lambda _: process.poll() is not None)
    os.close(ours)
    assert process.wait(10) == 0
    assert shown.count("MODEL") >= 3
    assert "Traceback" not in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is there again


def read(fd: int, is_enough) -> str:
    shown = b""
    for _ in range(100):
        if is_enough(shown.decode()):
            break
        if select.select([fd], [], [], 0.2)[0]:
            try:
                shown += os.read(fd, 65536)
            except OSError:  # Linux' way to say that the other side is closed
                break
    return shown.decode()
