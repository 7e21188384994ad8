"""Errors in the words and codes of the Open Inference Protocol's two families of servers.

Triton and KServe agree on the body, `{"error":"…"}`, and differ in words and a few codes; which one
a listener speaks is its flavour. The maps are Triton's HttpCodeFromError (src/http_server.cc) and
KServe's exception handlers (kserve/errors.py). What Triton has no code for keeps HTTP's own.
"""

from __future__ import annotations

import json
from enum import StrEnum

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
from gateway.domain.names import Version


class Flavour(StrEnum):
    """Whose habits a listener has where the protocol leaves them open."""

    TRITON = "triton"
    KSERVE = "kserve"


class MethodNotAllowed(InvalidRequest):
    """A path of the protocol with another verb: 405, unlike TensorFlow Serving's 400."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__("Method Not Allowed", reason="method_not_allowed")
        self.allowed = allowed
        """The verbs that the path has, for the `Allow` header that HTTP asks for."""


_ANSWERS: tuple[tuple[type[GatewayError], int, int], ...] = (
    (MethodNotAllowed, 405, 12),
    (FailedPrecondition, 400, 3),
    (InvalidRequest, 400, 3),
    (TooLarge, 413, 3),
    (Unauthorized, 401, 16),
    (Forbidden, 403, 7),
    (NotFound, 404, 5),
    (Conflict, 409, 6),
    (Overloaded, 503, 14),
    (Unavailable, 503, 14),
    (DeadlineExceeded, 504, 4),
    (UpstreamFailed, 502, 14),
    (Unimplemented, 501, 12),
    (Internal, 500, 13),
)
"""HTTP status and gRPC code of each class. A full queue is UNAVAILABLE, as Triton's `Exceeds
maximum queue size`, where TensorFlow Serving has RESOURCE_EXHAUSTED."""

_HTTP_OF_GRPC: dict[int, int] = {
    0: 200,
    1: 400,
    2: 400,
    3: 400,
    4: 504,
    5: 404,
    6: 400,
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
"""HTTP status for a replica's gRPC code: Triton's map, extended by what it never sends."""


def http_status(error: GatewayError) -> int:
    """The HTTP status of an error's class."""
    return next((http for kind, http, _ in _ANSWERS if isinstance(error, kind)), 500)


def grpc_code(error: GatewayError) -> int:
    """The gRPC status code number of an error's class."""
    return next((code for kind, _, code in _ANSWERS if isinstance(error, kind)), 13)


def http_of_grpc(code: int) -> int:
    """The HTTP status for what a replica answered over gRPC."""
    return _HTTP_OF_GRPC.get(code, 500)


def error_body(message: str) -> bytes:
    """`{"error":"<message>"}`, the one key that the protocol knows."""
    text = json.dumps({"error": message}, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", errors="replace")


# ---- a model that is not there --------------------------------------------------------------


def model_unknown(flavour: Flavour, name: str, version: Version | None = None) -> NotFound:
    """No such model, or no such version of it."""
    if flavour is Flavour.KSERVE:
        words = f"Model with name {name} does not exist."
    elif version is None:
        words = f"Request for unknown model: '{name}' is not found"
    else:
        words = f"Request for unknown model: '{name}' version {version} is not found"
    reason = "model_unknown" if version is None else "version_unknown"
    return NotFound(words, reason=reason)


def model_not_ready(
    flavour: Flavour,
    name: str,
    version: Version | None = None,
    *,
    reason: str = "version_loading",
    retry_after_s: float | None = None,
) -> Unavailable:
    """A known model or version that cannot answer now."""
    if flavour is Flavour.KSERVE:
        words = f"Model with name {name} is not ready."
    elif version is None:
        words = f"Request for unknown model: '{name}' has no available versions"
    else:
        words = f"Request for unknown model: '{name}' version {version} is not at ready state"
    return Unavailable(words, reason=reason, retry_after_s=retry_after_s)


_NOT_READY = frozenset({"version_loading", "version_failed", "no_selectable_replica"})


def reworded(
    flavour: Flavour, error: GatewayError, name: str, version: Version | None = None
) -> GatewayError:
    """An error of routing, which has TensorFlow Serving's words, in this protocol's. The reason
    and every other error stay as they are."""
    if isinstance(error, NotFound) and error.reason in ("model_unknown", "version_unknown"):
        asked = version if error.reason == "version_unknown" else None
        new: GatewayError = model_unknown(flavour, name, asked)
        new.reason = error.reason
    elif isinstance(error, Unavailable) and error.reason in _NOT_READY:
        new = model_not_ready(
            flavour, name, version, reason=error.reason, retry_after_s=error.retry_after_s
        )
    else:
        return error
    new.__cause__ = error
    return new
