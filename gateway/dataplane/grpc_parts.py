"""What both gRPC services share: what goes on of a call, and how an answer ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from gateway.codecs.orca import LOAD, in_flight_of
from gateway.codecs.proto_feed import FieldFeed
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES
from gateway.core.ejection import GRPC_ERRORS
from gateway.core.queueing import PRIORITY, Priority, priority_of
from gateway.dataplane.callers import Transport
from gateway.dataplane.replicas import AN_ERROR, NO_REPORT
from gateway.dataplane.rescue import GrpcError, rescued
from gateway.dataplane.seen import (
    SERVER_TIMING,
    VERSION,
    Seen,
    Spent,
    Timing,
    spent_in,
    version_fields,
)
from gateway.domain.errors import GatewayError
from gateway.domain.names import Version
from gateway.ports import UpstreamAnswer
from gateway.wire.exchange import Data, ResponseHead
from gateway.wire.fields import Fields, Pairs
from gateway.wire.grpc import HEAD, Code, GrpcAbort, GrpcCall, GrpcHead, code_name, status_fields
from gateway.wire.grpc_client import is_dropped
from gateway.wire.grpc_text import code_of_http

CANCELLED = GRPC_CODE_NAMES[1]
"""What is counted when the caller leaves before the answer."""

_NOT_FORWARDED = frozenset(("user-agent", "te", "content-type", "host", "connection"))
_NOT_RETURNED = frozenset(
    ("content-type", "content-length", "date", "server", "grpc-accept-encoding")
)
_NOT_ENDING = frozenset((*_NOT_RETURNED, "grpc-encoding", VERSION, SERVER_TIMING, LOAD))
_MAX_ENDINGS = 1024
_KEPT_CHARS = 512
"""Longer endings are not remembered: they seldom repeat, and a replica may send what it likes."""
_STANDARD = Priority.STANDARD


class Asked(NamedTuple):
    """What the message of a call says of where it wants to go."""

    model: str
    version: Version | None = None
    label: str | None = None
    timeout_s: float | None = None
    """A deadline that the message sets, beside gRPC's own."""


class GrpcDialect(Protocol):
    """One of the protocols over gRPC; `method` is one of its methods that are passed on."""

    protocol: str
    """As metrics name it."""
    transport: Transport

    def scan(self, method: object, body: Data, at: int) -> Asked:
        """Of the message that begins at `at`. Raises InvalidRequest."""
        ...

    def feeding(self, method: object) -> FieldFeed:
        """Reads the same from a message that comes in pieces."""
        ...

    def read_fed(self, method: object, feed: FieldFeed) -> Asked:
        """What the feed has found. Raises InvalidRequest."""
        ...

    def pin(self, version: Version) -> bytes:
        """What is appended to a message to name its version."""
        ...

    def error(self, asked: Asked | None, error: GatewayError) -> GrpcError:
        """An error as an answer."""
        ...


class Reply(NamedTuple):
    """One answer that is made here, whatever it says."""

    code: int
    body: bytes = b""
    details: str = ""
    trailers: Pairs = ()

    @property
    def code_name(self) -> str:
        """`OK`, `NOT_FOUND`, …"""
        return code_name(self.code)

    def send(self, call: GrpcCall) -> bytes:
        """End a unary call with it. Raises GrpcAbort where it is an error."""
        if self.code:
            raise GrpcAbort(self.code, self.details, self.trailers)
        call.set_trailing_metadata(self.trailers)
        return self.body


def forwarded(head: GrpcHead) -> Fields:
    """The caller's metadata for the replica: none that belongs to one connection only. The same
    object for the same head."""
    kept = head.kept
    if type(kept) is _Forwarded:
        return kept
    made = _Forwarded(
        [
            pair
            for pair in head.metadata
            if pair[0] not in _NOT_FORWARDED and not pair[0].startswith("grpc-")
        ]
    )
    made.asked = dict(head.metadata).get(PRIORITY)
    head.kept = made
    return made


class _Forwarded(Fields):
    """With what was asked for by them, to be read once for each distinct head."""

    __slots__ = ("asked",)
    asked: str | None


def priority_asked(head: GrpcHead) -> Priority:
    """Raises InvalidRequest (`bad_priority`)."""
    kept = head.kept
    if type(kept) is not _Forwarded:
        forwarded(head)
        kept = head.kept
    asked = kept.asked
    return _STANDARD if asked is None else priority_of(asked)


