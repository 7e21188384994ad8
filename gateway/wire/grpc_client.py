"""gRPC over HTTP/2, client side: unary calls, and what an answer's status is.

A status that the server gave (`grpc-status`) is an answer; that no such answer came is a WireError.
The two are never guessed from words.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.wire.exchange import Client, Data, ResponseHead, WireError
from gateway.wire.fields import Fields, Pairs
from gateway.wire.grpc_call import is_grpc
from gateway.wire.grpc_messages import GrpcAbort, Messages, frame, whole_message
from gateway.wire.grpc_text import CONTENT_TYPE, Code, code_of_http, decode_message
from gateway.wire.grpc_text import timeout_fields as timeout_fields
from gateway.wire.whole import whole

REQUEST: Final = Fields(
    (("te", "trailers"), ("content-type", CONTENT_TYPE), ("user-agent", "model-gateway"))
)
"""What every call begins with. No `grpc-accept-encoding`, so that servers do not compress."""


_DROPPED = "Cancelling all calls"


def is_dropped(code: int, details: str) -> bool:
    """Whether a status is what gRPC core's servers give to calls that they let go of when they are
    stopped before these are done (src/core/server/server.cc). It says as little of the request as
    a connection that broke."""
    return code == Code.UNAVAILABLE and details == _DROPPED


class Status(NamedTuple):
    """How a call ended, as the server says."""

    code: int
    details: str
    trailers: Pairs
    """The metadata beside the status."""


class GrpcAnswer(NamedTuple):
    """One whole answer of a unary call."""

    code: int
    details: str
    message: bytes
    """Empty where `code` is not OK."""
    trailers: Pairs


async def unary(
    client: Client,
    address: str,
    path: str,
    message: Data,
    *,
    metadata: Pairs = (),
    deadline_at: float | None = None,
    timeout_s: float | None = None,
    max_bytes: int = 4 << 20,
) -> GrpcAnswer:
    """Call a method. `deadline_at` is the loop's time at which the call is cancelled here;
    `timeout_s` is what the server is told of it.

    Raises:
        WireError: no answer came, or none of gRPC (`bad_answer`).
        TimeoutError: the deadline.
    """
    fields = [REQUEST]
    if timeout_s is not None:
        fields.append(timeout_fields(timeout_s))
    if metadata:
        fields.append(Fields(metadata))
    head, body, trailers = await whole(
        client, address, "POST", path, fields, frame(message),
        max_bytes=max_bytes + 5, deadline_at=deadline_at,
    )  # fmt: skip
    status = status_of(head, trailers)
    if status.code:
        return GrpcAnswer(status.code, status.details, b"", status.trailers)
    return GrpcAnswer(Code.OK, "", _message(head, body, max_bytes), status.trailers)


def _message(head: ResponseHead, body: bytes, max_bytes: int) -> bytes:
    """The one message of an answer that says OK."""
    message = whole_message(body, max_bytes)
    if message is not None:
        return message
    try:
        messages = Messages(max_bytes, head.get("grpc-encoding") or "identity")
        found = messages.feed(body)
    except GrpcAbort as error:
        raise WireError("bad_answer", error.details, sent=True) from error
    if len(found) != 1 or messages.is_partial:
        said = f"OK with {len(found)} messages" + (" and a part" if messages.is_partial else "")
        raise WireError("bad_answer", said, sent=True)
    return found[0]


def status_of(head: ResponseHead, trailers: Pairs) -> Status:
    """The status of an answer: in its trailers, or in its head where that is all there is. An
    answer of HTTP alone (of a proxy, say) has the code that gRPC gives to its HTTP status.

    Raises:
        WireError: `bad_answer`; there is no status.
    """
    if trailers:
        return _status(trailers) or _without_status(head)
    return _status(head.fields) or _without_status(head)


_NOT_METADATA = frozenset(
    ("grpc-status", "grpc-message", "content-type", "grpc-accept-encoding", "grpc-encoding", "date")
)

_CODE = re.compile(r"[0-9]{1,9}")
"""Python refuses to make a number of thousands of digits, and nobody means one."""


def _status(fields: Pairs) -> Status | None:
    code: int | None = None
    details = ""
    rest: list[tuple[str, str]] = []
    for pair in fields:
        name, value = pair
        if name not in _NOT_METADATA:
            rest.append(pair)
        elif name == "grpc-status":
            # A number that is none of gRPC's stays what it is; what is no number is UNKNOWN.
            code = int(value) if _CODE.fullmatch(value) else int(Code.UNKNOWN)
        elif name == "grpc-message":
            details = decode_message(value)
    return None if code is None else Status(code, details, tuple(rest))


def _without_status(head: ResponseHead) -> Status:
    if head.status != 200:
        return Status(code_of_http(head.status), f"HTTP status {head.status}", ())
    if not is_grpc(head.get("content-type")):
        said = f"content-type {head.get('content-type')!r} instead of gRPC"
    else:
        said = "the stream ended without a grpc-status"
    raise WireError("bad_answer", said, sent=True)
