"""Whether a request may come in at all, and until when it may take.

Refusing at the door costs a caller microseconds; accepting what cannot be served costs everybody.
"""

from __future__ import annotations

from gateway.domain.errors import DeadlineExceeded, InvalidRequest, Overloaded, TooLarge

MAX_TIMEOUT_S = 24 * 3600.0
"""Longer deadlines mean "none"; a day is beyond any prediction and far from numeric trouble."""


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Raises TooLarge (`too_large`) if a body is over the limit."""
    if size_bytes > limit_bytes:
        raise TooLarge(
            f"The request body is larger than {limit_bytes} bytes. Send fewer rows at a time, or "
            "raise --max-body on the gateway.",
            reason="too_large",
        )


def check_held(held_bytes: int, limit_bytes: int) -> None:
    """Raises Overloaded (`held_bytes`) if what requests hold in memory is over the limit."""
    if held_bytes > limit_bytes:
        raise Overloaded(
            "The requests under way fill the memory that is set aside for them. Try again later, "
            "or send fewer rows at a time.",
            reason="held_bytes",
            retry_after_s=1.0,
        )


def check_in_flight(model: str, in_flight: int, limit: int) -> None:
    """Raises Overloaded (`in_flight_limit`) if `in_flight` requests fill the model's limit."""
    if in_flight >= limit:
        raise Overloaded(
            f"Model {model} already has {in_flight} requests in flight, its limit here. Try again "
            "later, or add replicas and raise in_flight_limit.",
            reason="in_flight_limit",
            retry_after_s=1.0,
        )


def deadline(asked_s: float | None, default_s: float, started_at: float) -> float:
    """The monotonic time by which a request that began at `started_at` must be answered.

    Raises:
        DeadlineExceeded: the caller's own deadline has passed already (`queue`).
    """
    timeout_s = default_s if asked_s is None else asked_s
    if timeout_s <= 0:
        raise DeadlineExceeded("The deadline had passed when the request arrived", reason="queue")
    return started_at + min(timeout_s, MAX_TIMEOUT_S)


def timeout_from_header(value: str | None) -> float | None:
    """Seconds from `x-request-timeout-ms`; None where the caller sent none.

    Raises:
        InvalidRequest: it is no number of milliseconds (`bad_timeout`).
    """
    if value is None:
        return None
    text = value.strip()
    try:
        if len(text) > 20:
            raise ValueError(text)
        milliseconds = float(text)
    except ValueError:
        milliseconds = float("nan")
    if not 0 <= milliseconds < float("inf"):
        raise InvalidRequest(
            "x-request-timeout-ms must be a number of milliseconds, such as 500; "
            f"got {text[:40]!r}",
            reason="bad_timeout",
        )
    return milliseconds / 1000.0
