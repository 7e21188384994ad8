"""The control API's one way from errors to answers, and its JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from gateway.codecs.tfs_errors import http_status
from gateway.control.schema import ErrorAnswer, ErrorDetail
from gateway.domain.errors import GatewayError, Internal, InvalidRequest, NotFound, TooLarge

_log = logging.getLogger(__name__)
BODY_LIMIT = web.AppKey("body_limit", int)
"""Bytes that a body may have, for the words of the refusal."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def error_answer(error: GatewayError, status: int | None = None) -> web.Response:
    """The answer for an error of ours."""
    made = answer(
        ErrorAnswer(ErrorDetail(error.reason, error.message)), status or http_status(error)
    )
    made.headers["x-gateway-reason"] = error.reason
    if error.retry_after_s is not None:
        made.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return made


@web.middleware
async def errors_answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into an answer; the rescue of this front."""
    try:
        return await handler(request)
    except GatewayError as error:
        if isinstance(error, Internal):
            _log.error("control.failed", exc_info=error, extra={"path": request.path})
        return error_answer(error)
    except web.HTTPRequestEntityTooLarge:
        limit = request.app[BODY_LIMIT]
        return error_answer(TooLarge(f"The body is larger than {limit} bytes.", reason="too_large"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        made = error_answer(
            InvalidRequest(
                f"{request.method} is not offered here; {request.path} takes {allowed}.",
                reason="method_not_allowed",
            ),
            405,
        )
        made.headers["Allow"] = allowed
        return made
    except web.HTTPNotFound:
        return error_answer(
            NotFound(
                f"There is nothing at {request.path[:200]}; /api/v1/openapi.json describes what "
                "there is.",
                reason="path_unknown",
            )
        )
    except web.HTTPException as error:
        return error_answer(InvalidRequest(error.reason, reason="bad_request"), error.status)
    except ConnectionError:
        raise  # the client is gone: there is nobody to answer
    except Exception as error:  # noqa: BLE001 - the rescue: a bug must not close the connection
        _log.error("control.failed", exc_info=error, extra={"path": request.path})
        bug = Internal(
            "The gateway failed at this; its log says how. Please report it.", reason="bug"
        )
        return error_answer(bug)
