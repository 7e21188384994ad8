"""Errors in TensorFlow Serving's two forms: gRPC code and message, HTTP status and JSON body.

The map from codes to HTTP statuses is the original's ToHTTPStatusCode (util/net_http and
model_servers/http_rest_api_util.cc); which class of ours has which code is drawn at the head of
domain/errors.py.
"""

from __future__ import annotations

import json

from gateway.domain.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Forbidden,
    GatewayError,
    Internal,
    InvalidRequest,
    NotFound,
    Overloaded,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unimplemented,
    UpstreamFailed,
)

GRPC_CODE_NAMES: tuple[str, ...] = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""Names of the codes 0 to 16, in order."""

HTTP_OF_GRPC: dict[int, int] = {
    0: 200,
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}
"""HTTP status for a gRPC code; a code that is not in here is 500."""

_ANSWERS: tuple[tuple[type[GatewayError], int, int], ...] = (
    (FailedPrecondition, 400, 9),
    (InvalidRequest, 400, 3),
    (TooLarge, 413, 8),
    (Unauthorized, 401, 16),
    (Forbidden, 403, 7),
    (NotFound, 404, 5),
    (Conflict, 409, 10),
    (Overloaded, 429, 8),
    (Unavailable, 503, 14),
    (DeadlineExceeded, 504, 4),
    (UpstreamFailed, 502, 14),
    (Unimplemented, 501, 12),
    (Internal, 500, 13),
)

_MESSAGE_CHARS = 1024
_TRUNCATED = "...TRUNCATED"


def http_status(error: GatewayError) -> int:
    """The HTTP status of an error's class."""
    return next((http for kind, http, _ in _ANSWERS if isinstance(error, kind)), 500)


def grpc_code(error: GatewayError) -> int:
    """The gRPC status code number of an error's class."""
    return next((code for kind, _, code in _ANSWERS if isinstance(error, kind)), 2)


def error_body(message: str) -> bytes:
    """`{ "error": "<message>" }`, the one key that the protocol knows."""
    # A lone surrogate cannot be written as UTF-8; it is shown as "?" rather than failing the error.
    text = json.dumps(message, ensure_ascii=False)
    return b'{ "error": ' + text.encode("utf-8", errors="replace") + b" }"


def truncate_message(message: str) -> str:
    """Keep a gRPC status message to 1024 characters plus `...TRUNCATED` (grpc_status_util.cc)."""
    if len(message) <= _MESSAGE_CHARS:
        return message
    return message[:_MESSAGE_CHARS] + _TRUNCATED
