"""gRPC's words in header fields: status codes, timeouts, percent-encoded messages.

After "gRPC over HTTP2" (github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import re
from enum import IntEnum
from math import ceil
from urllib.parse import unquote_to_bytes

from gateway.wire.fields import Fields, Pairs


class Code(IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_NAMES = tuple(code.name for code in Code)


def code_name(code: int) -> str:
    """`NOT_FOUND` for 5; `UNKNOWN` for numbers that gRPC does not have."""
    return _NAMES[code] if 0 <= code < len(_NAMES) else Code.UNKNOWN.name


CONTENT_TYPE = "application/grpc"
OK_TRAILERS = Fields((("grpc-status", "0"),))

_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_LONGEST_S = 99_999_999 * 3600


def parse_timeout(text: str) -> float:
    """Seconds of a `grpc-timeout`.

    Raises:
        ValueError: it is not 1 to 8 digits and a unit of `HMSmun`.
    """
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise ValueError(f"malformed grpc-timeout: {text[:20]!r}")
    return int(match[1]) * _UNIT_S[match[2]]


def format_timeout(seconds: float) -> str:
    """A `grpc-timeout`, rounded up to three digits, so that header blocks repeat from call to call.
    It is never shorter than asked: whoever sends it ends the call at the exact time itself."""
    for unit, most in (("n", 1e-4), ("u", 1e-1), ("m", 1e3), ("S", 1e8)):
        if seconds < most:
            return f"{_three_digits(seconds / _UNIT_S[unit])}{unit}"
    return f"{_three_digits(min(seconds, _LONGEST_S) / 3600)}H"


def _three_digits(count: float) -> int:
    whole = max(0, ceil(count - 1e-6))
    step = 1
    while whole > 999 * step:
        step *= 10
    return min(-(-whole // step) * step, 99_999_999)


_TIMEOUTS: dict[int, Fields] = {}
"""By milliseconds, of which three digits are set: at most 4,000 of a few hundred bytes."""


def timeout_fields(seconds: float) -> Fields:
    """`format_timeout` as a field; the same object for the same text where it is milliseconds."""
    if not 0.1 <= seconds < 1000.0:
        return Fields((("grpc-timeout", format_timeout(seconds)),))
    # As in `format_timeout`, for the hot path: nearly every call comes here.
    step = 1 if seconds < 1.0 else 10 if seconds < 10.0 else 100 if seconds < 100.0 else 1000
    count = ceil((seconds * 1000 - 1e-6) / step) * step
    fields = _TIMEOUTS.get(count)
    if fields is None:
        fields = _TIMEOUTS[count] = Fields((("grpc-timeout", f"{count}m"),))
    return fields


_TO_ENCODE = re.compile(rb"[^\x20-\x24\x26-\x7e]|\A\x20|\x20\Z")


def encode_message(text: str) -> str:
    """`text` as a `grpc-message`: UTF-8, percent-encoded but for printable ASCII without `%`. A
    blank at either end is encoded too: HTTP/2 allows no field value that begins or ends so."""
    raw = text.encode("utf-8", "replace")
    return _TO_ENCODE.sub(lambda found: b"%%%02X" % found[0][0], raw).decode("ascii")


def decode_message(text: str) -> str:
    """The opposite, which never fails: what is no escape, or no UTF-8, stays readable."""
    if "%" not in text and text.isascii():
        return text
    return unquote_to_bytes(text.encode("latin-1", "replace")).decode("utf-8", "replace")


def status_fields(code: int, message: str = "", trailers: Pairs = ()) -> Fields:
    """The trailers that end a call. Values of `-bin` names are base64 text already."""
    if message:
        said = (("grpc-status", str(int(code))), ("grpc-message", encode_message(message)))
        return Fields((*said, *trailers))
    return Fields((("grpc-status", str(int(code))), *trailers))


_FROM_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


def code_of_http(status: int) -> Code:
    """The code of an answer that has none, from its HTTP status (http-grpc-status-mapping.md)."""
    return _FROM_HTTP.get(status, Code.UNKNOWN)
