"""What an HTTP/1.1 head may be, and what it is taken for."""

from __future__ import annotations

import pytest

from gateway.wire.h1_heads import BadHead, Memo, parse_request, parse_response

HOST = b"Host: a\r\n"


def _request(line: bytes = b"POST /v1/models/m:predict HTTP/1.1", fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def test_a_head_is_read_with_lower_case_names_and_without_its_host() -> None:
    parsed = parse_request(
        _request(fields=b"Host: h:1\r\nX-A: 1 \r\nCONTENT-LENGTH: 12\r\nX-A: 2\r\n"), 10
    )
    assert parsed.head.method == "POST"
    assert parsed.head.path == "/v1/models/m:predict"
    assert parsed.head.authority == "h:1"
    assert parsed.head.fields == (("x-a", "1"), ("content-length", "12"), ("x-a", "2"))
    assert parsed.head.content_length == parsed.length == 12
    assert parsed.keep_alive
    assert not parsed.is_chunked


@pytest.mark.parametrize(
    ("fields", "keeps"),
    [
        (HOST, True),
        (HOST + b"Connection: close\r\n", False),
        (HOST + b"Connection: x, Close\r\n", False),
        (HOST + b"Connection: keep-alive\r\n", True),
    ],
)
def test_who_keeps_a_connection_alive(fields: bytes, keeps: bool) -> None:
    assert parse_request(_request(fields=fields), 10).keep_alive is keeps


def test_http_1_0_closes_unless_it_says_otherwise() -> None:
    old = b"GET / HTTP/1.0"
    assert not parse_request(_request(old, b""), 10).keep_alive
    assert parse_request(_request(old, b"Connection: keep-alive\r\n"), 10).keep_alive


@pytest.mark.parametrize(
    ("target", "path", "authority"),
    [
        (b"/a?b=%20", "/a?b=%20", "a"),
        (b"http://b:1/c?d", "/c?d", "b:1"),
        (b"HTTP://b", "/", "b"),
        (b"http://b?d", "/?d", "b"),
    ],
)
def test_targets_become_paths(target: bytes, path: str, authority: str) -> None:
    head = parse_request(_request(b"GET " + target + b" HTTP/1.1"), 10).head
    assert (head.path, head.authority) == (path, authority)


SMUGGLED = {
    "both framings": HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    "both framings, reversed": HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    "two lengths": HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n",
    "the same length twice": HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n",
    "a list of lengths": HOST + b"Content-Length: 3, 3\r\n",
    "a signed length": HOST + b"Content-Length: +3\r\n",
    "a negative length": HOST + b"Content-Length: -3\r\n",
    "a hexadecimal length": HOST + b"Content-Length: 0x3\r\n",
    "an empty length": HOST + b"Content-Length: \r\n",
    "a huge length": HOST + b"Content-Length: 99999999999999999999\r\n",
    "a coding before chunked": HOST + b"Transfer-Encoding: gzip, chunked\r\n",
    "a coding after chunked": HOST + b"Transfer-Encoding: chunked, identity\r\n",
    "chunked twice": HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "nearly chunked": HOST + b"Transfer-Encoding: xchunked\r\n",
    "chunked with a tab": HOST + b"Transfer-Encoding: \x0bchunked\r\n",
    "a blank before the colon": HOST + b"Transfer-Encoding : chunked\r\n",
    "a folded line": HOST + b"X: a\r\n b\r\n",
    "a folded first line": b" Host: a\r\n",
    "a bare LF": HOST + b"X: a\nTransfer-Encoding: chunked\r\n",
    "a bare CR": HOST + b"X: a\rTransfer-Encoding: chunked\r\n",
    "a NUL": HOST + b"X: a\0b\r\n",
    "no host": b"",
    "two hosts": HOST + HOST,
    "a host with a path": b"Host: a/b\r\n",
    "a host with a user": b"Host: u@a\r\n",
    "no name": HOST + b": a\r\n",
    "no colon": HOST + b"abc\r\n",
}


@pytest.mark.parametrize("fields", SMUGGLED.values(), ids=SMUGGLED.keys())
def test_what_could_be_read_in_two_ways_is_refused(fields: bytes) -> None:
    with pytest.raises(BadHead) as refused:
        parse_request(_request(fields=fields), 10)
    assert refused.value.status in (400, 501)


@pytest.mark.parametrize(
    "line",
    [
        b"GET  / HTTP/1.1", b"GET /a b HTTP/1.1", b"GET / HTTP/1.1 ", b"GET /#x HTTP/1.1",
        b"GET a HTTP/1.1", b"GET ftp://a/ HTTP/1.1", b"GET a:80 HTTP/1.1", b"G@T / HTTP/1.1",
        b"GET / HTTP/2.0", b"GET / HTTP/1.10", b"GET /", b"GET / http/1.1", b"GET * HTTP/1.1",
        b"CONNECT a:80 HTTP/1.1", b"PRI * HTTP/2.0", b"GET http:/// HTTP/1.1",
        b"GET http://u@a/ HTTP/1.1", b"GET /\x01 HTTP/1.1", b"GET /\x7f HTTP/1.1",
    ],
)  # fmt: skip
def test_a_wrong_request_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadHead):
        parse_request(_request(line), 10)


def test_chunked_is_no_part_of_http_1_0() -> None:
    with pytest.raises(BadHead):
        parse_request(_request(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked\r\n"), 10)


def test_too_many_fields_are_refused_as_such() -> None:
    with pytest.raises(BadHead) as refused:
        parse_request(_request(fields=HOST + b"A: b\r\n" * 10), 10)
    assert refused.value.status == 431
    assert refused.value.cause == "head_too_large"


def test_an_expectation_that_nobody_knows_is_refused() -> None:
    with pytest.raises(BadHead) as refused:
        parse_request(_request(fields=HOST + b"Expect: 200-ok\r\n"), 10)
    assert refused.value.status == 417


def test_an_upgrade_is_ignored() -> None:
    fields = HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    assert parse_request(_request(b"GET / HTTP/1.1", fields), 10).head.path == "/"


@pytest.mark.parametrize(
    ("raw", "status", "length", "chunked", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, 5, False, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, -1, True, True),
        (b"HTTP/1.1 200 OK\r\n\r\n", 200, -1, False, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, -1, False, True),
        (b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, 0, False, False),
        (b"HTTP/1.1 503\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 503, 0, False, False),
    ],
)
def test_answers(raw: bytes, status: int, length: int, chunked: bool, keeps: bool) -> None:
    parsed = parse_response(raw, 10)
    assert parsed.head.status == status
    assert (parsed.length, parsed.is_chunked, parsed.keep_alive) == (length, chunked, keeps)


@pytest.mark.parametrize(
    "raw",
    [b"hello\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
)
def test_what_is_no_answer(raw: bytes) -> None:
    with pytest.raises(BadHead):
        parse_response(raw, 10)


def test_the_memo_is_bounded_in_number_and_size() -> None:
    memo = Memo(limit=2)
    memo.put(b"x" * 5000, 1)
    assert memo.get(b"x" * 5000) is None
    for name in (b"a", b"b", b"c"):
        memo.put(name, name)
    assert memo.get(b"c") == b"c"
    assert memo.get(b"a") is None