def initial(head: ResponseHead) -> Fields:
    """The replica's initial metadata for the caller; the same object for the same head."""
    kept = head.kept
    if type(kept) is Fields:
        return kept
    rest = [pair for pair in head.fields if pair[0] not in _NOT_RETURNED]
    made: Fields = Fields((*HEAD.pairs, *rest)) if rest else HEAD
    head.kept = made
    return made


class Ending(NamedTuple):
    """How a replica's answer ended."""

    code: int
    fields: Fields
    """Its status and trailing metadata, for the caller."""
    is_whole: bool = True
    """Whether the message before it, if there is one, is an answer."""
    is_dropped: bool = False
    """Whether the server let go of the call because it is being stopped (see grpc_client)."""
    report: int = NO_REPORT
    """See DirectCaller.report_in."""
    spent: Spent | None = None
    """What the replica says of its own time."""


_endings: dict[Pairs, Ending] = {}


def ending(head: ResponseHead, trailers: Pairs) -> Ending:
    """The status of an answer: in its trailers, or in its head where that is all there is. An
    answer of HTTP alone (of a proxy, say) has the code that gRPC gives to its HTTP status."""
    pairs = trailers or head.fields
    found = _endings.get(pairs)
    if found is not None:
        return found
    code: int | None = None
    details = ""
    for name, value in pairs:
        if name == "grpc-status":
            # A number that is none of gRPC's stays what it is; what is no number is UNKNOWN.
            code = int(value) if value.isascii() and value.isdigit() else int(Code.UNKNOWN)
        elif name == "grpc-message":
            details = value
    if code is None:
        if head.status != 200:
            code, said = int(code_of_http(head.status)), f"HTTP status {head.status}"
        else:
            code, said = int(Code.INTERNAL), "The replica's answer ended without a grpc-status"
        report = AN_ERROR if code in GRPC_ERRORS else NO_REPORT
        return Ending(code, status_fields(code, said), is_whole=False, report=report)
    rest = [pair for pair in pairs if pair[0] not in _NOT_ENDING]
    report = AN_ERROR if code in GRPC_ERRORS else in_flight_of(dict(pairs).get(LOAD))
    dropped = is_dropped(code, details)
    made = Ending(code, Fields(rest), is_dropped=dropped, report=report, spent=spent_in(pairs))
    if sum([len(name) + len(value) for name, value in pairs]) <= _KEPT_CHARS:
        if len(_endings) >= _MAX_ENDINGS:
            _endings.clear()
        _endings[pairs] = made
    return made


def returnable(pairs: Pairs) -> Fields:
    """The trailing metadata of an answer that was made here, or read whole, for the caller."""
    return Fields([pair for pair in pairs if pair[0] not in _NOT_ENDING])


# ---- calls that are coroutines --------------------


def replied(answer: UpstreamAnswer, seen: Seen) -> Reply:
    """The replica's answer for the caller, with the version that gave it and where time went."""
    asked = seen.asked
    assert asked is not None  # it has asked for it
    trailers = (
        *returnable(answer.headers).pairs,
        *version_fields(asked.answered_by).pairs,
        *Timing(asked, seen.begun, spent_in(answer.headers)).pairs,
    )
    return Reply(answer.status, answer.body, answer.message, trailers)


async def handled(
    answering: Awaitable[Reply],
    seen: Seen,
    error_of: Callable[[GatewayError], GrpcError],
    call: GrpcCall,
) -> bytes:
    """Answer a unary call that is a coroutine, and count it.

    Raises:
        GrpcAbort: it is refused.
    """
    reply = await replying(answering, seen, error_of)
    return reply.send(call)


async def replying(
    answering: Awaitable[Reply], seen: Seen, error_of: Callable[[GatewayError], GrpcError]
) -> Reply:
    """Await an answer, whatever it says, and count it."""
    code, reason = CANCELLED, ""

    def refusal(error: GatewayError) -> Reply:
        nonlocal reason
        reason = error.reason
        said = error_of(error)
        timing = Timing(seen.asked, seen.begun).pairs
        return Reply(said.code, b"", said.details, (*said.trailers, *timing))

    try:
        reply = await rescued(answering, refusal)
        if not reply.trailers:  # no replica was asked
            reply = reply._replace(trailers=Timing(None, seen.begun).pairs)
        code = reply.code_name
    finally:
        seen.finish(code, reason)
    return reply
