"""When waiting for a deployment ends, and what it says meanwhile."""

from __future__ import annotations

import pytest

from gateway.cli.example import example_body
from gateway.cli.waiting import Look, PlainDisplay, describe, judge
from tests.parts.fake_control_api import model, replica, version


def look(versions: list | None = None, **more: object) -> Look:
    return Look(model(**more), versions if versions is not None else [version()], [replica()])


def fetching(done: int | None, total: int) -> dict:
    return version(state="fetching", phase="fetching", fetched_bytes=done, total_bytes=total)


def test_ready_at_the_generation_asked_for_ends_the_wait() -> None:
    assert judge(look(generation=2), 2).good
    assert judge(look(generation=2, state="idle"), 2).good
    assert judge(look(generation=1), 2) is None


@pytest.mark.parametrize("state", ["pending", "deploying", "degraded"])
def test_on_its_way_is_no_end(state: str) -> None:
    assert judge(look(state=state), 1) is None


def test_failed_says_why_and_what_to_do() -> None:
    verdict = judge(look(state="failed", reason="version 3: model.onnx is corrupt"), 1)
    assert not verdict.good
    assert "resnet cannot answer: version 3: model.onnx is corrupt. Look closer" in verdict.words
    assert "gateway describe model resnet" in verdict.words


def test_a_new_version_kept_out_is_a_failure_although_the_old_one_answers() -> None:
    bad = version(4, state="failed", reason="warm-up: shape", live=False)
    verdict = judge(look([bad, version(3)], state="degraded", reason="x"), 1)
    assert not verdict.good
    assert (
        "Version 4 of resnet is kept out: warm-up: shape. Version 3 still answers." in verdict.words
    )


def test_an_old_version_that_fails_is_not_this_deployments_business() -> None:
    bad = version(2, state="failed", reason="x", live=False)
    assert judge(look([version(3), bad], state="degraded"), 1) is None


@pytest.mark.parametrize(
    ("versions", "more", "text"),
    [
        (
            [fetching(312_000_000, 480_000_000)],
            {"state": "deploying", "ready_replicas": 0, "replicas": 3},
            "fetching 312/480 MB · ready 0/3",
        ),
        (
            [fetching(None, 3_200_000)],
            {"state": "deploying", "ready_replicas": 0},
            "fetching 0.0/3.2 MB · ready 0/2",
        ),
        (
            [version(state="loading", phase="warming")],
            {"state": "deploying", "ready_replicas": 1},
            "warming · ready 1/2",
        ),
        (
            [],
            {"state": "deploying", "ready_replicas": 0, "reason": "waiting for a version"},
            "waiting for a version · ready 0/2",
        ),
        ([], {"state": "pending", "ready_replicas": 0, "reason": None}, "pending · ready 0/2"),
        (
            [version()],
            {"state": "degraded", "reason": "replica x: gone"},
            "degraded: replica x: gone · ready 2/2",
        ),
        ([version()], {"state": "ready"}, "ready 2/2"),
    ],
)  # fmt: skip
def test_progress_reads(versions: list, more: dict, text: str) -> None:
    assert describe(look(versions, **more)) == text


def metadata(**inputs: tuple) -> dict:
    shown = {
        name: {
            "dtype": dtype,
            "tensor_shape": {"dim": [{"size": str(d)} for d in shape], "unknown_rank": False},
        }
        for name, (dtype, *shape) in inputs.items()
    }
    signature = {"inputs": shown, "outputs": {}, "method_name": "x"}
    return {"metadata": {"signature_def": {"signature_def": {"serving_default": signature}}}}


@pytest.mark.parametrize(
    ("told", "body"),
    [
        (metadata(x=("DT_FLOAT", -1, 2)), '{"inputs": [[0.0, 0.0]]}'),
        (metadata(x=("DT_INT32", -1)), '{"inputs": [0]}'),
        (metadata(x=("DT_STRING",)), '{"inputs": "text"}'),
        (metadata(a=("DT_BOOL", 1), b=("DT_UINT8", 1)), '{"inputs": {"a": [false], "b": [0]}}'),
        (metadata(x=("DT_FLOAT", -1, 224, 224, 3)), None),
        (metadata(x=("DT_COMPLEX64", 1)), None),
        ({}, None),
        ({"metadata": []}, None),
    ],
)
def test_an_example_fits_the_signature_or_there_is_none(told: dict, body: str | None) -> None:
    assert example_body(told) == body


def test_a_terminal_gets_one_line_that_is_drawn_anew(monkeypatch, capsys) -> None:
    from gateway.cli.waiting import LiveDisplay

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    display = LiveDisplay("resnet")
    try:
        display.show(look([fetching(1, 480_000_000)], state="deploying", ready_replicas=0))
        display.show(look())
    finally:
        display.close()
    assert capsys.readouterr().out == ""


def test_without_a_terminal_only_changes_are_said(capsys) -> None:
    display = PlainDisplay("resnet")
    for megabytes in (1, 2, 40, 60, 61, 100):
        now = [fetching(megabytes * 10**6, 100_000_000)]
        display.show(look(now, state="deploying", ready_replicas=0))
    display.show(look())
    display.show(look())
    assert capsys.readouterr().err.splitlines() == [
        "resnet: fetching 1/100 MB · ready 0/2",
        "resnet: fetching 40/100 MB · ready 0/2",
        "resnet: fetching 60/100 MB · ready 0/2",
        "resnet: fetching 100/100 MB · ready 0/2",
        "resnet: ready 2/2",
    ]


def test_what_a_replica_waits_for_is_shown() -> None:
    pending = replica(state="starting", reason="0/2 nodes are available: 2 Insufficient gpu.")
    seen = Look(
        model(state="deploying", ready_replicas=2, replicas=3), [version()], [replica(), pending]
    )
    assert describe(seen).endswith("ready 2/3 · 0/2 nodes are available: 2 Insufficient gpu.")
