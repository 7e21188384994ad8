from __future__ import annotations

import io
import json
import logging

import pytest

from gateway.telemetry import configure_logging, log


@pytest.fixture
def written():
    """The stream that events go to; the logging of the test run is put back."""
    root, own = logging.getLogger(), logging.getLogger("gateway")
    before = root.handlers[:], root.level, own.level
    stream = io.StringIO()
    yield stream
    root.handlers[:], level, own_level = before
    root.setLevel(level)
    own.setLevel(own_level)


def test_text_is_one_line_with_fields_quoted_where_needed(written):
    configure_logging("text", stream=written)
    log.event("replica.ejected", model="m", cause="a b\nc", empty="")
    line = written.getvalue()
    assert line.count("\n") == 1
    assert line.endswith(' info replica.ejected model=m cause="a b\\nc" empty=""\n')


def test_json_is_one_object_whose_own_keys_fields_cannot_replace(written):
    configure_logging("json", stream=written)
    log.warning("replica.ejected", model="m", count=3, event="forged")
    said = json.loads(written.getvalue())
    assert (said["event"], said["level"], said["model"], said["count"]) == (
        "replica.ejected",
        "warning",
        "m",
        3,
    )


def test_a_bug_brings_its_traceback(written):
    configure_logging("json", stream=written)
    log.bug("request.bug", ValueError("boom"))
    assert "ValueError: boom" in json.loads(written.getvalue())["traceback"]


def test_events_below_the_level_are_not_written_and_long_fields_are_cut(written):
    configure_logging("text", logging.WARNING, written)
    log.event("quiet.event")
    assert not written.getvalue()
    log.warning("long.event", text="x" * 10_000)
    assert len(written.getvalue()) < 2500
