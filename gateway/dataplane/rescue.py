"""The one place where errors become answers, in the dialect of the caller.

Classes map to HTTP statuses and gRPC codes in codecs.tfs_errors and codecs.oip_errors; the
machine-readable reason travels beside the body, in `x-gateway-reason`, never in it. What is not of
our tree is a bug: it is logged with its traceback, and the caller learns no more than that.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from gateway.codecs import oip_errors
from gateway.codecs.tfs_errors import error_body, grpc_code, http_status, truncate_message
from gateway.codecs.tfs_routes import NotFoundPath
from gateway.domain.errors import GatewayError, Internal
from gateway.telemetry.log import log

T = TypeVar("T")
C = TypeVar("C", bound="Crashable")
P = ParamSpec("P")

REASON = "x-gateway-reason"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class HttpError:
    """An error as an HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class GrpcError:
    """An error as a gRPC status."""

    code: int
    details: str
    trailers: tuple[tuple[str, str], ...]


class Crashable(Protocol):
    """What lives by callbacks and has an answer to give when one of them has a bug."""

    def crashed(self, error: Exception) -> None: ...


def guarded(step: Callable[Concatenate[C, P], None]) -> Callable[Concatenate[C, P], None]:
    """Make a callback that raises nothing: a bug in it becomes the answer of its request."""

    @wraps(step)
    def run(self: C, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            step(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - where a bug becomes an answer
            self.crashed(error)

    return run


def bug(error: Exception) -> Internal:
    """Log a bug of ours; what its caller is told."""
    log.bug("request.bug", error)
    return Internal(
        "The gateway failed on this request because of a bug of its own; its log tells where. "
        "Other requests are not affected.",
        reason="bug",
    )


async def rescued(answering: Awaitable[T], on_error: Callable[[GatewayError], T]) -> T:
    """Await an answer; whatever goes wrong becomes one through `on_error`. Cancellation passes."""
    try:
        return await answering
    except GatewayError as error:
        return on_error(error)
    except Exception as error:  # noqa: BLE001 - where a bug becomes an answer
        return on_error(bug(error))


def http_answer(error: GatewayError) -> HttpError:
    """Status, headers and `{ "error": "…" }`."""
    headers = _beside(error)
    if isinstance(error, NotFoundPath):
        return HttpError(404, headers, b"")
    headers["content-type"] = JSON
    return HttpError(http_status(error), headers, error_body(error.message))


def grpc_answer(error: GatewayError) -> GrpcError:
    """Code, message (cut as the original cuts it) and trailers."""
    trailers = tuple(_beside(error).items())
    return GrpcError(grpc_code(error), truncate_message(error.message), trailers)


def v2_http_answer(error: GatewayError) -> HttpError:
    """Status, headers and `{"error":"…"}`, as the Open Inference Protocol has them."""
    headers = _beside(error)
    if isinstance(error, oip_errors.MethodNotAllowed):
        headers["allow"] = ", ".join(error.allowed)
    headers["content-type"] = JSON
    status = oip_errors.http_status(error)
    return HttpError(status, headers, oip_errors.error_body(error.message))


def v2_grpc_answer(error: GatewayError) -> GrpcError:
    """Code, message and trailers, as the Open Inference Protocol has them."""
    trailers = tuple(_beside(error).items())
    return GrpcError(oip_errors.grpc_code(error), truncate_message(error.message), trailers)


def _beside(error: GatewayError) -> dict[str, str]:
    """What travels beside the words."""
    headers = {REASON: error.reason}
    if error.retry_after_s is not None:
        # RFC 9110: whole seconds. Rounded up, as too early is refused again.
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return headers
