"""What both protocols over HTTP share: what a head says, fields that go on and come back."""

from __future__ import annotations

from typing import Protocol

from gateway.codecs.oip_routes import OipCall
from gateway.codecs.orca import LOAD, LOAD_FORMAT, in_flight_of
from gateway.codecs.tfs_routes import RestCall
from gateway.core.admission import timeout_from_header
from gateway.core.ejection import HTTP_ERRORS
from gateway.core.queueing import PRIORITY, Priority, priority_of
from gateway.dataplane.callers import Transport
from gateway.dataplane.placing import Placed
from gateway.dataplane.replicas import AN_ERROR
from gateway.dataplane.rescue import HttpError
from gateway.dataplane.seen import SERVER_TIMING, VERSION, spent_in
from gateway.domain.errors import GatewayError
from gateway.domain.names import Version
from gateway.wire.exchange import RequestHead, ResponseHead
from gateway.wire.fields import Fields, Pairs

TIMEOUT = "x-request-timeout-ms"

_HOP_BY_HOP = (
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade", "content-length",
)  # fmt: skip
"""RFC 9110 section 7.6.1: meant for one connection. The length is written anew by each side."""

_NOT_FORWARDED = frozenset((*_HOP_BY_HOP, "host", "expect", TIMEOUT, LOAD_FORMAT))
"""What we answer or write anew ourselves, or do not pass back."""

_NOT_RETURNED = frozenset((*_HOP_BY_HOP, "date", "server", SERVER_TIMING, VERSION, LOAD))
"""What whoever answers the caller says, which is us. A replica's load is for us alone."""

_MAX_PATHS = 64


class Route:
    """What a head says of a request, worked out once for each distinct head: it depends on nothing
    else (`RequestHead.kept`)."""

    __slots__ = (
        "call", "error", "fields", "is_forwarded", "is_v2", "label", "method", "model", "paths",
        "placed", "priority", "takes_body", "timeout_s", "version",
    )  # fmt: skip

    def __init__(self, head: RequestHead, *, is_v2: bool) -> None:
        self.method = head.method
        self.is_v2 = is_v2
        self.call: RestCall | OipCall | None = None
        """None for what is answered without a look at the protocol."""
        self.error: GatewayError | None = None
        """What is wrong with it, whatever is deployed."""
        self.model = ""
        self.version: Version | None = None
        self.label: str | None = None
        self.is_forwarded = False
        """Whether a replica answers it."""
        self.takes_body = True
        """Whether its body, if it has one, goes on."""
        self.timeout_s: float | None = None
        self.priority = Priority.STANDARD
        self.fields = NO_FIELDS
        self.paths: dict[Version, str] = {}
        """Where a replica is asked for each version."""
        self.placed: Placed | None = None
        """Its side of a rollout, once one has asked for it."""

    def forward(self, head: RequestHead, *, takes_body: bool) -> None:
        """A replica answers it. Raises InvalidRequest (`bad_timeout`, `bad_priority`)."""
        self.is_forwarded = True
        self.takes_body = takes_body
        self.fields = forwarded(head)
        self.timeout_s = timeout_from_header(head.get(TIMEOUT))
        self.priority = priority_of(head.get(PRIORITY))

    def keep_path(self, version: Version, path: str) -> str:
        """Remember a path, within bounds."""
        if len(self.paths) >= _MAX_PATHS:
            self.paths.clear()
        self.paths[version] = path
        return path


class Rest(Protocol):
    """One of the protocols over HTTP."""

    protocol: str
    """As metrics name it."""
    transport: Transport

    def path(self, route: Route, version: Version) -> str:
        """Where a replica is asked for the same, with its version pinned."""
        ...

    def error(self, route: Route, error: GatewayError) -> HttpError:
        """An error as an answer."""
        ...


NO_FIELDS = Fields(())


def forwarded(head: RequestHead) -> Fields:
    """The caller's fields for the replica: none that belong to one connection only."""
    named = (head.get("connection") or "").lower()
    dropped = _NOT_FORWARDED
    if named not in ("", "keep-alive", "close"):
        dropped = dropped | {token.strip() for token in named.split(",")}
    return Fields([pair for pair in head.fields if pair[0] not in dropped])


class Returned(Fields):
    """The replica's fields for the caller, and what they say of it and of its time."""

    __slots__ = ("report", "spent")

    def __init__(self, status: int, pairs: Pairs) -> None:
        super().__init__([pair for pair in pairs if pair[0] not in _NOT_RETURNED])
        said = in_flight_of(next((value for name, value in pairs if name == LOAD), None))
        self.report = AN_ERROR if status in HTTP_ERRORS else said
        self.spent = spent_in(pairs)


def returned(head: ResponseHead) -> Returned:
    """The same object for the same head."""
    kept = head.kept
    if type(kept) is Returned:
        return kept
    made: Returned = Returned(head.status, head.fields)
    head.kept = made
    return made
