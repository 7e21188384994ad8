"""gRPC's header fields: timeouts, percent-encoded messages, codes."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import grpc_text
from gateway.wire.fields import Fields
from gateway.wire.grpc_text import (
    Code,
    code_name,
    code_of_http,
    decode_message,
    encode_message,
    format_timeout,
    parse_timeout,
    status_fields,
    timeout_fields,
)


def test_codes_are_grpcs_own():
    assert {c.name: int(c) for c in Code} == {c.name: c.value[0] for c in grpc.StatusCode}


@pytest.mark.parametrize(
    ("code", "name"), [(0, "OK"), (5, "NOT_FOUND"), (16, "UNAUTHENTICATED"), (17, "UNKNOWN")]
)
def test_code_name(code, name):
    assert code_name(code) == name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1H", 3600), ("2M", 120), ("29S", 29), ("250m", 0.25), ("100u", 1e-4), ("5n", 5e-9),
        ("0S", 0), ("99999999H", 99_999_999 * 3600), ("00000001S", 1),
    ],
)  # fmt: skip
def test_timeouts(text, seconds):
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "", "S", "1", "1s", "1h", "-1S", "+1S", "1.5S", "123456789S", " 1S", "1S ", "1SS", "1 S",
        "٣S", "0x1S", "1S\n", "9" * 10_000 + "S",
    ],
)  # fmt: skip
def test_malformed_timeouts(text):
    with pytest.raises(ValueError, match="malformed grpc-timeout") as raised:
        parse_timeout(text)
    assert len(str(raised.value)) < 80


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (30, "30000m"), (29.9999, "30000m"), (29.94, "30000m"), (29.8, "29800m"), (1, "1000m"),
        (0.2501, "251m"), (0.0005, "500u"), (1e-9, "1n"), (0, "0n"), (-1, "0n"), (3600, "3600S"),
        (1e9, "278000H"), (1e30, "99999999H"),
    ],
)  # fmt: skip
def test_formatted_timeouts(seconds, text):
    assert format_timeout(seconds) == text
    assert timeout_fields(seconds).pairs == (("grpc-timeout", text),)


@given(st.floats(min_value=1e-7, max_value=1e11))
def test_a_formatted_timeout_is_never_shorter_and_at_most_one_percent_longer(seconds):
    again = parse_timeout(format_timeout(seconds))
    assert again >= seconds * (1 - 1e-12)
    assert again <= seconds * 1.0101


@given(st.floats(min_value=0.05, max_value=2000))
def test_the_short_way_says_the_same(seconds):
    [(_, text)] = timeout_fields(seconds).pairs
    assert parse_timeout(text) == parse_timeout(format_timeout(seconds))
    assert text == format_timeout(seconds) or text.rstrip("m") == "1000000"


def test_timeouts_repeat():
    assert timeout_fields(29.99) is timeout_fields(29.98)
    made = {format_timeout(30 - late / 1e6) for late in range(0, 90_000, 13)}
    assert len(made) <= 2


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("plain words, nothing else ~", "plain words, nothing else ~"),
        ("100%", "100%25"),
        ("a\nb\r", "a%0Ab%0D"),
        ("nö €", "n%C3%B6 %E2%82%AC"),
        ("\x00\x7f", "%00%7F"),
        ("", ""),
        (" ", "%20"),
        ("  no versions of model  ", "%20 no versions of model %20"),
    ],
)
def test_messages(text, encoded):
    assert encode_message(text) == encoded
    assert decode_message(encoded) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_messages_come_back_and_fit_a_header(text):
    encoded = encode_message(text)
    assert encoded.isascii()
    assert all(" " <= c <= "~" for c in encoded)
    assert encoded == encoded.strip()
    assert decode_message(encoded) == text


@given(st.text(st.characters(max_codepoint=255)))
def test_whatever_comes_as_a_message_is_read(text):
    assert isinstance(decode_message(text), str)


def test_a_lone_surrogate_is_replaced():
    assert encode_message("\ud800") == "?"


@given(st.integers(0, 16), st.text(), st.lists(st.tuples(st.just("x-a"), st.just("b"))))
def test_status_fields_can_be_written(code, message, trailers):
    fields = status_fields(code, message, tuple(trailers))
    assert isinstance(fields, Fields)
    assert fields.h2
    assert fields.pairs[0] == ("grpc-status", str(code))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INTERNAL), (401, Code.UNAUTHENTICATED), (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED), (429, Code.UNAVAILABLE), (502, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE), (504, Code.UNAVAILABLE), (200, Code.UNKNOWN), (500, Code.UNKNOWN),
    ],
)  # fmt: skip
def test_codes_of_http(status, code):
    assert code_of_http(status) is code


def test_ok_is_one_field():
    assert grpc_text.OK_TRAILERS.pairs == (("grpc-status", "0"),)
