"""Every way a request can fail, as one tree.

    GatewayError
    ├── InvalidRequest     the caller must change the request           400 INVALID_ARGUMENT
    │   └── FailedPrecondition   right in itself, and impossible now    400 FAILED_PRECONDITION
    ├── TooLarge           a body or message over the limit             413 RESOURCE_EXHAUSTED
    ├── Unauthorized       no, or wrong, credentials                    401 UNAUTHENTICATED
    ├── Forbidden          known caller, not allowed                    403 PERMISSION_DENIED
    ├── NotFound           no such model, version, label, replica       404 NOT_FOUND
    ├── Conflict           the state has moved on, or contradicts       409 ABORTED
    ├── Overloaded         refused at the door, nothing was sent        429 RESOURCE_EXHAUSTED
    ├── Unavailable        true for now; `retry_after_s` says how long  503 UNAVAILABLE
    ├── DeadlineExceeded   `reason` is the phase: connect, queue, call  504 DEADLINE_EXCEEDED
    ├── UpstreamFailed     a replica broke its connection or promise    502 UNAVAILABLE
    ├── Unimplemented      understood, and not offered                  501 UNIMPLEMENTED
    └── Internal           a bug of ours                                500 INTERNAL

Each error carries a stable `reason` slug for machines, whom it blames (`origin`) and whether it may
be tried again (`retry`). The words are for the person who has to act on them. One table at each
front (dataplane/rescue.py, control/) turns them into answers; nothing else does.
"""

from __future__ import annotations

from enum import StrEnum


class Origin(StrEnum):
    """Whose fault it is, seen from the gateway."""

    DOWNSTREAM = "downstream"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


class Retry(StrEnum):
    """What may be done about it."""

    NEVER = "never"
    IF_UNSENT = "if_unsent"
    SAFE = "safe"


class GatewayError(Exception):
    """Root of the tree. `reason` is a stable slug, `message` says what to do next."""

    origin = Origin.GATEWAY
    retry = Retry.NEVER

    def __init__(self, message: str, *, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, reason={self.reason!r})"


class InvalidRequest(GatewayError):
    """The caller must change the request."""

    origin = Origin.DOWNSTREAM


class FailedPrecondition(InvalidRequest):
    """Right in itself and impossible now: a label for a version that is not loaded. HTTP 400."""


class TooLarge(GatewayError):
    """A body or message over the configured limit."""

    origin = Origin.DOWNSTREAM


class Unauthorized(GatewayError):
    """No credentials, or wrong ones."""

    origin = Origin.DOWNSTREAM


class Forbidden(GatewayError):
    """A known caller that may not do this."""

    origin = Origin.DOWNSTREAM


class NotFound(GatewayError):
    """No such model, version, label or replica."""

    origin = Origin.DOWNSTREAM


class Conflict(GatewayError):
    """The request contradicts the state as it is now."""

    origin = Origin.DOWNSTREAM


class Overloaded(GatewayError):
    """Refused at the door; nothing was sent upstream."""

    retry = Retry.IF_UNSENT


class Unavailable(GatewayError):
    """Nothing can answer now; `retry_after_s` is the soonest that may change."""

    retry = Retry.SAFE


class DeadlineExceeded(GatewayError):
    """The deadline passed; `reason` names the phase (`connect`, `queue`, `call`)."""


class UpstreamFailed(GatewayError):
    """A replica refused the connection, reset it, or gave an answer that is none.

    `sent` tells whether any byte of the request may have reached it.
    """

    origin = Origin.UPSTREAM
    retry = Retry.SAFE

    def __init__(self, message: str, *, reason: str, sent: bool) -> None:
        super().__init__(message, reason=reason)
        self.sent = sent


class Unimplemented(GatewayError):
    """Understood, and not offered."""

    origin = Origin.DOWNSTREAM


class Internal(GatewayError):
    """A bug of ours."""
