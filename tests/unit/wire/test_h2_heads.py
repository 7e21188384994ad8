"""The rules of RFC 9113 section 8, as tables."""

import pytest

from gateway.wire.h2_heads import (
    HeadTooLarge,
    Malformed,
    check_size,
    request_head,
    response_head,
    trailers,
)

GOOD = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/p?q=%20"),
    (b":authority", b"h:1"),
]


def _with(*more):
    return [*GOOD, *more]


def test_a_request_is_read_whole():
    head = request_head(_with((b"content-length", b"12"), (b"expect", b"100-Continue")))
    assert (head.method, head.path, head.authority) == ("POST", "/p?q=%20", "h:1")
    assert head.fields == (("content-length", "12"), ("expect", "100-Continue"))
    assert (head.content_length, head.expects_continue, head.is_h2) == (12, True, True)


@pytest.mark.parametrize(
    "raw",
    [
        [],
        GOOD[1:],
        [GOOD[0], *GOOD[2:]],
        [*GOOD[:2], GOOD[3]],
        _with(GOOD[0]),
        _with((b"a", b"b"), (b":path", b"/")),
        [(b"a", b"b"), *GOOD],
        _with((b":status", b"200")),
        _with((b":unknown", b"1")),
        _with((b"A", b"b")),
        _with((b"", b"b")),
        _with((b"a b", b"b")),
        _with((b"a\xff", b"b")),
        _with((b"a:", b"b")),
        _with((b"a", b"b\r\nc: d")),
        _with((b"a", b"b\0")),
        _with((b"a", b" b")),
        _with((b"a", b"b\t")),
        _with((b"te", b"gzip")),
        _with((b"connection", b"close")),
        _with((b"transfer-encoding", b"chunked")),
        _with((b"upgrade", b"h2c")),
        _with((b"keep-alive", b"1")),
        _with((b"proxy-connection", b"1")),
        _with((b"content-length", b"-1")),
        _with((b"content-length", b"+1")),
        _with((b"content-length", b"1, 1")),
        _with((b"content-length", b"9" * 40)),
        _with((b"content-length", b"1"), (b"content-length", b"2")),
        _with((b"host", b"a"), (b"host", b"b")),
        [(b":method", b"CONNECT"), *GOOD[1:]],
        [(b":method", b"GE T"), *GOOD[1:]],
        [*GOOD[:2], (b":path", b"")],
        [*GOOD[:2], (b":path", b"a")],
        [*GOOD[:2], (b":path", b"/a b")],
        [*GOOD[:2], (b":path", b"/a\r\nx")],
        [*GOOD[:2], (b":path", b"*")],
        [*GOOD[:3], (b":authority", b"u@h")],
        [*GOOD[:3], (b":authority", b"h h")],
    ],
    ids=repr,
)
def test_what_is_no_request_is_refused(raw):
    with pytest.raises(Malformed):
        request_head(raw)


def test_te_trailers_and_options_of_all_are_let_through():
    assert request_head(_with((b"te", b"trailers"))).get("te") == "trailers"
    options = [(b":method", b"OPTIONS"), (b":scheme", b"http"), (b":path", b"*")]
    assert request_head(options).path == "*"


def test_host_stands_in_for_the_authority_and_is_no_field():
    head = request_head([*GOOD[:3], (b"host", b"other")])
    assert (head.authority, head.fields) == ("other", ())
    assert request_head(_with((b"host", b"other"))).authority == "h:1"


def test_crumbs_of_a_cookie_are_put_together():
    head = request_head(_with((b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")))
    assert head.fields == (("x", "y"), ("cookie", "a=1; b=2"))


def test_every_byte_of_a_value_survives():
    value = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))
    assert request_head(_with((b"a", value))).get("a").encode("latin-1") == value


def test_an_answer_is_read():
    head = response_head([(b":status", b"404"), (b"content-length", b"3")])
    assert (head.status, head.content_length) == (404, 3)


@pytest.mark.parametrize(
    "raw",
    [
        [],
        [(b"a", b"b")],
        [(b":status", b"20")],
        [(b":status", b"abc")],
        [(b":status", b"600")],
        [(b":status", b"101")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
    ],
    ids=repr,
)
def test_what_is_no_answer_is_refused(raw):
    with pytest.raises(Malformed):
        response_head(raw)


def test_trailers_have_no_pseudo_fields():
    assert trailers([(b"grpc-status", b"0")]) == (("grpc-status", "0"),)
    with pytest.raises(Malformed):
        trailers([(b":status", b"200")])


def test_lists_are_bounded_in_bytes_and_in_number():
    check_size([(b"a", b"b")] * 10, 340, 10)
    with pytest.raises(HeadTooLarge):
        check_size([(b"a", b"b")] * 10, 339, 10)
    with pytest.raises(HeadTooLarge):
        check_size([(b"a", b"b")] * 11, 10_000, 10)
