"""Messages out of the bytes of a call, in whatever pieces they come."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.grpc_messages import GrpcAbort, Messages, frame, prefix, whole_message
from gateway.wire.grpc_text import Code

MIB = 1 << 20


def compressed(message: bytes) -> bytes:
    return b"\1" + len(message).to_bytes(4, "big") + message


def feed(messages: Messages, raw: bytes, cuts: list[int]) -> list[bytes]:
    found = []
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    for start, end in pairwise(edges):
        found += messages.feed(memoryview(raw)[start:end])
    return found


@given(st.lists(st.binary(max_size=100)), st.lists(st.integers(0, 10_000)))
def test_messages_come_out_as_they_went_in_however_they_are_cut(sent, cuts):
    messages = Messages(100)
    assert feed(messages, b"".join(map(frame, sent)), cuts) == sent
    assert not messages.is_partial


@given(st.lists(st.binary(max_size=100)), st.lists(st.integers(0, 10_000)), st.booleans())
def test_compressed_and_plain_messages_may_mix(sent, cuts, is_gzip):
    press = gzip.compress if is_gzip else zlib.compress
    raw = b"".join(frame(m) if i % 3 else compressed(press(m)) for i, m in enumerate(sent))
    messages = Messages(1000, "gzip" if is_gzip else "deflate")
    assert feed(messages, raw, cuts) == sent


@given(st.binary(), st.lists(st.integers(0, 10_000)))
def test_anything_is_read_or_refused(raw, cuts):
    messages = Messages(64, "gzip")
    with suppress(GrpcAbort):
        assert all(len(m) <= 64 for m in feed(messages, raw, cuts))


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_truncated_message_is_seen(message, data):
    raw = frame(message)
    messages = Messages(100)
    assert messages.feed(raw[: data.draw(st.integers(1, len(raw) - 1))]) == []
    assert messages.is_partial


PACKED = gzip.compress(b"x", mtime=0)
CUT = gzip.compress(b"x" * 50, mtime=0)[:-1]


@pytest.mark.parametrize(
    ("raw", "encoding", "code", "words"),
    [
        (b"\2\0\0\0\1x", "identity", Code.INTERNAL, "flags 0x02"),
        (b"\xff\0\0\0\1x", "gzip", Code.INTERNAL, "flags 0xff"),
        (b"\1\0\0\0\1x", "identity", Code.INTERNAL, "Compressed-Flag is set"),
        (b"\0\0\0\0\x65", "identity", Code.RESOURCE_EXHAUSTED,
         "Received message larger than max (101 vs. 100)"),
        (b"\0\xff\xff\xff\xff", "identity", Code.RESOURCE_EXHAUSTED, "(4294967295 vs. 100)"),
        (compressed(b"no gzip"), "gzip", Code.INTERNAL, "Decompression failed"),
        (compressed(b""), "gzip", Code.INTERNAL, "Decompression failed"),
        (compressed(CUT), "gzip", Code.INTERNAL, "too early or late"),
        (compressed(PACKED + b"y"), "gzip", Code.INTERNAL, "too early or late"),
        (compressed(PACKED), "deflate", Code.INTERNAL, "Decompression failed"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(raw, encoding, code, words):
    with pytest.raises(GrpcAbort) as raised:
        Messages(100, encoding).feed(raw)
    assert raised.value.code == code
    assert words in raised.value.details


@pytest.mark.parametrize("encoding", ["snappy", "br", "", "GZIP"])
def test_other_compressions_are_not_offered(encoding):
    with pytest.raises(GrpcAbort, match="is not supported") as raised:
        Messages(100, encoding)
    assert raised.value.code == Code.UNIMPLEMENTED


def test_a_bomb_is_not_blown_up():
    bomb = compressed(gzip.compress(bytes(200 * MIB), 9, mtime=0))
    messages = Messages(MIB, "gzip")
    tracemalloc.start()
    try:
        with pytest.raises(GrpcAbort, match="larger than max"):
            messages.feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_the_bound_is_for_the_message_as_it_is():
    message = bytes(1000)
    raw = compressed(gzip.compress(message, mtime=0))
    assert Messages(1000, "gzip").feed(raw) == [message]
    with pytest.raises(GrpcAbort, match="larger than max"):
        Messages(999, "gzip").feed(raw)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_whole_message_is_taken_at_once(kind):
    assert whole_message(kind(frame(b"abc")), 3) == b"abc"


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0\0\0", b"\0\0\0\0\2x", b"\0\0\0\0\1xy", b"\1\0\0\0\1x", frame(b"abcd")],
)
def test_anything_else_has_to_be_looked_at_closer(body):
    assert whole_message(body, 3) is None


def test_the_empty_message():
    assert whole_message(frame(b""), 0) == b""
    assert Messages(0).feed(prefix(0)) == [b""]
