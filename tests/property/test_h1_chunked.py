"""Chunked bodies mean the same however they are cut into pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.h1_chunked import BadChunk, ChunkedDecoder

chunks = st.lists(st.binary(min_size=1, max_size=300), max_size=8)


def _encoded(parts: list[bytes], trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n" + trailer + b"\r\n"


def _fed(data: bytes, cuts: list[int]) -> tuple[bytes, bytes, ChunkedDecoder]:
    decoder, body, rest = ChunkedDecoder(), b"", b""
    edges = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    for start, end in pairwise(edges):
        if decoder.is_done:
            rest += data[start:end]
            continue
        pieces, after = decoder.feed(data[start:end])
        body += b"".join(pieces)
        rest += after
    return body, rest, decoder


@given(chunks, st.lists(st.integers(0, 10_000), max_size=12), st.binary(max_size=20))
def test_any_cutting_gives_the_body_and_leaves_what_follows(
    parts: list[bytes], cuts: list[int], after: bytes
) -> None:
    body, rest, decoder = _fed(_encoded(parts, b"X-T: v\r\n") + after, cuts)
    assert body == b"".join(parts)
    assert rest == after
    assert decoder.is_done
    assert decoder.trailers == (("x-t", "v"),)


@given(st.binary(max_size=64), st.lists(st.integers(0, 64), max_size=6))
def test_whatever_comes_is_decoded_or_refused(data: bytes, cuts: list[int]) -> None:
    try:
        body, rest, _ = _fed(data, cuts)
    except BadChunk:
        return
    assert len(body) + len(rest) <= len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"3\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n", b"+3\r\nabc\r\n", b"-3\r\nabc\r\n", b" 3\r\nabc",
        b"3 3\r\nabc\r\n", b"\r\nabc", b"fffffffff\r\n", b"3\r\nabcd\r\n", b"3\r\nabc\n0\r\n\r\n",
        b"0\r\nbad trailer\r\n\r\n", b"0\r\nA : b\r\n\r\n", b"0\r\n folded: b\r\n\r\n",
        b"3;" + b"x" * 300 + b"\r\nabc\r\n", b"3\rabc",
        b"0\r\n" + b"A: " + b"b" * 9000 + b"\r\n\r\n", b"0\r\n" + b"a:\r\n" * 300 + b"\r\n",
    ],
)  # fmt: skip
def test_what_another_party_might_read_otherwise_is_refused(data: bytes) -> None:
    with pytest.raises(BadChunk):
        _fed(data, [])
