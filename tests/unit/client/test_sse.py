"""The event stream parser: bytes in any portions, the same events out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.sse import MAX_EVENT_BYTES, EventStreamParser, ServerSentEvent
from gateway.domain.errors import UpstreamFailed


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [ServerSentEvent("a")]),
        (b"data:a\n\n", [ServerSentEvent("a")]),
        (b"data:  a\n\n", [ServerSentEvent(" a")]),
        (
            b"id: 7\nevent: version.ready\ndata: {}\n\n",
            [ServerSentEvent("{}", "version.ready", "7")],
        ),
        (b"data: a\ndata: b\n\n", [ServerSentEvent("a\nb")]),
        (b": keep-alive\n\n", []),
        (b"event: x\n\n", []),
        (b"data: a\r\n\r\ndata: b\r\r", [ServerSentEvent("a"), ServerSentEvent("b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [ServerSentEvent("a")]),
        (
            b"id: 1\ndata: a\n\ndata: b\n\n",
            [ServerSentEvent("a", id="1"), ServerSentEvent("b", id="1")],
        ),
        (b"id: 1\0\ndata: a\n\n", [ServerSentEvent("a")]),
        (b"data: unfinished\n", []),
        (b"unknown: x\ndata\n\n", [ServerSentEvent("")]),
    ],
)
def test_a_stream_means_these_events(stream: bytes, events: list[ServerSentEvent]) -> None:
    assert EventStreamParser().feed(stream) == events


@given(st.lists(st.integers(0, 60), max_size=8))
def test_portions_do_not_matter(cuts: list[int]) -> None:
    stream = "id: 1\r\ndata: é\r\n\r\n: c\ndata: b\rdata: c\r\revent: x\ndata: d\n\n".encode()
    whole = EventStreamParser().feed(stream)
    parser, found, last = EventStreamParser(), [], 0
    for cut in [*sorted(cuts), len(stream)]:
        found += parser.feed(stream[last:cut])
        last = max(last, cut)
    assert found == whole
    assert len(whole) == 3


def test_an_endless_event_is_refused() -> None:
    parser = EventStreamParser()
    line = b"data: " + b"x" * 65536 + b"\n"
    for _ in range(MAX_EVENT_BYTES // len(line)):
        assert parser.feed(line) == []
    with pytest.raises(UpstreamFailed, match="more than"):
        parser.feed(line)


def test_keep_alives_never_add_up() -> None:
    parser = EventStreamParser()
    for _ in range(200):
        assert parser.feed(b":" + b"x" * 10_000 + b"\n") == []
