"""Turn a refusal that came over the wire back into the error that it was.

The statuses are those of the tree in domain/errors.py. A gateway also names its `reason`; where
none came (an answer of the model server itself, or of something that is no gateway) the reason is
the status in words.
"""

from __future__ import annotations

from gateway.domain import errors

_OF_HTTP: dict[int, type[errors.GatewayError]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.TooLarge,
    429: errors.Overloaded,
    499: errors.Unavailable,
    500: errors.Internal,
    501: errors.Unimplemented,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}

# By number, so that nobody has to import grpc to read this table (grpc/status.h).
_OF_GRPC: dict[int, tuple[type[errors.GatewayError], str]] = {
    1: (errors.Unavailable, "cancelled"),
    2: (errors.Internal, "unknown"),
    3: (errors.InvalidRequest, "invalid_argument"),
    4: (errors.DeadlineExceeded, "call"),
    5: (errors.NotFound, "not_found"),
    6: (errors.Conflict, "already_exists"),
    7: (errors.Forbidden, "permission_denied"),
    8: (errors.Overloaded, "resource_exhausted"),
    9: (errors.InvalidRequest, "failed_precondition"),
    10: (errors.Conflict, "aborted"),
    11: (errors.InvalidRequest, "out_of_range"),
    12: (errors.Unimplemented, "unimplemented"),
    13: (errors.Internal, "internal"),
    14: (errors.Unavailable, "unavailable"),
    15: (errors.Internal, "data_loss"),
    16: (errors.Unauthorized, "unauthenticated"),
}


def seconds(retry_after: str | None) -> float | None:
    """A Retry-After header as seconds; None where it is absent, or a date (nobody here sends)."""
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None


def from_http(
    status: int, message: str, *, reason: str = "", retry_after_s: float | None = None
) -> errors.GatewayError:
    """The error that an HTTP status of 400 or above stands for."""
    if status == 502:
        # The gateway had begun to send to a replica when it says 502.
        return errors.UpstreamFailed(message, reason=reason or "bad_gateway", sent=True)
    fallback = errors.InvalidRequest if status < 500 else errors.Internal
    kind = _OF_HTTP.get(status, fallback)
    return kind(message, reason=reason or f"http_{status}", retry_after_s=retry_after_s)


def from_grpc(code: int, message: str, *, reason: str = "") -> errors.GatewayError:
    """The error that a gRPC status other than OK stands for."""
    kind, slug = _OF_GRPC.get(code, (errors.Internal, f"grpc_{code}"))
    return kind(message or slug, reason=reason or slug)
